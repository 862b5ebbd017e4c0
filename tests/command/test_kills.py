"""Killed at moments that once did harm, and run again: see robustness/campaign."""

import os
import pathlib
import signal
import subprocess

import pytest

from campaigns import kills
from campaigns.commands import Inputs, Preprocess
from campaigns.kills import Shot
from preprocess.beam.progress import ENDING
from tests.commands import PYTHON, TINY, module, process, run, started
from tests.conftest import until
from trainer.run import checkpoints
from unet_tfrecords.command import signals
from unet_tfrecords.storage import files

KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT


def stop(writer: subprocess.Popen) -> None:
    """As kill -9."""
    writer.kill()
    if not writer.stdout.closed:
        writer.communicate()


def preprocess_trials(cells, folder) -> kills.Trials:
    return kills.Trials(Preprocess(), Inputs(str(cells), "", "", ""), folder)


@pytest.mark.slow
def test_preprocess_killed_and_run_again(cells, tmp_path):
    """While OpenCV is at work in threads; while it is set up; in its last files."""
    own = preprocess_trials(cells, tmp_path)
    last = own.quiet.changes
    shots = [Shot(INT, 49, 0.0), Shot(TERM, 14, 0.0), Shot(KILL, last - 9, 0.0)]
    assert not own.trial("killed", shots)


@pytest.mark.slow
def test_a_campaign_sees_what_is_broken(cells, tmp_path):
    """Files written under their final names from the start: half a shard is seen."""
    own = preprocess_trials(cells, tmp_path)
    place = own.place("broken")
    shard = place / "out/train-00000-of-00002.tfrecord"
    shard.parent.mkdir()
    shard.write_bytes((own.folder / "quiet/out" / shard.name).read_bytes()[:-9])
    (place / "out/.unfinished-x").touch()
    assert own._looked(place, {}) == [f"{shard.name} is not the quiet run's"]
    lost = own._looked(place, {str(shard): 1})
    assert f"finished and gone: {shard}" in lost
    lost = own._compared(place)
    assert len(lost) == 9 and "left over: .unfinished-x" in lost[-1]


IMPORTING = """
import os, runpy, signal, sys
def hook(event, arguments):
    if event == "import" and arguments[0] == "absl":
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(hook)
sys.argv = ["", "train"]
runpy.run_module(sys.orig_argv[-1], run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("name", ["preprocess.main", "trainer.main"])
def test_ctrl_c_while_it_is_imported_says_nothing(name):
    done = process(PYTHON, "-c", IMPORTING, name)
    assert (done.stdout, done.stderr) == ("", "")
    assert done.returncode == -signal.SIGINT


@pytest.mark.parametrize(
    "number, code, said",
    [
        (TERM, 143, "terminated"),
        (INT, 130, "interrupted"),
        (signal.SIGHUP, 129, "its terminal has gone"),
    ],
)
def test_a_signal_is_one_line_and_leaves_nothing(number, code, said, tmp_path):
    text = f"""
import os, signal, sys
from unet_tfrecords.command import cli
from unet_tfrecords.storage import files

def run(values, rest):
    with files.open_atomic({str(tmp_path / "file")!r}):
        os.kill(os.getpid(), {int(number)})
        signal.pause()

sys.exit(cli.main(cli.Command("wait", "", (), run)))
"""
    done = process(PYTHON, "-c", text, timeout=60)
    assert done.returncode == code
    assert done.stderr.split("\n") == ["", f"wait: {said}; run it again to go on", ""]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [TERM, INT, signal.SIGHUP])
def test_while_a_library_is_loaded_a_signal_ends_it_without_a_word(number):
    text = f"""
import os, sys
from unet_tfrecords.command import cli, signals

def run(values, rest):
    with signals.deaf():
        pass
    with signals.deaf():
        os.kill(os.getpid(), {int(number)})

