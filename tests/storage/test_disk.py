"""Disks that are full, read-only or closed, folders that go, clocks that step back."""

import json
import os
import pathlib
import shutil
import time

import numpy as np
import pytest
import tensorflow as tf

from campaigns import disk
from preprocess.beam import pipeline, shard_transforms
from tests.commands import PYTHON, TINY, lines_of, process, run
from trainer.devices import tensorflow_files
from trainer.evaluation import tune
from trainer.export import publish
from trainer.scores.frame import Segmented
from unet_tfrecords.command.errors import of_disk
from unet_tfrecords.storage import files


def campaign(*arguments) -> list[disk.Outcome]:
    """Cases of the campaign, in a process that has disks of its own."""
    if why_not := disk.why_not():
        pytest.skip(f"no disks of our own: {why_not}")
    done = process(PYTHON, "-m", "campaigns.disk", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return [disk.Outcome(*json.loads(line)) for line in done.stdout.splitlines()]


def check(outcomes: list[disk.Outcome], number: int) -> None:
    assert [outcome for outcome in outcomes if outcome.wrong] == []
    assert len(outcomes) >= number
    for outcome in outcomes:
        case = disk.Case(*outcome.case)
        if case.fault == "full" and outcome.code:
            assert "No space left on device; free some" in outcome.said[0]


@pytest.mark.long
def test_what_makes_and_reads_shards():
    """Draw, preprocess, preview and verify on four bad disks each."""
    commands = "draw", "preprocess", "preview", "verify"
    outcomes = campaign("--count=1", "--seed=5", "--commands", *commands)
    check(outcomes, 14)
    codes = {tuple(o.case[:2]): o.code for o in outcomes}
    assert codes["preprocess", "closed"] == codes["draw", "read-only"] == 2
    assert codes["verify", "read-only"] == codes["verify", "closed"] == 0


@pytest.mark.long
def test_what_trains_and_segments(trained, shards_folder, cells, tmp_path):
    """Train, export and predict on a disk that is full somewhere."""
    for name, folder in (("run", trained), ("data", shards_folder), ("cells", cells)):
        (tmp_path / name).symlink_to(folder)
    commands = "train", "export", "predict"
    given = "--count=1", "--seed=8", f"--made={tmp_path}", "--faults", "full"
    check(campaign(*given, "--commands", *commands), 3)


def test_what_tensorflow_says_of_a_disk_is_told_like_everybodys():
    where = "{{function_node __wrapped__SaveV2_device_/job:localhost}} "
    for said in ("", where):
        message = f"{said}/a b/state.index; No space left on device [Op:MergeV2]"
        error = tensorflow_files.disk_error(tf.errors.UnknownError(None, None, message))
        assert (error.filename, error.errno) == ("/a b/state.index", 28)
    other = tf.errors.InternalError(None, None, "/a/b; something else")
    assert tensorflow_files.disk_error(other) is None
    assert tensorflow_files.disk_error(OSError(28, "No space left on device")) is None


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("size", [4, 400])  # px: fits into a buffer, or does not
def test_scratch_files_on_a_full_disk(tmp_path, size):
    (tmp_path / "0.npy").symlink_to("/dev/full")
    image = np.zeros((size, size, 1), np.uint8)
    seen = Segmented("a", image, None, None, image.astype(np.float32))
    with pytest.raises(OSError) as caught:
        tune._on_disk(seen, str(tmp_path / "0.npy"))
    assert of_disk(caught.value).startswith(f"{tmp_path}/0.npy: No space left")


@pytest.mark.slow
def test_a_file_that_goes_between_plan_and_read(
    cells, source, tmp_path, monkeypatch, capfd
):
    prepare = pipeline.prepare

    def then_gone(*arguments):
        (source / "01/t003.tif").unlink(missing_ok=True)
        return prepare(*arguments)

    monkeypatch.setattr(pipeline, "prepare", then_gone)
    where = {"input": source, "output": tmp_path / "out"}
    assert run("preprocess", *TINY, **where) == 2
    [line] = lines_of(capfd, "preprocess")
    assert line.endswith("t003.tif: no such file")
    assert not (tmp_path / "out").exists()
    shutil.copy(cells / "01/t003.tif", source / "01")
    monkeypatch.setattr(pipeline, "prepare", prepare)
    assert run("preprocess", *TINY, **where) == 0


@pytest.mark.slow
def test_an_image_that_is_replaced_under_a_job(
    cells, source, shards_folder, tmp_path, monkeypatch, capfd, digests
):
    """After it was looked at and its digest taken, before its tiles are made."""
    output = tmp_path / "out"
    write_shard = shard_transforms.write_shard
    frames = [source / f"01/t00{number}.tif" for number in range(8)]

    def then_another(path, records):
        for frame, other in zip(frames, reversed(frames), strict=True):
            files.write_bytes(str(frame), (cells / "01" / other.name).read_bytes())
        return write_shard(path, records)

    monkeypatch.setattr(shard_transforms, "write_shard", then_another)
    where = {"input": source, "output": output}
    assert run("preprocess", *TINY, **where) == 2
    [line] = lines_of(capfd, "preprocess")
    assert line.endswith(".tif: has changed since this began; run it again")
    assert not (output / "dataset_info.json").exists()
    monkeypatch.setattr(shard_transforms, "write_shard", write_shard)
    for frame in frames:
        shutil.copyfile(cells / "01" / frame.name, frame)
    assert run("preprocess", *TINY, **where) == 0
    made, quiet = digests(output), digests(pathlib.Path(shards_folder))
    assert {n: d for n, d in made.items() if n.startswith("train")} == {
        n: d for n, d in quiet.items() if n.startswith("train")
    }


@pytest.mark.slow
def test_a_folder_that_goes_under_a_job(
    cells, shards_folder, tmp_path, monkeypatch, capfd, digests
):
    output, write_shard = tmp_path / "out", shard_transforms.write_shard
    gone = []

    def then_gone(path, records):
        written = write_shard(path, records)
        if not gone:
            gone.append(path)
            shutil.rmtree(output, ignore_errors=True)  # of what others write
        return written

    monkeypatch.setattr(shard_transforms, "write_shard", then_gone)
    where = {"input": cells, "output": output}
    code = run("preprocess", *TINY, **where)
    lines = capfd.readouterr().err.splitlines()
    said = [x for x in lines if x.startswith("preprocess: ")]
    assert (code, len(said)) == (2, 1) and "Traceback" not in "".join(lines)
    assert str(output) in said[0]
    assert not (output / "dataset_info.json").exists()
    assert run("preprocess", *TINY, **where) == 0
    assert digests(output) == digests(pathlib.Path(shards_folder))


def test_locks_and_stages_do_not_hang_on_the_clock(tmp_path):
    """A stage from the future is somebody's; a lock is held by whom it is held."""
    stage = tmp_path / f"model/{files.TEMPORARY}other"
    stage.mkdir(parents=True)
    future = time.time() + 7 * 86400
    os.utime(stage, (future, future))
    versions = []
    for step in (0, -3600, -7200):  # the clock at each export, seen in its files
        with publish.staging(str(tmp_path / "model")) as folder:
            pathlib.Path(folder, "saved_model.pb").touch()
            version = publish.publish(folder, str(tmp_path / "model"))
        then = time.time() + step
        os.utime(version, (then, then))
        versions.append(os.path.basename(version))
    assert versions == ["1", "2", "3"] and stage.exists()
