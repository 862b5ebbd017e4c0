"""A job that was stopped, or is typed again."""

import shutil

import pytest

from tests.commands import PYTHON, process, started, typed
from tests.folders import flip
from tests.preprocess.commands import DRAWN, SMALL, changed, preprocess
from unet_tfrecords.dataset import dataset_info, tfds_files
from unet_tfrecords.dataset.verify import verify


def test_rerun_of_a_finished_job_does_nothing(cells, made, capsys):
    before = {path: path.stat().st_mtime_ns for path in made.iterdir()}
    assert preprocess(cells, made) == 0
    assert "complete already" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in made.iterdir()}


def test_another_config_into_the_same_folder_is_refused(cells, made, capsys, digests):
    before = digests(made)
    assert preprocess(cells, made, "--config.data.border_sigma_px=3.0") == 2
    error = capsys.readouterr().err
    assert "config.data.border_sigma_px: 5.0 there, 3.0 here" in error
    assert digests(made) == before


@pytest.mark.slow
def test_changed_sources_are_refused_and_overwrite_starts_afresh(
    source, tmp_path, capsys
):
    output = tmp_path / "out"
    assert preprocess(source, output) == 0
    changed(source / "01/t002.tif", lambda image: 255 - image)
    assert preprocess(source, output) == 2
    assert "01/t002.tif: changed since" in capsys.readouterr().err
    assert preprocess(source, output, "--overwrite") == 0
    assert preprocess(source, output) == 0


@pytest.mark.slow
def test_unfinished_job_keeps_whole_shards_and_remakes_damaged_ones(
    cells, made, tmp_path, config, digests
):
    """As after a kill: some shards finished, one of them damaged since."""
    first = digests(made)
    # Sidecars are made by a real run that stops before the end.
    stopped = tmp_path / "stopped"
    stop_before_the_end(cells, stopped)
    assert not (stopped / dataset_info.INFO_NAME).exists()
    (stopped / ".unfinished-0123abcd-train-00000-of-00002.tfrecord").write_text("half")
    flip(stopped / "train-00001-of-00002.tfrecord", 1000)
    kept = stopped / "train-00000-of-00002.tfrecord"
    before = kept.stat().st_mtime_ns
    assert preprocess(cells, stopped) == 0
    assert digests(stopped) == first
    assert kept.stat().st_mtime_ns == before


@pytest.mark.slow
def test_missing_and_damaged_shards_are_made_again(
    cells, made, tmp_path, capsys, digests
):
    shutil.copytree(made, tmp_path / "out [1]")
    folder = tmp_path / "out [1]"
    (folder / "train-00000-of-00002.tfrecord").unlink()
    test = folder / "test-00000-of-00002.tfrecord"
    test.write_bytes(test.read_bytes()[:-100])
    kept = folder / "train-00001-of-00002.tfrecord"
    before = kept.stat().st_mtime_ns
    assert preprocess(cells, folder) == 0
    said = capsys.readouterr().out
    assert "train-00000-of-00002.tfrecord" in said and test.name in said
    assert digests(folder) == digests(made)
    assert kept.stat().st_mtime_ns == before


@pytest.mark.slow
def test_two_jobs_at_once_are_refused(cells, made, tmp_path, capfd, digests):
    output = tmp_path / "out"
    code = (
        "import sys, time\n"
        "from unet_tfrecords.storage import locks\n"
        "with locks.exclusive(sys.argv[1]):\n"
        "    print('locked', flush=True)\n"
        "    time.sleep(60)"
    )
    first = started(PYTHON, "-c", code, output)
    try:
        assert first.stdout.readline() == "locked\n"
        assert preprocess(cells, output, "--overwrite") == 2
        assert "another job is writing there" in capfd.readouterr().err
    finally:
        first.kill()
        first.communicate()
    assert preprocess(cells, output) == 0  # a killed job locks nothing
    assert digests(output) == digests(made)


@pytest.mark.slow
def test_overwrite_clears_everything_ours(cells, made, tmp_path):
    shutil.copytree(made, tmp_path / "out [1]")
    (tmp_path / "out [1]/notes.txt").write_text("mine")
    more = "--overwrite", "--config.data.num_shards=1"
    assert preprocess(cells, tmp_path / "out [1]", *more) == 0
    names = {path.name for path in (tmp_path / "out [1]").iterdir()}
    splits = {f"{s}-00000-of-00001.tfrecord" for s in ("train", "validation", "test")}
    assert names == splits | {"notes.txt", dataset_info.INFO_NAME, tfds_files.FOLDER}


def stop_before_the_end(source, output, *more):
    """A run that ends, as by kill -9, when all shards lie there."""
    code = (
        "import os, preprocess.beam.pipeline as job\n"
        "job.write_info = lambda *a, **k: os._exit(9)\n"
        "import sys; from preprocess.main import run; run()"
    )
    given = typed(DRAWN, *SMALL, *more, input=source, output=output)
    assert process(PYTHON, "-c", code, *given).returncode == 9


@pytest.mark.slow
def test_bad_input_in_between_does_not_open_the_folder_to_another_config(
    source, tmp_path, capfd
):
    output = tmp_path / "out"
    stop_before_the_end(source, output)
    whole = (source / "01/t001.tif").read_bytes()
    (source / "01/t001.tif").write_text("broken")
    assert preprocess(source, output) == 2
    (source / "01/t001.tif").write_bytes(whole)
    capfd.readouterr()
    assert preprocess(source, output, "--config.seed=9") == 2
    assert "config.seed: 1 there, 9 here" in capfd.readouterr().err
    assert preprocess(source, output) == 0
    assert verify(str(output)) > 0


@pytest.mark.slow
def test_no_shard_of_an_older_plan_is_left(source, tmp_path):
    output = tmp_path / "out"
    stop_before_the_end(source, output, "--config.data.num_shards=16")
    for name in ("01/t000.tif", "01_GT/SEG/man_seg000.tif"):
        (source / name).unlink()
    assert preprocess(source, output, "--config.data.num_shards=16") == 0
    assert verify(str(output)) > 0
