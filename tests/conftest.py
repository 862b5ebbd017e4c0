"""What tests share. TensorFlow's set-up comes first: it can't be changed later."""

import gc
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import time
import warnings

os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import numpy as np
import pytest

from preprocess import draw
from tests.commands import TINY, run
from trainer.devices.startup import starting
from unet_tfrecords.dataset import dataset_info, tfds_files
from unet_tfrecords.storage import json_files

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

# In the background, and under nohup, these are ignored, by the processes of tests too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_configure(config):
    """Sets up the process that runs tests."""
    if config.getoption("numprocesses", None):
        return  # this one only hands tests out
    with starting():
        import tensorflow as tf
    gc.set_threshold(20_000)  # graphs are many objects and little garbage

    # Two logical devices on one processor: enough for MirroredStrategy.
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 2,
    )


def pytest_collection_modifyitems(items):
    """Files of slow tests first, so that no process waits for a long one at the end."""
    files = {item.path: [0, 0] for item in items}
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        files[item.path][bool(marks & {"slow", "long"})] += 1
    share = {path: slow / (quick + slow) for path, (quick, slow) in files.items()}
    items.sort(key=lambda item: -share[item.path])  # of equal ones the order stays


def edit(path: pathlib.Path, change) -> None:
    """Changes the JSON in a file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def until(process, condition, seconds: float = 120):
    """Waits for a process to get somewhere; it must not end before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder of real images, from UNET_TEST_DATA; skips where there is none."""
    folder = os.environ.get("UNET_TEST_DATA")
    if not folder:
        pytest.skip("UNET_TEST_DATA names no folder of real images")
    path = pathlib.Path(folder).resolve()
    assert (path / "isbi2012").is_dir(), f"{path} holds no isbi2012"
    return path


@pytest.fixture(scope="session")
def cells(tmp_path_factory) -> pathlib.Path:
    """A drawn video of 8 frames of 128 px in the Cell Tracking Challenge's layout."""
    folder = tmp_path_factory.mktemp("drawn") / "cells"
    draw.write_cells(str(folder), size=128, num_frames=8, seed=3)
    return folder


@pytest.fixture
def source(cells, tmp_path) -> pathlib.Path:
    """A copy of the drawn cells, to change."""
    return pathlib.Path(shutil.copytree(cells, tmp_path / "in"))


@pytest.fixture(scope="session")
def em(tmp_path_factory) -> pathlib.Path:
    """A drawn stack of 6 slices of 96 px in ISBI 2012's layout."""
    folder = tmp_path_factory.mktemp("drawn") / "em"
    draw.write_em(str(folder), size=96, num_frames=6, seed=3)
    return folder


@pytest.fixture
def config():
    """A whole config so small that everything takes moments."""
    from configs import synthetic as drawn

    small = drawn.get_config("smoke")
    small.data.tile_size = 60  # px in, 20 out at depth 2
    small.data.augmentations = 2
    small.model.depth = 2
    small.train.steps = 4
    return small


@pytest.fixture(scope="session")
def shards_folder(cells, tmp_path_factory) -> str:
    """Shards of drawn cells: 490 training tiles of 60 px in two shards."""
    folder = tmp_path_factory.mktemp("shards") / "data"
    assert run("preprocess", *TINY, input=cells, output=folder) == 0
    return str(folder)


@pytest.fixture(scope="session")
def trained(shards_folder, tmp_path_factory) -> pathlib.Path:
    """The work directory of a short training on `shards_folder`, validated."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    more = "--config.train.steps=4", "--config.train.validate_every_steps=2"
    assert run("train", *TINY, *more, data=shards_folder, workdir=folder) == 0
    return folder


@pytest.fixture
def train_config(config):
    """20 steps of 4 tiles, something due every few."""
    config.train.learning_rate = 1e-2
    config.train.schedule = "constant"
    config.train.optimizer = "sgd"
    config.train.momentum = 0.9
    config.train.global_batch = 4
    config.train.steps = 20
    config.train.log_every_steps = 1
    config.train.validate_every_steps = 10
    config.train.checkpoint_every_steps = 5
    config.train.steps_per_call = 3
    return config


@pytest.fixture(scope="session")
def metrics():
    """Reads the lines of a work directory's metrics.jsonl."""

    def of(folder: pathlib.Path) -> list[dict]:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    return of


@pytest.fixture(scope="session")
def series(metrics):
    """What must be the same of two runs: all but the speed.

    A validation's cross-entropy to 7 digits: on a busy machine TensorFlow gave single
    pixels of a whole frame another last bit (1e-9 of the sum), now and then.
    """

    def of(folder):
        lines = metrics(folder)
        for line in lines:
            del line["images_per_s"]
            if line.get("val_cross_entropy") is not None:
                line["val_cross_entropy"] = round(line["val_cross_entropy"], 7)
        return lines

    return of


@pytest.fixture(scope="session")
def digests():
    """The sha256 of every file of a data set, without when and where it was made."""

    def of(folder: pathlib.Path) -> dict[str, str]:
        found = {}
        for path in sorted(filter(pathlib.Path.is_file, folder.rglob("*"))):
            content = path.read_bytes()
            if path == folder / dataset_info.INFO_NAME:
                info = json.loads(content)
                del info["times"]
                content = json_files.as_json(info)
            if path.parent.name == tfds_files.FOLDER:
                content = re.sub(rb'"filepathTemplate": "[^"]*/', b"", content)
            found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
        return found

    return of


@pytest.fixture(scope="session")
def random_cells():
    """Draws touching discs with scattered identities: (seed, shape, count) to int32."""

    def discs(seed, shape=(150, 130), count=14):
        rng = np.random.default_rng(seed)
        instances = np.zeros(shape, np.int32)
        rows, columns = np.mgrid[: shape[0], : shape[1]]
        for identity in rng.permutation(60)[:count] + 1:
            y, x, r = *rng.uniform((0, 0), shape), rng.uniform(5, 18)
            disc = np.hypot(rows - y, columns - x) < r
            instances[disc & (instances == 0)] = identity
        return instances

    return discs


@pytest.fixture(scope="module")
def collected():
    """Drops connections that clients of buckets leave, before another file's tests."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def front(collected, tmp_path):
    """An empty bucket of Google's on loopback."""
    from tests.cloud import stores

    with stores.google(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    """Chromium, where there is one."""
    if not CHROMIUM:
        pytest.skip("no Chromium here (apt install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        yield started
        started.close()


@pytest.fixture(scope="session")
def models(trained, tmp_path_factory) -> pathlib.Path:
    """Version 1 with its weights as variables, 2 with constants and as ONNX."""
    from campaigns import samples

    folder = tmp_path_factory.mktemp("models") / "model"
    samples.make_models(trained, folder)
    return folder
