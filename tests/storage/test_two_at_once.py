"""Two commands on the same folders at once: refused in a line, or right."""

import errno
import fcntl
import json
import os
import shutil
import signal
import threading

import pytest
import tensorflow as tf

from tests.commands import TINY, lines_of, module, run, started
from tests.conftest import until
from trainer.evaluation.evaluate_run import read_measured
from trainer.network.unet import build_model
from trainer.run import checkpoints, workdir
from trainer.run.restore import restore_network
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset import dataset_info
from unet_tfrecords.storage import files, locks


def test_a_lock_says_who_holds_it(tmp_path):
    (tmp_path / "kept").touch()
    with locks.exclusive(str(tmp_path)):
        with pytest.raises(UserError) as caught, locks.exclusive(str(tmp_path)):
            pass
        with pytest.raises(UserError), locks.exclusive(str(tmp_path)):
            pass  # the refused one took nothing of it away
    assert f"(process {os.getpid()} on {os.uname().nodename} since 20" in str(
        caught.value
    )
    assert os.listdir(tmp_path) == ["kept"]


def test_a_lock_leaves_a_folder_that_was_there(tmp_path):
    there, made = tmp_path / "there", tmp_path / "made"
    there.mkdir()
    for folder in (there, made):
        with locks.exclusive(str(folder)):
            assert os.listdir(folder) == [files.LOCK_NAME]
    assert os.listdir(tmp_path) == ["there"] and not os.listdir(there)


def test_a_disk_without_locks_is_as_good(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with locks.exclusive(str(tmp_path)):
        files.write_bytes(str(tmp_path / "a"), b"a")
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_that_goes_before_its_lock_is_there_is_made_again(
    tmp_path, monkeypatch
):
    """A holder that ends removes the folder that it had made."""
    folder, open_lock = tmp_path / "f", locks._open_lock

    def too_late(path):
        monkeypatch.setattr(locks, "_open_lock", open_lock)
        folder.rmdir()
        return open_lock(path)

    monkeypatch.setattr(locks, "_open_lock", too_late)
    with locks.exclusive(str(folder)):
        assert os.listdir(folder) == [files.LOCK_NAME]


def test_a_pipe_in_a_files_place_is_no_wait(tmp_path):
    os.mkfifo(tmp_path / "dataset_info.json")
    with pytest.raises(UserError, match="a pipe or device, not a file"):
        dataset_info.read_info(str(tmp_path))


@pytest.mark.slow
def test_what_is_read_is_not_made_anew(cells, shards_folder, tmp_path, capfd, digests):
    data = tmp_path / "data"
    shutil.copytree(shards_folder, data)
    given = [*TINY, f"--input={cells}", f"--output={data}"]
    before = digests(data)
    with locks.reading(str(data)), locks.reading(str(data)):
        assert run("preprocess", *given) == 0  # which changes nothing there
        assert run("preprocess", *given, "--overwrite") == 2
        assert "is being read, by a training perhaps" in capfd.readouterr().err
        assert digests(data) == before
        (data / "train-00000-of-00002.tfrecord").write_bytes(b"damaged")
        assert run("preprocess", *given) == 2
        assert (data / "dataset_info.json").exists()
    with locks.unread(str(data)):
        assert run("verify", data=data) == 2
        assert "is being made again" in capfd.readouterr().err
    assert run("preprocess", *given) == 0
    assert digests(data) == before


def test_reading_takes_no_right_to_write_and_no_folder(tmp_path):
    with locks.reading(str(tmp_path / "none")), locks.reading("gs://b/data"):
        pass
    with locks.reading(str(tmp_path)):
        assert os.listdir(tmp_path) == []


@pytest.mark.long
def test_a_second_training_and_readers_beside_a_training(
    shards_folder, cells, trained, series, tmp_path, capfd
):
    data, run_folder = tmp_path / "data", tmp_path / "run"
    shutil.copytree(shards_folder, data)
    more = "--config.train.steps=4", "--config.train.validate_every_steps=2"
    every_step = "--config.train.checkpoint_every_steps=1"
    given = [*TINY, *more, every_step, f"--data={data}", f"--workdir={run_folder}"]
    first = started(*module("train", *given))
    try:
        until(
            first, lambda: checkpoints.complete_steps(str(run_folder / "checkpoints"))
        )
        os.kill(first.pid, signal.SIGSTOP)  # however long the others take
        assert run("train", *given) == 2
        [line] = lines_of(capfd, "train")
        assert f"another job is writing there (process {first.pid} on " in line
        assert run("preprocess", *TINY, "--overwrite", input=cells, output=data) == 2
        assert "is being read" in capfd.readouterr().err
        assert run("evaluate", workdir=run_folder, input=cells) == 0
        assert "damaged" not in capfd.readouterr().err
        os.kill(first.pid, signal.SIGCONT)
        _, said = first.communicate(timeout=200)
        assert first.returncode == 0, said
    finally:
        first.kill()
    assert series(run_folder) == series(trained)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["best", "newest"])
@pytest.mark.parametrize("moment", ["restore", "read_about", "_read_values"])
def test_a_checkpoint_that_goes_while_it_is_chosen(
    trained, tmp_path, monkeypatch, which, moment, capfd
):
    """A training that goes on saves at the worst moment, with one checkpoint kept."""
    shutil.copytree(trained, tmp_path / "run")
    folder = str(tmp_path / "run/checkpoints")
    config = workdir.read_config(str(trained))
    saved = tf.train.Checkpoint(averaged=build_model(config.model, seed=1))
    goes_on, steps = getattr(checkpoints, moment), iter((9, 10, 11))

    def after_a_save(*arguments):
        monkeypatch.setattr(checkpoints, moment, goes_on)
        if step := next(steps, None):
            checkpoints.save(saved, folder, step, {"best_step": step})
            checkpoints.prune(folder, 1, step)
            monkeypatch.setattr(checkpoints, moment, after_a_save)
        return goes_on(*arguments)

    monkeypatch.setattr(checkpoints, moment, after_a_save)
    _, step = restore_network(str(tmp_path / "run"), config, which)
    assert step == 11
    assert "damaged" not in capfd.readouterr().err


@pytest.mark.slow
def test_two_evaluations_leave_the_files_of_one(trained, cells, tmp_path, monkeypatch):
    """Their pictures, sums and scores belong together, whoever is last."""
    from trainer.evaluation import evaluate_run

    folder = str(tmp_path / "run")
    shutil.copytree(trained, folder)
    write_bytes = files.write_bytes
    met = threading.Barrier(2, timeout=20)

    def meeting(path, content):
        """The other one, if it may, writes between two files of this one."""
        if path.endswith("-frames.jsonl"):
            try:
                met.wait(0.5)
            except threading.BrokenBarrierError:
                met.reset()
        write_bytes(path, content)

    monkeypatch.setattr(evaluate_run.files, "write_bytes", meeting)
    given = f"--workdir={folder}", f"--input={cells}"
    plain, turned = (
        threading.Thread(target=run, args=("evaluate", *given, *more))
        for more in ([], ["--tta"])
    )
    plain.start(), turned.start()
    plain.join(), turned.join()
    result = json.loads((tmp_path / "run/evaluation-test.json").read_text())
    of_both = evaluate_run.summary(read_measured(folder, "test"))
    assert of_both["scores"] == result["scores"]
