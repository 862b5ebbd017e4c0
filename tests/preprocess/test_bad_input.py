"""Frames and files of no use: a line each, all at once."""

import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.commands import lines_of
from tests.folders import lay, noise
from tests.preprocess.commands import changed, preprocess, read_tiles
from unet_tfrecords.dataset import dataset_info
from unet_tfrecords.dataset.verify import verify


@pytest.mark.slow
def test_copies_in_two_splits_are_refused(source, tmp_path, capfd):
    shutil.copy(source / "01/t000.tif", source / "01/t007.tif")
    assert preprocess(source, tmp_path / "out") == 2
    error = capfd.readouterr().err
    assert "t007.tif (test) is a copy of" in error and "t000.tif (train)" in error


def test_pages_of_a_stack_may_be_alike(tmp_path):
    """A video stands still for a moment; no page can be taken out."""
    pages = np.stack([noise(30, 30, i % 2) for i in range(6)])
    masks = np.stack([np.eye(30, dtype=np.uint8)] * 6)
    source = tmp_path / "in"
    for kind, stack in (("images", pages), ("masks", masks)):
        (source / kind).mkdir(parents=True)
        tifffile.imwrite(source / kind / "a.tif", stack, photometric="minisblack")
    assert preprocess(source, tmp_path / "out", config="folder.py:smoke") == 0


def test_copies_in_another_format_are_refused(tmp_path, capfd):
    images = {f"a{i}": (noise(30, 30, i), None) for i in range(6)}
    masks = {name: (None, np.eye(30, dtype=np.uint8)) for name in images}
    source = lay(lay(tmp_path / "in", images, "png"), masks, "png")
    Image.open(source / "images/a0.png").save(source / "images/a9.tif")
    shutil.copy(source / "masks/a0.png", source / "masks/a9.png")
    assert preprocess(source, tmp_path / "out", config="folder.py:smoke") == 2
    assert "a9.tif (test) is a copy of" in capfd.readouterr().err


