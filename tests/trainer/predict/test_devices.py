"""Images shared by devices, stages side by side."""

import os
import time

import pytest
import tensorflow as tf

from tests.commands import module, process
from trainer.predict.job import threads_for
from trainer.predict.ordered_map import ordered_map


@pytest.mark.slow
def test_several_devices_share_the_images(model, images, predict, tmp_path):
    """In a process of its own, where the processor can still be split."""
    where = {"model": model, "input": images, "output": tmp_path / "two"}
    done = process(*module("predict", **where, devices=2))
    assert done.returncode == 0, done.stderr
    assert predict(images) == 0
    for index in range(8):
        name = f"t{index:03d}_mask.png"
        two, one = (tmp_path / folder / name for folder in ("two", "out"))
        assert two.read_bytes() == one.read_bytes()


@pytest.mark.slow
def test_a_model_per_device_computes_there(model, images):
    """Two logical processors of this process: constants and results lie on each."""
    from trainer.predict.runtimes import TensorFlowRuntime

    for index in (0, 1):
        runtime = TensorFlowRuntime(str(model / "1"), device=f"/cpu:{index}")
        with tf.device(f"/cpu:{index}"):
            batch = tf.zeros([1, 30, 30, 1])
            result = runtime.function(image=batch)["classes"]
        assert result.device.endswith(f"CPU:{index}")


@pytest.mark.parametrize(
    "devices, cores, threads", [(1, 2, 5), (1, 64, 5), (8, 64, 40), (8, 4, 28)]
)
def test_each_device_has_images_ahead_and_writers(monkeypatch, devices, cores, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert threads_for(devices) == threads


def test_ordered_map_keeps_the_order_and_bounds_what_is_in_memory():
    taken, given = [0], []

    def items():
        for item in range(200):
            taken[0] += 1
            yield item

    def function(item):
        time.sleep(0.002 if item % 3 else 0)
        if item == 50:
            raise ValueError(item)
        return 2 * item

    for item, outcome in ordered_map(function, items(), threads=3, window=4):
        given.append(item)
        assert taken[0] - len(given) < 4
        assert isinstance(outcome, ValueError) if item == 50 else outcome == 2 * item
    assert given == list(range(200))


def test_ordered_map_starts_nothing_more_when_its_caller_stops():
    started = []
    running = ordered_map(started.append, range(1000), threads=3, window=3)
    next(running)
    running.close()
    assert len(started) <= 4
