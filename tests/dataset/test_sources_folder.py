"""Images and masks in a folder: of every kind, read right or refused by name."""

import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from configs import folder
from tests.dataset.layouts import frames_of, problems, truth_of
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images import layouts
from unet_tfrecords.dataset.images.formats import read_image, read_labels
from unet_tfrecords.dataset.images.pages import Page
from unet_tfrecords.dataset.records import UNLABELLED


def make_folder(path, images, masks):
    for kind, content in (("images", images), ("masks", masks)):
        (path / kind).mkdir(parents=True)
        for name, pixels in content.items():
            if name.endswith(".tif"):
                tifffile.imwrite(path / kind / name, pixels, photometric="minisblack")
            else:
                cv2.imwrite(str(path / kind / name), pixels)


RNG = np.random.default_rng(0)


GREY8 = RNG.integers(0, 255, (40, 50)).astype(np.uint8)


GREY16 = RNG.integers(0, 65535, (40, 50)).astype(np.uint16)


SQUARES = np.zeros((40, 50), np.uint8)
SQUARES[5:15, 5:15], SQUARES[20:30, 20:40] = 1, 2


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_folder_of_binary_masks(tmp_path, name):
    make_folder(
        tmp_path, {name: GREY8}, {"a.png": (SQUARES > 0).astype(np.uint8) * 255}
    )
    data, [frame] = frames_of(folder, tmp_path, labels="binary")
    image, truth = layouts.check_frame(frame, data, channels=1, classes=2)
    assert image.shape == (40, 50, 1)
    if not name.endswith("jpg"):
        np.testing.assert_array_equal(image[..., 0], GREY8)
    np.testing.assert_array_equal(truth.classes, SQUARES > 0)
    assert truth.instances.max() == 2


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_folder_of_class_masks_in_16_bit(tmp_path, name):
    mask = SQUARES.astype(np.uint16)
    mask[0] = UNLABELLED
    make_folder(tmp_path, {name: GREY16}, {name: mask})
    data, [frame] = frames_of(folder, tmp_path, labels="class")
    image, truth = layouts.check_frame(frame, data, channels=1, classes=3)
    np.testing.assert_array_equal(image[..., 0], GREY16)
    np.testing.assert_array_equal(truth.classes, mask)
    line = problems(layouts.check_frame, frame, data, channels=1, classes=2)
    assert "class 2" in line and "config.model.classes" in line


def test_folder_of_instance_masks_keeps_touching_cells_apart(tmp_path):
    instances = np.zeros((40, 50), np.uint16)
    instances[5:15, 5:15], instances[5:15, 15:25] = 300, 60000
    make_folder(tmp_path, {"a.tif": GREY8}, {"a.tif": instances})
    data, [frame] = frames_of(folder, tmp_path, labels="instance")
    truth = truth_of(data, frame)
    assert set(np.unique(truth.instances)) == {0, 300, 60000}
    assert truth.classes.max() == 1


def test_palette_masks_keep_their_indices(tmp_path):
    make_folder(tmp_path, {"a.png": GREY8}, {})
    picture = Image.new("P", SQUARES.shape[::-1])
    picture.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 200])
    picture.putdata(SQUARES.ravel().tolist())
    picture.save(tmp_path / "masks/a.png")
    np.testing.assert_array_equal(
        read_labels(Page(str(tmp_path / "masks/a.png"))), SQUARES
    )


def test_jpeg_masks(tmp_path):
    """Compression changes values: binary masks are halved, others refused."""
    disc = np.hypot(*(np.mgrid[:64, :64] - 32)) < 20
    make_folder(tmp_path, {"a.jpg": np.tile(GREY8[:16, :16], (4, 4))}, {})
    path = str(tmp_path / "masks/a.jpg")
    cv2.imwrite(path, disc.astype(np.uint8) * 255, [cv2.IMWRITE_JPEG_QUALITY, 75])
    assert (cv2.imread(path, 0) > 0).sum() > 1.1 * disc.sum()  # what 'not 0' would say
    data, [frame] = frames_of(folder, tmp_path, labels="binary")
    assert (truth_of(data, frame).classes == disc).mean() > 0.99
    for labels in ("class", "instance"):
        data, [frame] = frames_of(folder, tmp_path, labels=labels)
        assert "its compression" in problems(truth_of, data, frame)


def test_16_bit_rgb_masks_keep_their_ids(tmp_path):
    ids = SQUARES.astype(np.uint16) * 300
    path = str(tmp_path / "a.png")
    cv2.imwrite(path, np.dstack([ids] * 3))
    np.testing.assert_array_equal(read_labels(Page(path)), ids)


def test_labels_that_cannot_be_told_apart_are_refused(tmp_path):
    path = str(tmp_path / "a.tif")
    for wrong in (np.uint64(2**32 + 5), np.float32(3e10)):
        tifffile.imwrite(path, np.full((9, 9), wrong))
        assert "can be told apart" in problems(read_labels, Page(path))
    tifffile.imwrite(path, np.full((9, 9), 0.5, np.float32))
    assert "not whole numbers" in problems(read_labels, Page(path))


def test_mask_drawn_in_the_alpha_channel_is_refused(tmp_path):
    path = str(tmp_path / "a.png")
    cv2.imwrite(path, np.dstack([SQUARES * 0] * 3 + [SQUARES * 100]))
    assert "transparent" in problems(read_labels, Page(path))


