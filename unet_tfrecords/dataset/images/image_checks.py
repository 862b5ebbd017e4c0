"""Damage that image libraries read past, and claims that no memory could hold.

Libraries make the best of a broken file: pages that can't be found are left out, strips
that are missing show what was in memory before. Here that is an error.
"""

import io
import math
import os
import struct
import zlib

import tifffile
from PIL import Image

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.command.memory import free_memory

MOST_PIXELS_FLAG = "OPENCV_IO_MAX_IMAGE_PIXELS"  # OpenCV's own, read by it too
MOST_PIXELS = 2**30  # of one page, as OpenCV has it: 32,768 x 32,768


def check_size(path: str, height: int, width: int, bytes_a_pixel: float) -> None:
    """Refuses an image before memory is asked for that there isn't.

    Args:
      path: the file, to be named.
      height, width: in px, as its header claims.
      bytes_a_pixel: all channels.

    Raises:
      UserError: more pixels than MOST_PIXELS, or more bytes than there is memory.
    """
    most = int(os.environ.get(MOST_PIXELS_FLAG) or MOST_PIXELS)
    if height * width > most:
        raise UserError(
            f"{path}: says it is {height} x {width} px, over {most:,} pixels; replace "
            f"the file, or set {MOST_PIXELS_FLAG} if it is whole"
        )
    needed, free = height * width * bytes_a_pixel, free_memory()
    if needed > free:
        raise UserError(
            f"{path}: {height} x {width} px need {needed / 1e9:.1f} GB of memory and "
            f"{free / 1e9:.1f} GB are free; cut the image into parts"
        )


def check_pages(tiff: tifffile.TiffFile) -> None:
    """Follows the chain of a TIFF's pages to its end.

    tifffile leaves out whatever comes after a broken link, and goes round forever in
    a circle of over a hundred pages.

    Raises:
      ValueError: a link leads outside of the file or back.
    """
    form, file = tiff.tiff, tiff.filehandle
    file.seek(form.offsetsize if form.version == 43 else 4)
    (offset,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))
    seen: set[int] = set()
    while offset:
        if offset in seen or offset >= file.size:
            where = "back" if offset in seen else "outside of the file"
            raise ValueError(f"after page {len(seen)} its index leads {where}")
        seen.add(offset)
        file.seek(offset)
        (tags,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
        file.seek(offset + form.tagnosize + tags * form.tagsize)
        (offset,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))


def check_strips(page: tifffile.TiffPage) -> None:
    """Looks whether all strips or tiles of a page lie within its file.

    Raises:
      ValueError: some are missing.
    """
    size, offsets = page.parent.filehandle.size, page.dataoffsets
    if page.is_contiguous:
        if offsets[0] + page.nbytes > size:
            raise ValueError("its pixels are cut off")
        return
    counts, wanted = page.databytecounts, math.prod(page.chunked)
    if len(offsets) != wanted or len(counts) != wanted:
        found = min(len(offsets), len(counts))
        raise ValueError(f"{wanted} strips or tiles, and places of {found}")
    for offset, count in zip(offsets, counts, strict=True):
        # Both 0: left out by whoever wrote the file, as allowed; the value is `nodata`.
        if bool(offset) != bool(count) or offset + count > size:
            raise ValueError("strips or tiles of it are missing")


def check_png(content: bytes) -> None:
    """Compares each part of a PNG with its checksum, before any of it is believed.

    Pillow does not for pixels, and OpenCV not before it makes room for a damaged size.

    Raises:
      ValueError: a part is not as it was written, or the end is missing.
    """
    place, kind = 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack(">I4s", content[place : place + 8].ljust(8, b"\0"))
        end = place + 8 + length
        stored = content[end : end + 4]
        if stored != struct.pack(">I", zlib.crc32(content[place + 4 : end])):
            raise ValueError(f"damaged at byte {place}")
        place = end + 4


def check_jpeg(path: str, content: bytes) -> None:
    """Compares the size that a JPEG claims with its bytes, before it is decoded.

    Raises:
      UserError: more pixels than memory could hold.
      ValueError: fewer bytes than the least that so many pixels take.
    """
    width, height = Image.open(io.BytesIO(content)).size
    check_size(path, height, width, 3)
    # A block of 8 x 8 px takes a bit at least, even the first time it is told of.
    if height * width > 8 * 64 * len(content):
        raise ValueError(f"{height} x {width} px in {len(content)} bytes")


def png_size(header: bytes) -> tuple[int, int, float]:
    """Height, width and bytes a pixel, decoded, from a PNG's first 26 bytes."""
    width, height, bits, kind = struct.unpack(">IIBB", header[16:26])
    channels = {2: 3, 4: 2, 6: 4}.get(kind, 1)
    return height, width, channels * max(1.0, bits / 8)
