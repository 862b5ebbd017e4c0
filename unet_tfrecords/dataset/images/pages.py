"""References to images in files, and pixels as a file stores them."""

import os
import socket
from typing import NamedTuple

import numpy as np

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.storage import files

ORIENTATION = 274  # tag of EXIF and of TIFF
UPRIGHT = 1
FOLDER_METADATA = ("zarr.json", ".zattrs")  # OME-Zarr 0.5, and before


class Page(NamedTuple):
    """One 2D image within a file.

    Attributes:
      path: the file.
      number: which of its images, 0 for files of one image.
      stamp: `stamp_of` the file when it was found; "" where it may change.
      level: which resolution, 0 is the largest.
      window: the part of it that this is: top, left, bottom, right, px; None is all.
    """

    path: str
    number: int = 0
    stamp: str = ""
    level: int = 0
    window: tuple[int, int, int, int] | None = None

    def __str__(self) -> str:
        name = f"{self.path} (page {self.number})" if self.number else self.path
        if self.window:
            top, left, bottom, right = self.window
            name += f" (rows {top} to {bottom}, columns {left} to {right})"
        return name


class Planes(NamedTuple):
    """Which 2D images of an OME-Zarr are taken.

    Attributes:
      level: which resolution, 0 is the largest.
      times, slices: from 0; () takes all.
    """

    level: int = 0
    times: tuple[int, ...] = ()
    slices: tuple[int, ...] = ()


def stamp_of(path: str) -> str:
    """What tells a file from what takes its place: this machine, bytes, time.

    Of a folder that is an image, those of its metadata. Machines may have copies of
    their own, with other times; remote files have none.
    """
    if files.is_remote(path):
        return ""
    inside = (files.join(path, name) for name in FOLDER_METADATA)
    there = os.stat(next(filter(os.path.exists, inside), path))
    return f"{socket.gethostname()}/{there.st_size}/{there.st_mtime_ns}"


def check_unchanged(page: Page) -> None:
    """Sees that a file which has been read is still the one that was found.

    Raises:
      UserError: it has changed since.
    """
    host = page.stamp.partition("/")[0]
    if host == socket.gethostname() and page.stamp != stamp_of(page.path):
        raise UserError(f"{page.path}: has changed since this began; run it again")


class Header(NamedTuple):
    """What a file says of an image before its pixels are read.

    Attributes:
      height, width: in px, upright.
      channels: without transparency; of a palette, those of its colours.
      dtype: of the stored values.
    """

    height: int
    width: int
    channels: int
    dtype: str


class Stored(NamedTuple):
    """Pixels as a file stores them, upright, white above black.

    Attributes:
      values: [H, W] or [H, W, channels]: intensities, or indices of a palette.
      palette: uint8 [entries, 3], the RGB colour of each index; None without one.
      spread: what viewers multiply values of fewer than 8 bits by.
      has_alpha: whether the last channel is transparency.
      is_lossy: whether its compression has changed values.
    """

    values: np.ndarray
    palette: np.ndarray | None = None
    spread: int = 1
    has_alpha: bool = False
    is_lossy: bool = False


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns an image as its orientation tag says (TIFF 6.0, p. 36; EXIF 2.3, 4.6.4).

    Args:
      pixels: [H, W] or [H, W, C].
      orientation: 1 to 8: where row 0 and column 0 of the file are to be shown.

    Raises:
      ValueError: no such orientation.

    >>> upright(np.array([[1, 2], [3, 4]]), 3).tolist()
    [[4, 3], [2, 1]]
    """
    if orientation not in range(1, 9):
        raise ValueError(f"its orientation tag says {orientation}, not 1 to 8")
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    # By now: which axes are mirrored.
    rows = orientation in (3, 4, 7, 8)
    columns = orientation in (2, 3, 6, 7)
    return pixels[:: -1 if rows else 1, :: -1 if columns else 1]
