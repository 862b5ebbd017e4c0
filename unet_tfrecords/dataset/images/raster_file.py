"""PNG, JPEG, BMP, GIF and WebP: files of one image, each as viewers show it."""

import io
import os
import struct

import numpy as np
from PIL import Image

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images import image_checks
from unet_tfrecords.dataset.images.pages import (
    ORIENTATION,
    UPRIGHT,
    Header,
    Page,
    Stored,
    check_unchanged,
    upright,
)
from unet_tfrecords.dataset.images.png import decode_png
from unet_tfrecords.storage import files

Image.MAX_IMAGE_PIXELS = None  # `image_checks.check_size` has the limit of all formats
FORMATS = {  # by the ending of their names
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jfif": "JPEG",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".webp": "WEBP",
}
BEGINS = {
    "PNG": b"\x89PNG\r\n\x1a\n",
    "JPEG": b"\xff\xd8",
    "BMP": b"BM",
    "GIF": b"GIF8",
    "WEBP": b"RIFF",
}
# Of a PNG, where its orientation may stand: EXIF, and text that holds EXIF or XMP.
MAY_TURN = {b"eXIf", b"tEXt", b"zTXt", b"iTXt"}
PNG_PALETTE, PNG_GREY_ALPHA = 3, 4  # colour types


def count_pages(path: str) -> int:
    """One: more are refused as they are read."""
    return 1


def pixel_size_um(page: Page) -> tuple[float, float] | None:
    """None: what these formats say is a screen's or a printer's."""
    return None


def header_of(page: Page) -> Header:
    """What the beginning of a file says."""
    content = files.read_bytes(page.path)
    opened = Image.open(io.BytesIO(content))
    width, height = opened.size
    # Of a PNG without any, Pillow would decode the whole image to look for it.
    may_turn = opened.format != "PNG" or image_checks.check_png(content) & MAY_TURN
    if may_turn and opened.getexif().get(ORIENTATION, UPRIGHT) >= 5:
        width, height = height, width
    channels = len(set(opened.getbands()) - {"A"})
    if opened.mode == "P":
        palette = np.array(opened.getpalette("RGB"), np.uint8).reshape(-1, 3)
        channels = 1 if (palette == palette[:, :1]).all() else 3
    is_deep = opened.format == "PNG" and content[24] == 16  # bits
    return Header(height, width, channels, "uint16" if is_deep else "uint8")


def read(page: Page) -> Stored:
    """Reads the image of a file.

    Raises:
      ValueError, UserError: broken, or of a form that is not read.
    """
    if page.number:
        raise ValueError(f"it has no page {page.number}")
    content = files.read_bytes(page.path)
    check_unchanged(page)
    form = FORMATS[os.path.splitext(page.path)[1].lower()]
    if not content:
        raise UserError(
            f"{page}: is empty and cannot be read; replace it or take it out"
        )
    if not content.startswith(BEGINS[form]):
        raise ValueError("its bytes are of another format than its name says")
    if form == "PNG":
        return _read_png(page.path, content)
    if form == "JPEG":
        return _read_jpeg(page.path, content)
    return _read_by_pillow(page.path, content)


def has_windows(_: Page) -> bool:
    """These formats are decoded as a whole."""
    return False


def read_window(page: Page, rows: slice, columns: slice) -> Stored:
    """Reads a part of an image, which is decoded as a whole for it."""
    stored = read(page)
    return stored._replace(values=stored.values[rows, columns])


def _read_png(path: str, content: bytes) -> Stored:
    parts = image_checks.check_png(content)  # first, or the size may be anything
    image_checks.check_size(path, *image_checks.png_size(content))
    if b"acTL" in parts:
        raise UserError(f"{path}: an animation; save it as a TIFF")
    turn = UPRIGHT
    if parts & MAY_TURN:
        turn = Image.open(io.BytesIO(content)).getexif().get(ORIENTATION, UPRIGHT)
    bits, colour_type = content[24], content[25]
    if colour_type == PNG_PALETTE:
        stored = _with_palette(Image.open(io.BytesIO(content)))
        return stored._replace(values=upright(stored.values, turn))
    values = decode_png(content)
    if bits < 8 and values.ndim == 2:
        spread = 255 // (2**bits - 1)  # as OpenCV has done
        return Stored(upright(values // spread, turn), spread=spread)
    if colour_type == PNG_GREY_ALPHA:
        values = values[..., [0, 3]]  # OpenCV makes it RGB and alpha
    has_alpha = values.ndim == 3 and values.shape[2] in (2, 4)
    return Stored(upright(values, turn), has_alpha=has_alpha)


def _read_jpeg(path: str, content: bytes) -> Stored:
    opened = Image.open(io.BytesIO(content))
    image_checks.check_jpeg(path, content, *opened.size[::-1])
    if opened.mode == "CMYK":
        raise UserError(f"{path}: its colours are CMYK; save it as RGB or grey")
    turn = opened.getexif().get(ORIENTATION, UPRIGHT)
    return Stored(upright(decode_png(content), turn), is_lossy=True)


def _read_by_pillow(path: str, content: bytes) -> Stored:
    opened = Image.open(io.BytesIO(content))
    image_checks.check_size(path, opened.height, opened.width, 4)
    if (frames := getattr(opened, "n_frames", 1)) > 1:
        raise UserError(f"{path}: an animation of {frames} images; save it as a TIFF")
    turn = opened.getexif().get(ORIENTATION, UPRIGHT)
    if opened.mode == "P":
        stored = _with_palette(opened)
    else:
        values = np.asarray(opened)
        if values.dtype == bool:
            values = values * np.uint8(255)
        has_alpha = opened.mode.endswith("A")
        is_lossy = opened.format == "WEBP" and b"VP8 " in _riff_kinds(content)
        stored = Stored(values, has_alpha=has_alpha, is_lossy=is_lossy)
    return stored._replace(values=upright(stored.values, turn))


def _riff_kinds(content: bytes) -> set[bytes]:
    """The kinds of a WebP's parts."""
    kinds, place = set[bytes](), 12
    while place + 8 <= len(content):
        kind, length = struct.unpack_from("<4sI", content, place)
        kinds.add(kind)
        place += 8 + length + length % 2
    return kinds


def _with_palette(opened: Image.Image) -> Stored:
    """An image of indices: Pillow gives them as they are, OpenCV their colours."""
    indices = np.asarray(opened)
    colours = np.array(opened.getpalette("RGB"), np.uint8).reshape(-1, 3)
    return Stored(indices, colours)