def test_frames_without_any_foreground_are_refused(tmp_path, capfd):
    nothing = np.zeros((30, 30), np.uint8)
    source = lay(tmp_path / "in", {i: (noise(30, 30, i), nothing) for i in range(4)})
    assert preprocess(source, tmp_path / "out", config="folder.py:smoke") == 2
    assert "hold no two classes (only: 0)" in capfd.readouterr().err


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# What is done to which file, and what is said of it.
BROKEN = {
    "cut image": ("01/t003.tif", cut, "cannot be read"),
    "text for an image": (
        "01/t003.tif",
        lambda p: p.write_text("hi"),
        "cannot be read",
    ),
    "cut label": ("01_GT/SEG/man_seg003.tif", cut, "cannot be read"),
    "label of another shape": (
        "01_GT/SEG/man_seg003.tif",
        lambda p: changed(p, lambda label: label[:100]),
        "100 x 128",
    ),
    "missing image": ("01/t003.tif", lambda p: p.unlink(), "label without image"),
    "NaN": (
        "01/t003.tif",
        lambda p: changed(p, lambda image: np.where(image > 120, np.nan, image)),
        "NaN or infinite",
    ),
    "constant": (
        "01/t003.tif",
        lambda p: changed(p, lambda image: image * 0 + 7),
        "every pixel is 7",
    ),
    "colours": (
        "01/t003.tif",
        lambda p: changed(p, lambda image: np.dstack([image, image, 255 - image])),
        "3 channels where config.model.channels promises 1",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_broken_input_is_one_line_and_leaves_nothing(source, tmp_path, capfd, name):
    path, break_it, words = BROKEN[name]
    break_it(source / path)
    assert preprocess(source, tmp_path / "out") == 2
    [error] = lines_of(capfd, "preprocess")
    assert path in error and words in error
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.slow
def test_every_kind_of_bad_frame_is_listed_at_once(tmp_path, capfd):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (40, 40)).astype(np.uint8)
    mask = (np.arange(1600).reshape(40, 40) % 40 > 20).astype(np.uint8)
    frames = {f"good{i}": (image + np.uint8(i), mask) for i in range(8)}
    frames |= {
        "alone": (image, None),
        "lost": (None, mask),
        "constant": (image * 0, mask),
        "shape": (image, mask[:30]),
        "class": (image, mask * 7),
        "rgb": (np.dstack([image, image, 255 - image]), mask),
        "cut": (image, mask),
    }
    source = lay(tmp_path / "in", frames, "png")
    cut(source / "images/cut.png")
    expected = {
        "images/alone.png": "image without mask",
        "masks/lost.png": "mask without image",
        "images/constant.png": "every pixel is 0",
        "masks/shape.png": "30 x 40",
        "masks/class.png": "class 7",
        "images/rgb.png": "3 channels",
        "images/cut.png": "cannot be read",
    }
    named = dict(config="folder.py:smoke")
    given = source, tmp_path / "out", "--config.data.labels=class"
    assert preprocess(*given, **named) == 2
    lines = lines_of(capfd, "preprocess")
    assert len(lines) == len(expected)
    for path, words in expected.items():
        assert [line for line in lines if path in line and words in line], path
    assert preprocess(*given, "--on_bad_frame=skip", **named) == 0
    info = dataset_info.read_info(str(tmp_path / "out"))
    reasons = [reason for left in info.skipped for reason in left.reasons]
    assert len(reasons) == len(expected)
    for path, words in expected.items():
        assert [reason for reason in reasons if path in reason and words in reason]
    assert verify(str(tmp_path / "out")) > 0


@pytest.mark.slow
def test_images_without_labels_are_counted(source, tmp_path, capsys):
    for number in (2, 5):
        (source / f"01_GT/SEG/man_seg{number:03d}.tif").unlink()
    assert preprocess(source, tmp_path / "out") == 0
    assert "2 images without labels left out" in capsys.readouterr().out
    assert dataset_info.read_info(str(tmp_path / "out")).unlabelled_images == 2


@pytest.mark.slow
def test_bad_frames_are_skipped_when_asked_and_recorded(source, tmp_path, capfd):
    (source / "01/t001.tif").write_text("hello")
    (source / "01/t006.tif").unlink()
    folders = source, tmp_path / "out"
    assert preprocess(*folders) == 2
    assert preprocess(*folders, "--on_bad_frame=skip") == 0
    info = dataset_info.read_info(str(tmp_path / "out"))
    broken, missing = (reason for left in info.skipped for reason in left.reasons)
    assert broken.startswith("01/t001.tif: cannot be read")
    assert missing.startswith("01_GT/SEG/man_seg006.tif: label without image")
    error = capfd.readouterr().err
    assert f"skipped: {broken}" in error and f"skipped: {missing}" in error
    keys = [source.frame for source in info.sources]
    assert [key.split("/")[-1] for key in sorted(keys)] == [
        f"t{i:03d}" for i in (0, 2, 3, 4, 5, 7)
    ]
    tiles = [t.key for s in info.splits for t in read_tiles(tmp_path / "out", info, s)]
    assert not [key for key in tiles if "t001" in key or "t006" in key]
    assert verify(str(tmp_path / "out")) == len(tiles)
    assert preprocess(*folders, "--on_bad_frame=skip") == 0  # nothing to do
    assert "complete already" in capfd.readouterr().out


def test_all_broken_frames_are_listed_at_once(source, tmp_path, capfd):
    for name in ("t001", "t004", "t006"):
        (source / f"01/{name}.tif").write_text("hello")
    assert preprocess(source, tmp_path / "out") == 2
    error = capfd.readouterr().err
    assert all(
        f"{name}.tif: cannot be read" in error for name in ("t001", "t004", "t006")
    )
    assert "Traceback" not in error


def test_too_few_frames_and_stray_files_are_told_together(tmp_path, capfd):
    image = np.arange(1600).reshape(40, 40).astype(np.uint8)
    frames = {str(i): (image + np.uint8(i), None) for i in range(3)}
    source = lay(tmp_path / "in", frames | {"4": (image, image // 200)}, "png")
    assert preprocess(source, tmp_path / "out", config="folder.py:smoke") == 2
    error = capfd.readouterr().err
    assert "none to train on" in error and error.count("image without mask") == 3
