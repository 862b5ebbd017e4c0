"""Image files in and out: TIFF by page, PNG and JPEG, 8 and 16 bit."""

import contextlib
import functools
import io
import math
import os
import socket
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import imagecodecs  # noqa: F401  tifffile needs it for LZW, the challenge's compression
import numpy as np
import tifffile
from PIL import Image

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images import image_checks
from unet_tfrecords.dataset.pixel_statistics import strips
from unet_tfrecords.storage import files
from unet_tfrecords.storage.local_copies import open_near

Image.MAX_IMAGE_PIXELS = None  # `image_checks.check_size` has the limit of all formats
MOST_LABELS = 2**24  # whole numbers that float32 holds exactly: see augment.warp_labels
JPEG_BEGINS = b"\xff\xd8"
PNG_BEGINS = b"\x89PNG\r\n\x1a\n"
EXTENSIONS = (".tif", ".tiff", ".png", ".jpg", ".jpeg")


class Page(NamedTuple):
    """One 2D image within a file.

    Attributes:
      path: the file.
      number: its page, 0 for files of one page.
      stamp: `stamp_of` the file when it was found; "" where it may change.
    """

    path: str
    number: int = 0
    stamp: str = ""

    def __str__(self) -> str:
        return f"{self.path} (page {self.number})" if self.number else self.path


def stamp_of(path: str) -> str:
    """What tells a file from what takes its place: this machine, bytes, time.

    Machines may have copies of their own, with other times; remote files have none.
    """
    if files.is_remote(path):
        return ""
    there = os.stat(path)
    return f"{socket.gethostname()}/{there.st_size}/{there.st_mtime_ns}"


def check_unchanged(page: Page) -> None:
    """Sees that a file which has been read is still the one that was found.

    Raises:
      UserError: it has changed since.
    """
    host = page.stamp.partition("/")[0]
    if host == socket.gethostname() and page.stamp != stamp_of(page.path):
        raise UserError(f"{page.path}: has changed since this began; run it again")


def is_image(path: str) -> bool:
    """Whether a name ends like an image that can be read here."""
    return path.lower().endswith(EXTENSIONS)


def is_lossy(path: str) -> bool:
    """Whether a file's compression changes pixels.

    >>> is_lossy("a.JPG"), is_lossy("a.png")
    (True, False)
    """
    return path.lower().endswith((".jpg", ".jpeg"))


def _is_tiff(path: str) -> bool:
    return path.lower().endswith((".tif", ".tiff"))


@contextlib.contextmanager
def _tiff(path: str) -> Iterator[tifffile.TiffFile]:
    """A TIFF whose pages are read one by one, remote ones out of a copy."""
    with open_near(path) as file, tifffile.TiffFile(file) as tiff:
        yield tiff


def _explained(read):
    """Turns whatever a decoder throws at a broken file into one line that names it."""

    @functools.wraps(read)
    def wrapped(page, *args):
        path = str(page)
        try:
            return read(page, *args)
        except UserError:
            raise
        except FileNotFoundError:
            raise UserError(f"{path}: no such file") from None
        except OSError as error:
            if not error.errno:  # Pillow's, of bytes that are no image
                raise _unreadable(path, error) from error
            raise UserError(f"{path}: {error.strerror}") from error
        except Exception as error:
            # Decoders raise anything from struct.error to RuntimeError on bad bytes.
            raise _unreadable(path, error) from error

    return wrapped


