"""Checkpoints written in a thread; what a run settles for itself and keeps."""

import errno
import json
import threading

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.training.runs import ONE
from trainer.run import checkpoints
from trainer.training import batch_size, loop
from trainer.training.saver import Saver
from trainer.training.session import settle, train
from trainer.training.step import State
from unet_tfrecords.command.errors import UserError

TWO = ["/cpu:0", "/cpu:1"]


@pytest.fixture
def settled(train_config):
    batch_size.settle(train_config.train, replicas=1, fitting=1)
    return train_config


@pytest.fixture
def saver(settled, tmp_path):
    def make():
        return State(settled, "float32")

    return Saver(make(), str(tmp_path / "saved"), keep=2, make=make)


def progress(best=None):
    return {"best_step": best}


def restored(settled, folder, step) -> State:
    state = State(settled, "float32")
    status = checkpoints.restore(state.checkpoint(), folder, step)
    status.assert_consumed()
    return state


@pytest.mark.parametrize("replicas", (1, 2))
def test_what_is_saved_is_the_state_at_that_moment(
    settled, tmp_path, monkeypatch, replicas
):
    """Steps that are made while it is being written change nothing of it."""
    devices = tf.distribute.MirroredStrategy(TWO) if replicas == 2 else ONE
    settled.train.update({"optimizer": "adam", "ema": 0.9})
    with devices.scope():
        state = State(settled, "float32")
    going_on = threading.Event()
    real = checkpoints.save

    def slow(*arguments):
        assert going_on.wait(20)
        real(*arguments)

    monkeypatch.setattr(checkpoints, "save", slow)
    folder = str(tmp_path / "saved")
    saver = Saver(state, folder, keep=2, make=lambda: State(settled, "float32"))
    before = [v.numpy().copy() for v in state.variables_saved()]
    assert len(before) > 100
    saver.save(7, progress())
    for variable in state.variables_saved():  # as the next steps do
        variable.assign(variable + tf.ones_like(variable))
    assert not checkpoints.complete_steps(folder)
    going_on.set()
    saver.wait()
    found = restored(settled, folder, 7).variables_saved()
    for value, expected in zip(found, before, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_the_next_save_tells_what_went_wrong_with_this_one(saver, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device", "checkpoints/state")

    def fail(*_):
        raise full

    monkeypatch.setattr(checkpoints, "save", fail)
    saver.save(1, progress())
    with pytest.raises(OSError, match="No space left"):
        saver.save(2, progress())
    with pytest.raises(OSError, match="No space left"), saver:
        saver.save(3, progress())
    saver.wait()  # it was told once


def test_the_state_after_a_failed_save_is_saved_all_the_same(
    saver, monkeypatch, tmp_path
):
    """As when SIGTERM comes: what is there may be the last."""
    real, tried = checkpoints.save, []

    def fail_first(*arguments):
        tried.append(arguments[2])
        if len(tried) == 1:
            raise OSError(errno.ENOSPC, "No space left on device", "x")
        real(*arguments)

    monkeypatch.setattr(checkpoints, "save", fail_first)
    with pytest.raises(OSError, match="No space left"), saver:
        saver.save(1, progress())
        saver.save(2, progress())
    assert checkpoints.complete_steps(str(tmp_path / "saved")) == [2]


def test_why_training_ended_is_not_hidden_by_a_failed_save(saver, monkeypatch, capfd):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "x")

    monkeypatch.setattr(checkpoints, "save", fail)
    with pytest.raises(UserError, match="the loss is nan"), saver:
        saver.save(1, progress())
        raise UserError("the loss is nan")
    assert "not saved: " in capfd.readouterr().err


def test_a_second_ctrl_c_does_not_wait_for_a_slow_bucket(saver, monkeypatch):
    stuck = threading.Event()
    monkeypatch.setattr(checkpoints, "save", lambda *_: stuck.wait(60))
    with pytest.raises(KeyboardInterrupt), saver:
        saver.save(1, progress())
        raise KeyboardInterrupt
    assert saver.thread.is_alive() and saver.thread.daemon
    stuck.set()


def test_a_failed_save_is_told_when_it_has_ended(saver, monkeypatch):
    """Not only at the next one, which may be ten minutes later."""

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "x")

    monkeypatch.setattr(checkpoints, "save", fail)
    saver.check()  # nothing was saved yet
    saver.save(1, progress())
    saver.thread.join()
    with pytest.raises(OSError, match="No space left"):
        saver.check()


def test_the_newest_and_the_best_stay(saver, tmp_path):
    for step in (1, 2, 3, 4):
        saver.save(step, progress(best=1))
    saver.note_progress(4, progress(best=3))
    saver.wait()
    assert checkpoints.complete_steps(str(tmp_path / "saved")) == [3, 4]
    about = checkpoints.read_about(str(tmp_path / "saved"), 4)
    assert about.progress == progress(best=3)


def test_validations_are_about_twenty_whatever_the_length(train_config):
    train = train_config.train
    train.validate_every_steps = 0
    for steps, period in ((40_000, 2000), (1800, 90), (19, 1), (1, 1)):
        train.steps = steps
        assert loop.validation_period(train) == period
    train.validate_every_steps = 7
    assert loop.validation_period(train) == 7


@pytest.mark.slow
def test_a_resumed_run_keeps_the_batch_it_settled(
    shards_folder, train_config, tmp_path
):
    """On one device four tiles; on two it would be eight, and goes on with four."""
    train_config.train.update(
        {"global_batch": 0, "tiles_per_replica": 4, "steps": 6}
        | {"checkpoint_every_steps": 3, "validate_every_steps": 0}
    )
    begun = train_config.copy_and_resolve_references()
    begun.train.steps = 1
    train(begun, shards_folder, str(tmp_path / "begun"), ONE)
    assert begun.train.global_batch == 4
    saved = json.loads((tmp_path / "begun/config.json").read_text())["train"]
    assert (saved["global_batch"], saved["learning_rate_rule"]) == (4, "sqrt")
    two = tf.distribute.MirroredStrategy(TWO)
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "config.json").write_text(json.dumps({"train": {"global_batch": 3}}))
    with pytest.raises(UserError, match="3 tiles a step, which 2 replicas can't share"):
        settle(train_config.copy_and_resolve_references(), str(odd), two)
    settle(train_config, str(tmp_path / "begun"), two)
    assert train_config.train.global_batch == 4
