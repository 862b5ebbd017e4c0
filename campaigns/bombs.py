"""Small files that claim to be huge, or never end; written by hand."""

import struct
import zlib

import cv2
import numpy as np

BLOCK = 10**7  # zero bytes that one piece of a stream stands for


def zeros(number: int) -> bytes:
    """A zlib stream of N zero bytes, without ever making them."""

    def piece(size: int) -> bytes:
        made = zlib.compressobj(9, zlib.DEFLATED, -15)
        return made.compress(bytes(size)) + made.flush(zlib.Z_FULL_FLUSH)

    whole, rest = divmod(number, BLOCK)
    last = zlib.compressobj(9, zlib.DEFLATED, -15)
    checksum = struct.pack(">I", (number % 65521) << 16 | 1)  # Adler-32 of zeros
    body = piece(BLOCK) * whole + piece(rest) + last.flush()
    return b"\x78\xda" + body + checksum


def png(height: int, width: int, pixels: bytes | None = None, bits: int = 8) -> bytes:
    """A grey PNG of zeros, or of what a zlib stream gives; whole and with checksums."""

    def part(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    if pixels is None:
        pixels = zeros(height * (1 + -(-width * bits // 8)))
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = part(b"IHDR", header), part(b"IDAT", pixels), part(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg(height: int, width: int) -> bytes:
    """A JPEG of 16 x 16 px that claims to be of another size."""
    made = cv2.imencode(".jpg", np.zeros((16, 16), np.uint8))[1].tobytes()
    place = made.index(b"\xff\xc0") + 5  # the frame's header, its sizes
    return made[:place] + struct.pack(">HH", height, width) + made[place + 4 :]


def directory(
    height: int,
    width: int,
    place: int,
    size: int,
    following: int,
    *,
    bits: int = 8,
    compression: int = 1,
) -> bytes:
    """One page's index in a little-endian TIFF: one strip at a place of the file."""
    tags = {
        256: width,
        257: height,
        258: bits,
        259: compression,
        262: 1,  # black is 0
        273: place,
        277: 1,
        278: height,
        279: size,
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in tags.items())
    return struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)


INDEX = len(directory(1, 1, 0, 0, 0))


def tiff(height: int, width: int, pixels: bytes, **options) -> bytes:
    """A TIFF of one page."""
    place = 8 + INDEX
    index = directory(height, width, place, len(pixels), 0, **options)
    return struct.pack("<2sHI", b"II", 42, 8) + index + pixels


def tiff_pages(number: int, last: int = 0) -> bytes:
    """A TIFF of pages of 4 x 4 px that share their pixels.

    Args:
      number: of pages.
      last: where the index of the last page leads: 0 is the end.
    """
    first = 8 + 16
    page = np.frombuffer(directory(4, 4, 8, 16, 0), np.uint8)
    pages = np.tile(page, (number, 1))
    links = first + INDEX * np.arange(1, number + 1, dtype="<u4")
    links[-1] = last
    pages[:, -4:] = links.view(np.uint8).reshape(number, 4)
    head = struct.pack("<2sHI", b"II", 42, first)
    return head + bytes(range(16)) + pages.tobytes()


CLAIMED = 65536, 32768  # 2**31 pixels
IMAGES: dict[str, tuple[bytes, str]] = {
    # name: (content, what is said; nothing where it is to be read)
    "zeros.png": (png(50_000, 50_000), "over 1,073,741,824 pixels"),
    "zeros-one-bit.png": (png(50_000, 50_000, bits=1), "over 1,073,741,824"),
    "zeros-deep.png": (png(2**31 - 1, 2**31 - 1, zeros(10**6), 16), "over 1,073"),
    "no-width.png": (png(5, 0), "cannot be read"),
    "no-pixels.png": (png(500, 500, b""), "cannot be read"),
    "few-pixels.png": (png(500, 500, zeros(1000)), "cannot be read"),
    "honest.png": (png(16_000, 16_000), ""),
    "claims.jpg": (jpeg(32_000, 32_000), "32000 x 32000 px in"),
    "claims-more.jpg": (jpeg(40_000, 40_000), "over 1,073,741,824 pixels"),
    "jpeg.png": (jpeg(16, 16), "of another format than its name says"),
    "png.jpg": (png(5, 5), "of another format than its name says"),
    "claims.tif": (tiff(*CLAIMED, bytes(64)), "over 1,073,741,824"),
    "claims-deflate.tif": (
        tiff(*CLAIMED, zeros(10**6), compression=8),
        "over 1,073,741,824",
    ),
    "claims-less.tif": (tiff(30_000, 30_000, bytes(64)), "cut off"),
    "claims-less-lzw.tif": (
        tiff(30_000, 30_000, bytes(64), compression=5),
        "cannot be read",
    ),
    "claims-memory.tif": (
        tiff(32_768, 32_768, bytes(64), bits=32, compression=8),
        "cannot be read",
    ),
    "bomb.tif": (tiff(50_000, 50_000, zeros(50_000**2), compression=8), "over 1,073"),
    "bomb-smaller.tif": (
        tiff(100, 100, zeros(10**10), compression=8),
        "cannot be read",
    ),
    "honest.tif": (tiff(30_000, 30_000, zeros(30_000**2), compression=8), ""),
    "circle.tif": (tiff_pages(1, last=24), "leads back"),
    "wide-circle.tif": (tiff_pages(500, last=24 + 50 * INDEX), "leads back"),
    "outside.tif": (tiff_pages(5, last=10**9), "leads outside"),
}
WELL_FORMED = {
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "infinite": b'{"a": 1e400}',
    "nan": b'{"schema_version": NaN}',
    "huge": b'{"schema_version": ' + b"9" * 100_000 + b"}",
    "twice": b'{"schema_version": 3, "schema_version": 3}',
    "no object": b"3",
    "surrogate": b'{"\\ud800": "\\ud800"}',
    "empty": b"",
    "zeros": bytes(1000),
}
