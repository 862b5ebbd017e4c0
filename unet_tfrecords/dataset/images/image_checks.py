"""Damage that image libraries read past, and claims that no memory could hold.

Libraries make the best of a broken file: pages that can't be found are left out, strips
that are missing show what was in memory before. Here that is an error.
"""

import math
import os
import struct
import zlib
from typing import NamedTuple

import tifffile

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


class PageHead(NamedTuple):
    """What the first tags of a TIFF's page say.

    Attributes:
      height, width: in px.
      kind: NewSubfileType (TIFF 6.0, p. 36); 1 is set in smaller versions, 4 in
        transparency.
      old_kind: SubfileType (p. 40), which it replaced; 2 is a smaller version.
    """

    height: int = 0
    width: int = 0
    kind: int = 0
    old_kind: int = 0

    def is_auxiliary(self, height: int, width: int) -> bool:
        """Whether a page is no image of its own, beside one of `height` x `width` px.

        It says so, or it is at most half as large with the same proportions: pyramids
        and thumbnails of writers that say nothing.
        """
        if self.kind & (1 | 4) or self.old_kind == 2:
            return True
        if self.height > -(-height // 2) or self.width > -(-width // 2):
            return False  # halves are rounded either way
        shrinks = max(self.height / height, self.width / width)
        expected = round(shrinks * height), round(shrinks * width)
        return max(abs(self.height - expected[0]), abs(self.width - expected[1])) <= (
            1 if min(height, width) > 1 else 0
        )


HEAD_TAGS = {254: "kind", 255: "old_kind", 256: "width", 257: "height"}
SHORT = 3  # type of a tag's value
# Bytes of a value by its type (TIFF 6.0, p. 15; BigTIFF has 16 to 18).
TYPE_BYTES = {
    **dict.fromkeys((1, 2, 6, 7), 1),
    **dict.fromkeys((3, 8), 2),
    **dict.fromkeys((4, 9, 11, 13), 4),
    **dict.fromkeys((5, 10, 12, 16, 17, 18), 8),
}
PRIVATE = 32768  # tags from here on are a program's own: most say nothing of pixels
TELLING = (34412, 50838, 50839)  # of them: what LSM and ImageJ say of channels


def page_heads(tiff: tifffile.TiffFile) -> list[PageHead]:
    """Follows the chain of a TIFF's pages to its end.

    tifffile leaves out whatever comes after a broken link, and tags whose values are
    cut off; and it goes round forever in a circle of over a hundred pages.

    Raises:
      ValueError: a link leads outside of the file or back, or a tag is cut off.
    """
    form, file = tiff.tiff, tiff.filehandle
    file.seek(form.offsetsize if form.version == 43 else 4)
    (offset,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))
    seen: dict[int, PageHead] = {}
    while offset:
        if offset in seen or offset >= file.size:
            where = "back" if offset in seen else "outside of the file"
            raise ValueError(f"after page {len(seen)} its index leads {where}")
        file.seek(offset)
        (tags,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
        seen[offset] = _head(form, file.read(tags * form.tagsize), file.size)
        file.seek(offset + form.tagnosize + tags * form.tagsize)
        (offset,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))
    return list(seen.values())


def _head(form, tags: bytes, size: int) -> PageHead:
    """What a page's tags say; `size` is the file's, in bytes."""
    values = {}
    order, inline = form.byteorder, form.offsetsize
    for start in range(0, len(tags) - form.tagsize + 1, form.tagsize):
        number, kind = struct.unpack_from(f"{order}HH", tags, start)
        place = start + form.tagsize - inline
        if number in HEAD_TAGS:
            code = f"{order}{'H' if kind == SHORT else 'I'}"
            (values[HEAD_TAGS[number]],) = struct.unpack_from(code, tags, place)
        counts = f"{order}{'Q' if inline == 8 else 'I'}"
        (count,) = struct.unpack_from(counts, tags, start + 4)
        length = count * TYPE_BYTES.get(kind, 0)
        if length > inline and (number < PRIVATE or number in TELLING):
            (offset,) = struct.unpack_from(form.offsetformat, tags, place)
            if offset + length > size:
                raise ValueError(f"its tag {number} is cut off")
    return PageHead(**values)


def repair_counts(page: tifffile.TiffPage) -> None:
    """Computes the bytes of uncompressed strips, which some writers count wrong."""
    if page.compression != 1 or page.is_tiled or page.is_contiguous:
        return
    rows = page.rowsperstrip or page.imagelength
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    row_bytes = -(-page.imagewidth * samples * page.bitspersample // 8)
    last = page.imagelength % rows or rows
    counts = [rows * row_bytes] * -(-page.imagelength // rows)
    counts[-1] = last * row_bytes
    counts *= page.samplesperpixel if page.planarconfig == 2 else 1
    if len(counts) == len(page.dataoffsets):
        page.databytecounts = tuple(counts)


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
        # Both 0: left out by the writer, as allowed; the value is `nodata`.
        if bool(offset) != bool(count) or offset + count > size:
            raise ValueError("strips or tiles of it are missing")


def check_png(content: bytes) -> set[bytes]:
    """Compares each part of a PNG with its checksum, before any of it is believed.

    Pillow does not for pixels, and OpenCV not before it makes room for a damaged size.

    Returns:
      The kinds of its parts.

    Raises:
      ValueError: a part is not as it was written, or the end is missing.
    """
    place, kind, kinds = 8, b"", set[bytes]()
    while kind != b"IEND":
        length, kind = struct.unpack(">I4s", content[place : place + 8].ljust(8, b"\0"))
        end = place + 8 + length
        stored = content[end : end + 4]
        if stored != struct.pack(">I", zlib.crc32(content[place + 4 : end])):
            raise ValueError(f"damaged at byte {place}")
        kinds.add(kind)
        place = end + 4
    return kinds


def check_jpeg(path: str, content: bytes, height: int, width: int) -> None:
    """Compares the size that a JPEG claims with its bytes, before it is decoded.

    Raises:
      UserError: more pixels than memory could hold.
      ValueError: fewer bytes than that many pixels take at least.
    """
    check_size(path, height, width, 3)
    # A block of 8 x 8 px takes a bit at least, even where it is described first.
    if height * width > 8 * 64 * len(content):
        raise ValueError(f"{height} x {width} px in {len(content)} bytes")


def png_size(header: bytes) -> tuple[int, int, float]:
    """Height, width and bytes a pixel, decoded, from a PNG's first 26 bytes."""
    width, height, bits, kind = struct.unpack(">IIBB", header[16:26])
    channels = {2: 3, 4: 2, 6: 4}.get(kind, 1)
    return height, width, channels * max(1.0, bits / 8)
