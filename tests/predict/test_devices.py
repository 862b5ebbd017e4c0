"""Images shared by devices, stages side by side."""

import os
import subprocess
import sys
import time

import pytest
import tensorflow as tf

from trainer.predict.workers import Pipeline


@pytest.mark.slow
def test_several_devices_share_the_images(model, images, predict, tmp_path):
    """In a process of its own, where the processor can still be split."""
    command = [sys.executable, "-m", "trainer.main", "predict", "--devices=2"]
    given = f"--model={model}", f"--input={images}", f"--output={tmp_path}/two"
    done = subprocess.run([*command, *given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert predict(images) == 0
    for index in range(8):
        name = f"t{index:03d}_mask.png"
        assert (tmp_path / "two" / name).read_bytes() == (
            tmp_path / "out" / name
        ).read_bytes()


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
    "workers, cores, writers", [(1, 2, 2), (1, 64, 2), (8, 64, 16), (8, 4, 4)]
)
def test_each_device_has_writers_of_its_own(monkeypatch, workers, cores, writers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    nothing = dict.fromkeys(("read", "write"), print)
    pipeline = Pipeline([], workers=[print] * workers, **nothing)
    assert pipeline.writers == writers


def test_the_pipeline_shares_items_and_bounds_what_waits():
    import threading

    reading, most, lock = [0], [0], threading.Lock()
    done = {0: [], 1: []}

    def read(item):
        with lock:
            reading[0] += 1
            most[0] = max(most[0], reading[0])
        return item * 2

    def worker(number):
        def work(content):
            time.sleep(0.002 * (1 + 4 * number))
            done[number].append(content)
            return content + 1

        return work

    def write(item, content, result):
        with lock:
            reading[0] -= 1
        assert (content, result) == (2 * item, 2 * item + 1)
        if item == 50:
            raise ValueError(item)

    pipeline = Pipeline(
        range(200), read=read, workers=[worker(0), worker(1)], write=write
    )
    ended = dict(pipeline.run())
    assert sorted(ended) == list(range(200))
    assert [item for item, error in ended.items() if error] == [50]
    assert len(done[0]) > len(done[1]) > 0 and len(done[0]) + len(done[1]) == 200
    assert most[0] <= 2 * 3 + 2


def test_the_pipeline_stops_where_nobody_listens():
    read = []
    pipeline = Pipeline(
        range(1000),
        read=lambda item: read.append(item),
        workers=[lambda content: time.sleep(0.001)],
        write=lambda *_: None,
    )
    running = pipeline.run()
    next(running)
    running.close()
    assert len(read) < 20