def test_stacks_in_a_folder_are_slices(tmp_path):
    stack = np.stack([GREY8, GREY8 + 1, GREY8 + 2])
    make_folder(tmp_path, {"s.tif": stack}, {"s.tif": np.stack([SQUARES] * 3)})
    _, frames = frames_of(folder, tmp_path)
    assert [frame.name for frame in frames] == ["s-z000", "s-z001", "s-z002"]
    np.testing.assert_array_equal(read_image(frames[2].image, 1)[..., 0], GREY8 + 2)


def test_mask_suffix(tmp_path):
    make_folder(
        tmp_path, {"a.png": GREY8}, {"a_mask.png": SQUARES, "note.png": SQUARES}
    )
    _, frames = frames_of(folder, tmp_path, mask_suffix="_mask")
    assert [frame.name for frame in frames] == ["a"]


def test_rgb_float_and_planar_images(tmp_path):
    colour = RNG.integers(0, 255, (40, 50, 3)).astype(np.uint8)
    path = str(tmp_path / "rgb.png")
    cv2.imwrite(path, colour[..., ::-1])
    np.testing.assert_array_equal(read_image(Page(path), 3), colour)
    line = problems(read_image, Page(path), 1)
    assert "3 channels" in line and "config.model.channels promises 1" in line

    assert "or with some of them, as config.data.channels=(0,)" in line
    blue = str(tmp_path / "blue.png")
    cv2.imwrite(blue, colour[..., ::-1] * np.array([1, 0, 0], np.uint8))
    assert "preprocess with config.data.channels=(2,)" in problems(
        read_image, Page(blue), 1
    )
    chosen = read_image(Page(path), 2, selected=(2, 0))
    np.testing.assert_array_equal(chosen, colour[..., [2, 0]])
    with pytest.raises(UserError, match="3 channels, the last is 2, but .* channel 3"):
        read_image(Page(path), 1, selected=(3,))

    grey = str(tmp_path / "grey-as-rgb.png")
    cv2.imwrite(grey, np.repeat(GREY8[..., None], 3, axis=-1))
    np.testing.assert_array_equal(read_image(Page(grey), 1)[..., 0], GREY8)

    planar = str(tmp_path / "planar.tif")
    tifffile.imwrite(
        planar, np.moveaxis(colour, -1, 0), photometric="rgb", planarconfig="separate"
    )
    np.testing.assert_array_equal(read_image(Page(planar), 3), colour)

    real = str(tmp_path / "float.tif")
    tifffile.imwrite(real, GREY8.astype(np.float32) / 100 - 1)
    spread = read_image(Page(real), 1)
    assert spread.dtype == np.uint16 and spread.min() == 0 and spread.max() == 65535

    tifffile.imwrite(real, np.full((9, 9), np.nan, np.float32))
    assert "NaN" in problems(read_image, Page(real), 1)


def test_mismatched_folder_lists_everything(tmp_path):
    make_folder(
        tmp_path, {"a.png": GREY8, "b.png": GREY8}, {"b.png": SQUARES, "c.png": SQUARES}
    )
    lines = problems(frames_of, folder, tmp_path).splitlines()
    assert len(lines) == 2
    assert "a.png: image without mask" in lines[0]
    assert "c.png: mask without image" in lines[1]


def test_shape_mismatch_names_both(tmp_path):
    make_folder(tmp_path, {"a.png": GREY8}, {"a.png": SQUARES[:30] % 2})
    data, [frame] = frames_of(folder, tmp_path)
    line = problems(layouts.check_frame, frame, data, channels=1, classes=2)
    assert "30 x 50" in line and "40 x 50" in line and "masks" in line


def test_constant_image_is_refused(tmp_path):
    make_folder(tmp_path, {"a.png": np.full((40, 50), 7, np.uint8)}, {"a.png": SQUARES})
    data, [frame] = frames_of(folder, tmp_path)
    assert "every pixel is 7" in problems(
        layouts.check_frame, frame, data, channels=1, classes=2
    )


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_masks_of_few_bits_hold_their_numbers(tmp_path, bits):
    labels = np.arange(64).reshape(8, 8) % 2**bits
    rows = np.unpackbits(labels.astype(np.uint8)[..., None], axis=2)[..., 8 - bits :]
    packed = np.packbits(rows.reshape(8, -1), axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in packed)

    def chunk(kind, content):
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    header = struct.pack(">IIBBBBB", 8, 8, bits, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    content += chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    (tmp_path / "m.png").write_bytes(content)
    found = read_labels(Page(str(tmp_path / "m.png")))
    np.testing.assert_array_equal(found, labels)


def test_a_fourth_channel_that_is_not_alpha_is_refused(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (20, 20, 4)).astype(np.uint8)
    for name, more in (("four", {}), ("alpha", {"extrasamples": ["unassalpha"]})):
        kind = "rgb" if more else "minisblack"
        tifffile.imwrite(
            tmp_path / f"{name}.tif", image, photometric=kind, planarconfig=1, **more
        )
    found = read_image(Page(str(tmp_path / "alpha.tif")), 3)
    np.testing.assert_array_equal(found, image[..., :3])
    line = problems(read_image, Page(str(tmp_path / "four.tif")), 3)
    assert "4 channels" in line
