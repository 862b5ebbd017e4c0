"""docs/frame.md counts what is done to one frame on its way; these hold the counts."""

import collections
import pathlib
import tracemalloc

import cv2
import numpy as np
import pytest

from tests.commands import TINY, run
from trainer.export import artefact_layout
from trainer.predict import outputs, runtimes
from unet_tfrecords.dataset import dataset_info
from unet_tfrecords.dataset.images import formats
from unet_tfrecords.dataset.pictures import overlay
from unet_tfrecords.storage import files


@pytest.fixture
def calls(monkeypatch):
    """Counts calls of a function by what it is called with, as `named` says."""

    def count(module, name, named=lambda *_: "all"):
        found: collections.Counter[str] = collections.Counter()
        function = getattr(module, name)

        def counted(*arguments, **more):
            found[named(*arguments)] += 1
            return function(*arguments, **more)

        monkeypatch.setattr(module, name, counted)
        return found

    return count


@pytest.mark.slow
def test_preprocess_reads_warps_and_encodes_no_more_than_it_must(
    cells, tmp_path, calls
):
    decoded = calls(formats, "decode", lambda page: pathlib.Path(page.path).name)
    digested = calls(files, "sha256_of", lambda path: pathlib.Path(path).name)
    warped, encoded = calls(cv2, "remap"), calls(cv2, "imencode")
    where = {"input": cells, "output": tmp_path / "out"}
    assert run("preprocess", *TINY, "--direct_running_mode=in_memory", **where) == 0
    info = dataset_info.read_info(f"{tmp_path}/out")
    splits = {source.frame: source.split for source in info.sources}
    assert len(splits) == 8
    for index, (_, split) in enumerate(sorted(splits.items())):
        # Once to look at, once for each shard that it lies in.
        times = 1 + (2 if split == "train" else 1)
        assert decoded[f"t{index:03d}.tif"] == times
        # And once more for the table of what was found, of 20 masks at most.
        assert decoded[f"man_seg{index:03d}.tif"] == times + 1
    assert {digested[f"t{index:03d}.tif"] for index in range(8)} == {1}
    augmented = sum(split == "train" for split in splits.values())
    assert warped["all"] == augmented * 3  # image, instances, classes
    tiles = sum(content.num_tiles for content in info.splits.values())
    assert encoded["all"] == tiles * 2  # label and weight; the image is raw


@pytest.fixture
def version(models) -> str:
    return str(models / "2")


def test_predict_reads_each_image_once_and_writes_two_files(
    version, cells, tmp_path, calls
):
    decoded = calls(formats, "decode", lambda page: page.path)
    encoded, segmented = calls(cv2, "imencode"), calls(outputs, "result_of")
    where = {"input": cells / "01", "output": tmp_path / "out"}
    assert run("predict", model=version, **where) == 0
    assert len(decoded) == 8 and set(decoded.values()) == {1}
    assert segmented["all"] == 8 and encoded["all"] == 16  # masks and overlays


def bytes_a_pixel(work, pixels: int) -> float:
    """The most that NumPy had at a time, beyond what was there."""
    work()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / pixels
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "runtime, most",
    [
        ("tensorflow", 1.5),  # the image as it is; the result is TensorFlow's
        ("onnx", 15),  # the image and two probabilities in float32, and a tile
    ],
)
def test_segmenting_copies_no_whole_image_that_it_needs_not(version, runtime, most):
    image = np.random.default_rng(0).integers(0, 256, (2000, 1500, 1), np.uint8)
    about = artefact_layout.read_about(version)
    assert about["classes"] == 2
    [loaded] = runtimes.load(version, runtime=runtime)
    assert bytes_a_pixel(lambda: loaded.segment(image), 3_000_000) < most


def test_a_picture_to_look_at_needs_no_floats():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 4096, (1500, 1000, 1), np.uint16)
    instances = np.kron(rng.integers(0, 9, (15, 10), np.int32), np.ones((100, 100)))
    instances = instances.astype(np.int32)
    classes = (instances > 0).astype(np.uint8)
    spent = bytes_a_pixel(lambda: overlay(image, classes, instances), instances.size)
    assert spent < 18  # 15 now, 55 once


def test_overlays_are_the_formula(random_cells):
    """Stretch, tint and outline, pixel by pixel in Python."""
    rng = np.random.default_rng(1)
    instances = random_cells(1, (40, 30), 6)
    classes = (instances > 0).astype(np.uint8)
    for channels, dtype in ((1, np.uint8), (3, np.uint16)):
        top = np.iinfo(dtype).max
        image = rng.integers(0, top, (40, 30, channels)).astype(dtype)
        found = overlay(image, classes, instances)
        low, high = np.percentile(image, (0.5, 99.5))
        colours = [(230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167)]
        colours.append((213, 94, 0))
        for row, column in np.ndindex(40, 30):
            around = instances[max(0, row - 1) : row + 2, max(0, column - 1) :]
            around = around[:, : 2 + (column > 0)]
            for channel in range(3):
                value = float(image[row, column, channel % channels])
                grey = int(min(255.0, max(0.0, (value - low) / (high - low) * 255)))
                number = instances[row, column]
                tint = colours[(number - 1) % 5][channel]
                if number and (around != number).any():
                    grey = tint
                elif number:
                    grey = int(grey * 0.7 + tint * 0.3)
                assert found[row, column, channel] == grey
