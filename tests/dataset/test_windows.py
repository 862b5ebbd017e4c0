"""Parts of images: what the whole has there, and no more is read than they need."""

import numpy as np
import pytest
import tifffile

from tests.dataset import ome_zarr
from tests.dataset.layouts import problems
from unet_tfrecords.dataset.images import formats
from unet_tfrecords.dataset.images.pages import Page

HEIGHT, WIDTH = 300, 410
IMAGE = np.random.default_rng(0).integers(0, 2**16, (HEIGHT, WIDTH, 3), np.uint16)
GREY, SMALL = IMAGE[..., 0], (IMAGE >> 8).astype(np.uint8)


def write(path, array, **how) -> None:
    tifffile.imwrite(path, array, **how)


KINDS = {
    "contiguous": lambda path: write(path, GREY),
    "strips": lambda path: write(path, GREY, rowsperstrip=16, compression="zlib"),
    "tiles": lambda path: write(path, GREY, tile=(64, 64), compression="lzw"),
    "RGB": lambda path: write(path, IMAGE, tile=(64, 64), photometric="rgb"),
    "planes": lambda path: write(
        path,
        np.moveaxis(IMAGE, -1, 0),
        tile=(64, 64),
        photometric="rgb",
        planarconfig="separate",
    ),
    "pages": lambda path: write(
        path,
        np.moveaxis(IMAGE, -1, 0),
        tile=(64, 64),
        metadata={"axes": "CYX"},
        ome=True,
    ),
    "white is zero": lambda path: write(
        path, SMALL[..., 0], tile=(64, 64), photometric="miniswhite"
    ),
    "JPEG": lambda path: write(
        path, SMALL, tile=(64, 64), photometric="rgb", compression="jpeg"
    ),
    "BigTIFF": lambda path: write(path, GREY, tile=(64, 64), bigtiff=True),
    "palette": lambda path: write(
        path,
        SMALL[..., 0],
        tile=(64, 64),
        photometric="palette",
        colormap=np.arange(768, dtype=np.uint16).reshape(3, 256) * 64,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_of_a_tiff_is_that_of_the_whole(tmp_path, kind):
    path = str(tmp_path / "a.tif")
    KINDS[kind](path)
    channels = formats.header_of(Page(path)).channels
    whole = formats.read_image(Page(path), channels)
    for rows, columns in (
        (slice(0, HEIGHT), slice(0, WIDTH)),
        (slice(60, 70), slice(0, 1)),
        (slice(299, HEIGHT), slice(100, WIDTH)),
    ):
        part = formats.read_image(Page(path), channels, window=(rows, columns))
        np.testing.assert_array_equal(part, whole[rows, columns])


@pytest.mark.parametrize("name", ["a.png", "a.zarr"])
def test_a_window_of_other_formats_is_that_of_the_whole(tmp_path, name):
    if name == "a.png":
        from PIL import Image

        Image.fromarray(SMALL[..., 0]).save(tmp_path / name)
    else:
        ome_zarr.write(tmp_path / name, SMALL[..., 0])
    window = slice(10, 75), slice(3, 200)
    part = formats.read_image(Page(str(tmp_path / name)), 1, window=window)
    np.testing.assert_array_equal(part[..., 0], SMALL[window][..., 0])


def test_a_window_decodes_only_the_tiles_that_it_touches(tmp_path, monkeypatch):
    path = str(tmp_path / "a.tif")
    KINDS["tiles"](path)
    decoded = []
    before = tifffile.TiffPage.decode.func

    def counting(self):
        decode = before(self)
        return lambda *given, **named: (
            decoded.append(given[1]) or decode(*given, **named)
        )

    monkeypatch.setattr(tifffile.TiffPage, "decode", property(counting))
    window = slice(60, 70), slice(130, 140)
    formats.read_image(Page(path), 1, window=window)
    assert sorted(decoded) == [2, 9]  # of 7 in a row


def test_windows_of_large_images_need_the_memory_of_windows(tmp_path):
    """A file of 40,000 x 40,000 px is not asked for as a whole."""
    path = tmp_path / "a.tif"
    side = 40_000

    def tiles():
        blank = np.zeros((4096, 4096), np.uint8)
        yield from (blank for _ in range((-(-side // 4096)) ** 2))

    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(
            tiles(),
            shape=(side, side),
            dtype=np.uint8,
            tile=(4096, 4096),
            compression="zlib",
            photometric="minisblack",
        )
    window = slice(39_000, side), slice(0, 500)
    part = formats.read_image(Page(str(path)), 1, window=window)
    assert part.shape == (1000, 500, 1) and not part.any()
    assert "over" in problems(formats.read_image, Page(str(path)), 1)


def test_what_has_no_windows_is_named(tmp_path):
    window = slice(0, 5), slice(0, 5)
    turned, spread = tmp_path / "turned.tif", tmp_path / "spread.tif"
    orientation = [(274, "H", 1, 6, True)]
    write(turned, GREY, extratags=orientation, metadata=None)
    line = problems(formats.read_image, Page(str(turned)), 1, window=window)
    assert "turned.tif: its orientation tag turns it" in line
    write(spread, GREY.astype(np.float32))
    line = problems(formats.read_image, Page(str(spread)), 1, window=window)
    assert "spread.tif: float32" in line and "to have it read in parts" in line