def _unreadable(path: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(
        f"{path}: cannot be read as an image ({reason[:120]}); "
        "replace the file or take it out"
    )


@_explained
def count_pages(path: str) -> int:
    """Pages of a file: 1 unless it is a TIFF stack."""
    if not _is_tiff(path):
        return 1
    with _tiff(path) as tiff:
        image_checks.check_pages(tiff)
        if len(tiff.pages) == 1 and (told := _told_images(tiff)) > 1:
            raise UserError(
                f"{path}: {told} images behind one header, as ImageJ saves over 4 GB; "
                "save it as a TIFF of single pages, or in parts"
            )
        return len(tiff.pages)


def _told_images(tiff: tifffile.TiffFile) -> int:
    """Images that a TIFF of one page says it holds."""
    if tiff.is_imagej:
        return (tiff.imagej_metadata or {}).get("images", 1)
    if tiff.is_stk or tiff.is_shaped:  # MetaMorph, tifffile
        return tiff.series[0].size // tiff.pages.first.size
    return 1


@_explained
def pixels_of(page: Page) -> int:
    """Height times width of a TIFF's page; of any other file, its bytes."""
    if not _is_tiff(page.path):
        return files.size_of(page.path)
    with _tiff(page.path) as tiff:
        described = tiff.pages[page.number].aspage()
        return described.imagelength * described.imagewidth


def decode(page: Page) -> np.ndarray:
    if _is_tiff(page.path):
        with _tiff(page.path) as tiff:
            try:
                described = tiff.pages[page.number].aspage()
            except IndexError:
                raise ValueError(f"it has no page {page.number}") from None
            _check_tiff_page(page, described)
            pixels = np.asarray(described.asarray())
            planar = tiff.pages.first.planarconfig == 2
        check_unchanged(page)
        return np.moveaxis(pixels, 0, -1) if planar and pixels.ndim == 3 else pixels
    return decode_png(_read_checked(page))


def _check_tiff_page(page: Page, described: tifffile.TiffPage) -> None:
    height, width = described.imagelength, described.imagewidth
    if described.dtype is None or not height * width:
        raise ValueError(f"{height} x {width} px of no known kind")
    image_checks.check_size(str(page), height, width, described.nbytes / height / width)
    image_checks.check_strips(described)


def _read_checked(page: Page) -> bytes:
    """The bytes of a PNG or JPEG that memory can hold, decoded."""
    path = page.path
    content = files.read_bytes(path)
    check_unchanged(page)
    if not content.startswith(JPEG_BEGINS if is_lossy(path) else PNG_BEGINS):
        raise ValueError("its bytes are of another format than its name says")
    if is_lossy(path):
        image_checks.check_jpeg(path, content)
    else:
        image_checks.check_png(content)  # first, or the size may be anything
        image_checks.check_size(path, *image_checks.png_size(content))
    return content


@_explained
def read_image(page: Page, channels: int) -> np.ndarray:
    """Reads one image.

    Grey saved as RGB (three equal channels) counts as one channel; an alpha channel
    is dropped. Other than unsigned 8 and 16 bit is spread linearly over 16 bit, which
    normalisation by mean and deviation undoes.

    Args:
      page: where it is.
      channels: how many channels it must have.

    Returns:
      uint8 or uint16 [H, W, channels].

    Raises:
      UserError: unreadable, not 2D, not finite or of other channels.
    """
    image = decode(page)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or not image.size:
        raise UserError(f"{page}: shape {image.shape} is not that of a 2D image")
    if image.shape[2] == 4 and channels != 4 and _has_alpha(page):
        image = image[..., :3]
    if channels == 1 and image.shape[2] == 3 and (image == image[..., :1]).all():
        image = image[..., :1]
    if image.shape[2] != channels:
        raise UserError(
            f"{page}: {image.shape[2]} channels where config.model.channels promises "
            f"{channels}; convert it, or preprocess and train with the other number"
        )
    if image.dtype.kind not in "uib" and not np.isfinite(image).all():
        raise UserError(f"{page}: holds NaN or infinite values; repair or remove it")
    if image.dtype not in (np.uint8, np.uint16):
        image = _spread(image)
    return np.ascontiguousarray(image)


def _has_alpha(page: Page) -> bool:
    """Whether the last of four channels is transparency; a TIFF says so."""
    if not _is_tiff(page.path):
        return True
    with _tiff(page.path) as tiff:
        return any(
            kind in (1, 2) for kind in tiff.pages[page.number].aspage().extrasamples
        )


@_explained
def is_spread(page: Page) -> bool:
    """Whether `read_image` spreads the intensities, as it does but for 8 and 16 bit."""
    if not _is_tiff(page.path):
        return False
    with _tiff(page.path) as tiff:
        return tiff.pages[page.number].dtype not in (np.uint8, np.uint16)


def _spread(image: np.ndarray) -> np.ndarray:
    """Any finite numbers to uint16, the smallest to 0 and the largest to 65535."""
    low, high = float(image.min()), float(image.max())
    # Near 1 by a power of two, which rounds nothing: neither the span of 1e308 and
    # -1e308 nor one over the span of 1e-310 would be finite.
    shift = -math.frexp(max(abs(low), abs(high)))[1]
    low, high = math.ldexp(low, shift), math.ldexp(high, shift)
    scale = 65535 / (high - low) if high > low else 0.0
    spread = np.empty(image.shape, np.uint16)
    for there, here in zip(strips(image), strips(spread), strict=True):
        near_one = np.ldexp(there.astype(np.float64), shift)
        here[:] = np.rint((near_one - low) * scale)
    return spread


@_explained
def read_labels(page: Page) -> np.ndarray:
    """Reads a label image: integers, palette indices as they are.

    Returns:
      uint16 [H, W], or int32 where there are more than 65,535.

    Raises:
      UserError: unreadable, not 2D or not integers.
    """
    image = _decode_labels(page)
    if image.ndim == 3 and (image[..., :3] == image[..., :1]).all():
        if image.shape[2] == 4 and image[..., 3].min() != image[..., 3].max():
            raise UserError(
                f"{page}: has transparent parts; save the mask without an alpha channel"
            )
        image = image[..., 0]  # grey saved as RGB
    if image.ndim != 2:
        raise UserError(
            f"{page}: shape {image.shape} is not that of a label image; "
            "labels are one integer a pixel, not colours"
        )
    if image.dtype.kind not in "uib" and (image != np.rint(image)).any():
        raise UserError(f"{page}: labels are not whole numbers ({image.dtype})")
    if image.size and (image.max() > MOST_LABELS or image.min() < 0):
        raise UserError(
            f"{page}: labels from {image.min()} to {image.max()}; "
            f"0 to {MOST_LABELS} can be told apart"
        )
    return image.astype(np.uint16 if image.max(initial=0) < 2**16 else np.int32)


def _decode_labels(page: Page) -> np.ndarray:
    """Numbers as stored; OpenCV would give colours, or spread a few bits over 8."""
    if not page.path.lower().endswith(".png"):
        return decode(page)
    with files.open_read(page.path) as file:
        bits, colour_type = file.read(26)[24:] or (8, 0)
    if colour_type == 3:
        return _decode_palette(page)
    image = decode(page)
    return image // (255 // (2**bits - 1)) if bits < 8 else image


def _decode_palette(page: Page) -> np.ndarray:
    """The indices as they are; OpenCV would give their colours."""
    return np.asarray(Image.open(io.BytesIO(_read_checked(page))))


def _swap_red_and_blue(image: np.ndarray) -> np.ndarray:
    """RGB(A) to OpenCV's BGR(A) and back; one channel as it is."""
    if image.ndim == 2 or image.shape[2] == 1:
        return image
    return np.ascontiguousarray(image[..., [2, 1, 0, *range(3, image.shape[2])]])


def encode_png(image: np.ndarray, *, flat: bool = False) -> bytes:
    """PNG of uint8 or uint16 [H, W] or [H, W, 1, 3 or 4 (RGB, alpha)].

    Args:
      flat: areas of one value, such as labels: they pack better as they are than as
        the differences to their neighbours.
    """
    options = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE] if flat else []
    ok, encoded = cv2.imencode(".png", _swap_red_and_blue(image), options)
    if not ok:
        raise ValueError(f"PNG cannot hold {image.dtype} {image.shape}")
    return encoded.tobytes()


def decode_png(encoded: bytes) -> np.ndarray:
    """A PNG's (or JPEG's) pixels as stored: [H, W] or [H, W, 3 or 4].

    Raises:
      ValueError: not a whole file of these formats.
    """
    buffer = np.frombuffer(encoded, np.uint8)
    image = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED) if buffer.size else None
    if image is None:
        raise ValueError("not a whole PNG or JPEG")
    return _swap_red_and_blue(image)
