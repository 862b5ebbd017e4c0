"""The command in a process of its own, killed."""

import os
import signal
import subprocess

import pytest

from tests.conftest import ROOT, train_command, until
from tests.trainer.training.runs import assert_same_weights
from trainer.run import checkpoints


def command(shards_folder, folder, *more):
    return train_command(
        shards_folder,
        folder,
        "--config.train.steps=60",
        "--config.train.checkpoint_every_steps=7",
        "--config.train.validate_every_steps=30",
        "--config.model.dropout=0.3",
        *more,
    )


def lines_in(folder) -> int:
    path = folder / "metrics.jsonl"
    return len(path.read_bytes().splitlines()) if path.exists() else 0


@pytest.mark.long
def test_kill_9_and_sigterm_change_nothing(shards_folder, tmp_path, series):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    quiet = dict(cwd=ROOT, capture_output=True, text=True)
    done = subprocess.run(command(shards_folder, whole), **quiet)
    assert done.returncode == 0, done.stderr
    process = subprocess.Popen(command(shards_folder, killed), cwd=ROOT)
    until(process, lambda: lines_in(killed) >= 25)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process = subprocess.Popen(
        command(shards_folder, killed), cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    until(process, lambda: lines_in(killed) >= 40)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "SIGTERM signal: saved after step" in said.splitlines()[-1]
    stopped = int(said.split("saved after step ")[1].split(";")[0])
    assert stopped in checkpoints.complete_steps(str(killed / "checkpoints"))
    done = subprocess.run(command(shards_folder, killed), **quiet)
    assert done.returncode == 0 and f"going on after step {stopped}" in done.stdout
    assert series(killed) == series(whole)
    assert len(series(whole)) == 60
    assert_same_weights(whole, killed, 60)
    assert not list(killed.rglob(".unfinished*"))


@pytest.mark.slow
def test_ctrl_c_saves_and_exits_130(shards_folder, tmp_path):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        command(shards_folder, folder, "--config.train.steps=100000"),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(process, lambda: lines_in(folder) >= 3)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "run it again to go on" in said
    newest = checkpoints.newest_whole(str(folder / "checkpoints"))
    assert newest is not None and newest.step >= lines_in(folder)