sys.exit(cli.main(cli.Command("wait", "", (), run)))
"""
    done = process(PYTHON, "-c", text, timeout=60)
    assert (done.stdout, done.stderr) == ("", "")
    assert done.returncode == -number


def test_a_handler_of_ones_own_stays():
    handler = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        mine = signal.getsignal(signal.SIGTERM)
        signals.hear_signals()
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, handler)


WRITING = """
import sys, time
from unet_tfrecords.storage import files
with files.open_atomic(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print(flush=True)
    time.sleep(600)
"""

STAGING = """
import sys, time
from trainer.export import publish
with publish.staging(sys.argv[1]) as stage:
    print(flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("code", [WRITING, STAGING])
def test_what_a_killed_writer_left_goes_and_a_living_ones_stays(code, tmp_path):
    inside = tmp_path / "file" if code == WRITING else tmp_path
    writers = [started(PYTHON, "-c", code, inside) for _ in range(2)]
    try:
        for writer in writers:
            writer.stdout.readline()
        assert len(os.listdir(tmp_path)) == 2
        files.remove_unfinished(str(tmp_path))
        assert len(os.listdir(tmp_path)) == 2
        stop(writers[0])
        files.remove_unfinished(str(tmp_path))
        [left] = os.listdir(tmp_path)
        assert left.startswith(files.TEMPORARY)
        stop(writers[1])
        files.remove_unfinished(str(tmp_path))
        assert os.listdir(tmp_path) == []
    finally:
        for writer in writers:
            stop(writer)


def test_a_writer_that_has_not_locked_its_file_yet_begins_again(tmp_path, monkeypatch):
    """Another clears up between the making of its file and the lock on it."""
    lock = files.lock

    def lock_late(file):
        monkeypatch.setattr(files, "lock", lock)
        files.remove_unfinished(str(tmp_path))
        assert os.listdir(tmp_path) == []
        return lock(file)

    monkeypatch.setattr(files, "lock", lock_late)
    files.write_bytes(str(tmp_path / "a"), b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"


def left_by_a_kill(folder: pathlib.Path, name: str) -> pathlib.Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{files.TEMPORARY}0123abcd-{name}"
    path.write_bytes(b"half")
    return path


@pytest.mark.slow
def test_temporaries_of_counts_go(cells, tmp_path):
    left = left_by_a_kill(tmp_path / "out", f"{files.TEMPORARY}all-tiles{ENDING}")
    assert run("preprocess", *TINY, input=cells, output=tmp_path / "out") == 0
    assert not left.exists() and len(os.listdir(tmp_path / "out")) == 7


@pytest.mark.slow
def test_temporaries_of_a_run_and_a_cache_go(cells, shards_folder, tmp_path):
    """In the work directory by train and by evaluate, in the cache by train."""
    folder, cache = tmp_path / "run", tmp_path / "cache"
    left = [
        left_by_a_kill(folder, "config.json"),
        left_by_a_kill(cache, f"{'0' * 64}.tfrecord"),
    ]
    where = {"data": shards_folder, "workdir": folder, "cache": cache}
    assert run("train", *TINY, **where) == 0
    assert not any(path.exists() for path in left)
    left = [left_by_a_kill(folder, "evaluation-test.json")]
    assert run("evaluate", workdir=folder, input=cells) == 0
    assert not left[0].exists()


def cross_validation(cells, folder) -> subprocess.Popen:
    """Its process, while its child trains for long."""
    given = *TINY, "--folds=3", "--notune", "--config.train.steps=100000"
    command = module("cross_validate", *given, input=cells, workdir=folder)
    parent = started(*command, start_new_session=True)
    until(parent, (folder / "fold-0/train/metrics.jsonl").exists)
    return parent


@pytest.mark.long
@pytest.mark.parametrize("number, code", [(KILL, -KILL), (INT, 130)])
def test_a_cross_validation_leaves_no_child(number, code, cells, tmp_path):
    """Even where the signal comes to the parent alone; the child saves its step."""
    parent = cross_validation(cells, tmp_path)
    assert len(kills.session(parent.pid)) == 2
    parent.send_signal(number)
    _, said = parent.communicate(timeout=60)
    assert parent.returncode == code and "Traceback" not in said
    assert kills.wait_for_session(parent.pid) < 20
    saved = tmp_path / "fold-0/train/checkpoints"
    assert checkpoints.complete_steps(str(saved))
    if number != KILL:
        assert said.splitlines()[-1].startswith("cross_validate: ")
