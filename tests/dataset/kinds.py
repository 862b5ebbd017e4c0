"""Files as people have them, and what becomes of each: docs/data.md is made from this.

`python -m tests.dataset.kinds` writes the page's tables. Each kind has a function that
writes a file and returns what a viewer shows of it: the pixels given, or, where a
format is lossy, what Pillow decodes.
"""

import io
import pathlib
import re
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageOps

PAGE = pathlib.Path(__file__).parents[2] / "docs/data.md"
T = Image.Transpose
STORED_AS = {  # what an orientation tag undoes
    **{2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE},
    **{6: T.ROTATE_90, 7: T.TRANSVERSE, 8: T.ROTATE_270},
}


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
      name: for people.
      ending: of the file's name.
      write: writes pixels to a path; returns what is to be seen, None for the same.
      becomes: what is done with it; of a refused one, words of the message.
    """

    name: str
    ending: str
    write: Callable[[pathlib.Path, np.ndarray], np.ndarray | None]
    becomes: str = "as it is"


def seen(path, mode=""):
    """What Pillow shows of a file."""
    with Image.open(path) as opened:
        upright = ImageOps.exif_transpose(opened)
        return np.asarray(upright.convert(mode) if mode else upright)


def tiff(**options):
    def write(path, pixels):
        tifffile.imwrite(path, pixels, **{"photometric": "minisblack"} | options)

    return write


def pillow(mode="", **options):
    def write(path, pixels):
        picture = Image.fromarray(pixels)
        (picture.convert(mode) if mode else picture).save(path, **options)

    return write


def turned(orientation, **options):
    """The file's pixels lie otherwise, and a tag says how to turn them back."""

    def write(path, pixels):
        stored = Image.fromarray(pixels).transpose(STORED_AS[orientation])
        if path.suffix == ".tif":
            tag = [(274, "H", 1, orientation, True)]
            tifffile.imwrite(path, np.asarray(stored), extratags=tag)
            return None
        exif = Image.Exif()
        exif[274] = orientation
        stored.save(path, exif=exif, **options)
        return seen(path)

    return write


def lossy(path, pixels):
    Image.fromarray(pixels).save(path, quality=90)
    return seen(path)


def palette(colours=None, order=None):
    """Indices of a palette; by default greys in another order than their numbers."""

    def write(path, pixels):
        values, indices = np.unique(pixels, return_inverse=True)
        indices = indices.reshape(pixels.shape)
        table = np.stack([values] * 3, -1).astype(np.uint8)
        if colours is not None:
            indices, table = pixels, np.array(colours, np.uint8)
        elif order != "kept":
            indices, table = len(table) - 1 - indices, table[::-1]
        if path.suffix == ".tif":
            wide = np.zeros((3, 256), np.uint16)
            wide[:, : len(table)] = table.T.astype(np.uint16) * 257
            indices = indices.astype(np.uint8)
            tifffile.imwrite(path, indices, photometric="palette", colormap=wide)
            return
        picture = Image.fromarray(indices.astype(np.uint8), "P")
        picture.putpalette(table.tobytes())
        picture.save(path)

    return write


def white_is_zero(path, pixels):
    top = np.iinfo(pixels.dtype).max
    tifffile.imwrite(path, top - pixels, photometric="miniswhite")


def with_alpha(path, pixels):
    clear = np.full(pixels.shape[:2], 255, np.uint8)
    Image.fromarray(np.dstack([pixels, clear])).save(path)


def as_rgb(path, pixels):
    Image.fromarray(np.dstack([pixels] * 3)).save(path)


def deep(scale, dtype):
    """Other than 8 and 16 bit: the smallest value becomes 0, the largest 65,535."""

    def write(path, pixels):
        values = (pixels.astype(np.float64) * scale).astype(dtype)
        tifffile.imwrite(path, values, photometric="minisblack")
        low, high = float(values.min()), float(values.max())
        spread = (values.astype(np.float64) - low) * (65535 / (high - low))
        return np.rint(spread).astype(np.uint16)

    return write


def numbers_apart(path, pixels):
    cv2.imwrite(str(path), pixels.astype(np.uint16) * 200)


def sixteen_bits(save):
    def write(path, pixels):
        wide = pixels.astype(np.uint16) * 7 + 3
        save(path, wide)
        return wide

    return write


def one_bit(path, pixels):
    light = pixels > 127
    Image.fromarray(light).save(path)
    return light * np.uint8(255)


def with_thumbnail(path, pixels):
    with tifffile.TiffWriter(path) as file:
        file.write(pixels[::4, ::4], subfiletype=1, metadata=None)
        file.write(pixels, metadata=None)
        file.write(pixels[::2, ::2], metadata=None)


def stale(path, pixels):
    tifffile.imwrite(
        path, pixels, description="ImageJ=1.11a\nimages=57\n", metadata=None
    )


def wrong_counts(path, pixels):
    tifffile.imwrite(path, pixels, rowsperstrip=5, metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as file:
        tag = file.pages[0].tags["StripByteCounts"]
        tag.overwrite([1] * tag.count)


def channel_pages(**options):
    def write(path, pixels):
        planes = np.moveaxis(pixels, -1, 0)
        metadata = {"axes": "CYX"}
        tifffile.imwrite(
            path, planes, photometric="minisblack", metadata=metadata, **options
        )

    return write


def grey_alone(path, pixels):
    Image.fromarray(pixels[..., 0]).save(path)
    return np.dstack([pixels[..., 0]] * 3)


def rgb_jpeg_in_tiff(path, pixels):
    tifffile.imwrite(path, pixels, photometric="rgb", compression="jpeg")
    return seen(path, "RGB")


def few_colours(path, pixels):
    picture = Image.fromarray(pixels).quantize(64)
    picture.save(path)
    return seen(path, "RGB")


GREY = [
    Kind("PNG, 8 bit", "png", pillow()),
    Kind("PNG, 16 bit", "png", sixteen_bits(lambda p, x: cv2.imwrite(str(p), x))),
    Kind("PNG, 1 bit", "png", one_bit, "0 and 255"),
    Kind("PNG, grey palette", "png", palette(), "its grey values"),
    Kind("PNG, grey and alpha", "png", with_alpha, "without alpha"),
    Kind("PNG, grey saved as RGB", "png", as_rgb, "one channel"),
    Kind("PNG with an orientation tag", "png", turned(6), "turned upright"),
    Kind("JPEG", "jpg", lossy),
    Kind("JPEG with an orientation tag", "jpg", turned(3), "turned upright"),
    Kind(
        "JPEG with an orientation tag, on its side", "JPEG", turned(8), "turned upright"
    ),
    Kind("BMP", "bmp", pillow()),
    Kind("GIF", "gif", pillow(), "its grey values"),
    Kind("WebP, lossless", "webp", pillow("RGB", lossless=True), "one channel"),
    Kind("TIFF, 8 bit", "tif", tiff()),
    Kind("TIFF, 16 bit", "tiff", sixteen_bits(tiff())),
    Kind("TIFF, LZW", "tif", tiff(compression="lzw", predictor=True)),
    Kind("TIFF, Deflate, tiled", "tif", tiff(compression="zlib", tile=(16, 32))),
    Kind("TIFF, Zstandard", "tif", tiff(compression="zstd")),
    Kind("TIFF, big-endian", "TIF", sixteen_bits(tiff(byteorder=">"))),
    Kind("BigTIFF", "tif", tiff(bigtiff=True)),
    Kind("TIFF, white is zero", "tif", white_is_zero, "inverted"),
    Kind("TIFF, white is zero, 16 bit", "tif", sixteen_bits(white_is_zero), "inverted"),
    Kind("TIFF, colour map of greys", "tif", palette(), "its grey values"),
    Kind("TIFF with an orientation tag", "tif", turned(5), "turned upright"),
    Kind("TIFF, float32", "tif", deep(0.37, np.float32), "spread over 16 bit"),
    Kind("TIFF, int16", "tif", deep(-3, np.int16), "spread over 16 bit"),
    Kind("TIFF, uint32", "tif", deep(99_999, np.uint32), "spread over 16 bit"),
    Kind(
        "TIFF with smaller versions of its page",
        "tif",
        with_thumbnail,
        "the page alone",
    ),
    Kind(
        "TIFF of ImageJ that counts more images than it has", "tif", stale, "its image"
    ),
    Kind(
        "TIFF with wrong byte counts of plain strips", "tif", wrong_counts, "computed"
    ),
]
RGB = [
    Kind("PNG, RGB", "png", pillow()),
    Kind("PNG, RGB and alpha", "png", with_alpha, "without alpha"),
    Kind("PNG, palette of colours", "png", few_colours, "its colours"),
    Kind("PNG, grey among colours", "png", grey_alone, "three equal channels"),
    Kind("JPEG", "jpg", lossy),
    Kind("JPEG with an orientation tag", "jpg", turned(7), "turned upright"),
    Kind("BMP", "bmp", pillow()),
    Kind("GIF", "gif", few_colours, "its colours"),
    Kind("WebP, lossless", "webp", pillow(lossless=True)),
    Kind("TIFF, RGB", "tif", tiff(photometric="rgb")),
    Kind("TIFF, RGB, 16 bit", "tif", sixteen_bits(tiff(photometric="rgb"))),
    Kind(
        "TIFF, a plane a channel",
        "tif",
        lambda p, x: tifffile.imwrite(
            p, np.moveaxis(x, -1, 0), photometric="rgb", planarconfig="separate"
        ),
    ),
    Kind("TIFF, JPEG inside", "tif", rgb_jpeg_in_tiff, "decoded to RGB"),
    Kind(
        "TIFF, a page a channel (ImageJ)", "tif", channel_pages(imagej=True), "channels"
    ),
    Kind("OME-TIFF, a page a channel", "ome.tif", channel_pages(ome=True), "channels"),
]


def halved(save):
    """Grey rims: foreground is what Pillow decodes above the middle."""

    def write(path, pixels):
        shown = np.asarray(save(path, pixels))
        middle = (int(shown.min()) + int(shown.max())) / 2
        return (shown > middle) * np.uint8(255)

    return write


def blurred(path, pixels):
    soft = cv2.GaussianBlur(pixels, (0, 0), 0.5)
    Image.fromarray(soft).save(path)
    return soft


def colourful(path, pixels):
    left = np.arange(pixels.shape[1])[None, :, None] < pixels.shape[1] // 2
    colour = np.where(left, [0, 0, 200], [90, 255, 7])
    Image.fromarray(((pixels[..., None] > 0) * colour).astype(np.uint8)).save(path)


BINARY = [
    Kind("PNG of 0 and 255", "png", pillow(), "255 is foreground"),
    Kind(
        "PNG of 0 and 1", "png", lambda p, x: pillow()(p, x // 255), "1 is foreground"
    ),
    Kind("PNG, 1 bit", "png", lambda p, x: pillow()(p, x > 0), "white is foreground"),
    Kind("PNG, two greys, white first", "png", palette(), "white is foreground"),
    Kind("PNG, grey saved as RGB", "png", as_rgb, "one channel"),
    Kind("PNG with an orientation tag", "png", turned(5), "turned upright"),
    Kind("PNG that was blurred a little", "png", halved(blurred), "halved, noted"),
    Kind("JPEG", "jpg", halved(lossy), "halved, noted"),
    Kind("BMP, GIF", "bmp", pillow(), "255 is foreground"),
    Kind("GIF", "gif", pillow(), "255 is foreground"),
    Kind("TIFF, white is zero", "tif", white_is_zero, "inverted"),
    Kind("TIFF, colour map of greys", "tif", palette(), "white is foreground"),
    Kind(
        "TIFF, float32", "tif", lambda p, x: tiff()(p, x / np.float32(255)), "above 0"
    ),
    Kind("PNG of colours", "png", colourful, "any but black is foreground"),
]


def each_its_colour(path, pixels):
    colours = np.random.default_rng(5).integers(1, 256, (300, 3), np.uint8)
    colours[0] = 0
    Image.fromarray(colours[pixels]).save(path)


SOME_COLOURS = np.random.default_rng(4).integers(0, 256, (64, 3)).tolist()
INSTANCES = [
    Kind("PNG, 8 bit", "png", pillow(), "a number an object"),
    Kind("PNG, 16 bit", "png", numbers_apart, "a number an object"),
    Kind("PNG, palette of colours", "png", palette(SOME_COLOURS), "its indices, noted"),
    Kind("PNG, palette of greys", "png", palette(), "its grey values"),
    Kind("PNG, a colour an object", "png", each_its_colour, "a colour an object"),
    Kind("TIFF, int32", "tif", lambda p, x: tiff()(p, x.astype(np.int32) * 3000)),
    Kind("TIFF, float32, whole numbers", "tif", lambda p, x: tiff()(p, x.astype("f4"))),
    Kind("TIFF, colour map", "tif", palette(SOME_COLOURS), "its indices, noted"),
    Kind("TIFF with an orientation tag", "tif", turned(7), "turned upright"),
]


def bytes_of(content):
    return lambda path, pixels: path.write_bytes(content) and None


def truncated(path, pixels):
    content = io.BytesIO()
    form = {"jpg": "jpeg", "tif": "tiff"}.get(path.suffix[1:], path.suffix[1:])
    Image.fromarray(pixels).save(content, form)
    path.write_bytes(content.getvalue()[: len(content.getvalue()) // 2])


def animation(path, pixels):
    first, second = Image.fromarray(pixels), Image.fromarray(255 - pixels)
    first.save(path, save_all=True, append_images=[second])


def with_nan(path, pixels):
    values = pixels.astype(np.float32)
    values[3, 3] = np.nan
    tifffile.imwrite(path, values)


def three(save):
    return lambda path, pixels: save(
        path, np.dstack([pixels, pixels // 2, 255 - pixels])
    )


def volume(path, pixels):
    stack = np.zeros((16, 32, 32), np.uint8)
    tifffile.imwrite(path, stack, volumetric=True, tile=(16, 16, 16), metadata=None)


REFUSED = [
    *(
        Kind(
            f"{ending.upper()}", ending, bytes_of(b"?"), f"{ending.upper()} is not read"
        )
        for ending in "czi nd2 lif dcm svs jp2".split()
    ),
    Kind("animation", "gif", animation, "an animation of 2 images"),
    Kind("CMYK", "jpg", lambda p, x: pillow("CMYK")(p, np.dstack([x] * 3)), "CMYK"),
    Kind("CIELab", "tif", three(tiff(photometric="cielab")), "its colours are CIELAB"),
    Kind(
        "YCbCr, plain", "tif", three(tiff(photometric="ycbcr")), "its colours are YCBCR"
    ),
    Kind(
        "ImageJ's inverting LUT",
        "tif",
        tiff(photometric="miniswhite", description="ImageJ=1.54f\n"),
        "an inverting LUT",
    ),
    Kind("a volume in one page", "tif", volume, "a volume of 16 slices"),
    Kind(
        "several images behind one header",
        "tif",
        lambda p, x: tifffile.imwrite(p, np.stack([x] * 3), imagej=True, truncate=True),
        "3 images behind one header",
    ),
    Kind("NaN", "tif", with_nan, "holds NaN"),
    Kind("another number of channels", "png", three(pillow()), "3 channels where"),
    Kind(
        "orientation of no kind",
        "tif",
        tiff(extratags=[(274, "H", 1, 9, True)]),
        "tag says 9",
    ),
    Kind("a text with an image's name", "png", bytes_of(b"text"), "cannot be read"),
    Kind(
        "one value everywhere",
        "png",
        lambda p, x: pillow()(p, x * 0),
        "every pixel is 0",
    ),
    *(
        Kind(f"half of a {ending.upper()}", ending, truncated, "cannot be read")
        for ending in "png jpg bmp gif webp tif".split()
    ),
]


def resized(path, pixels):
    small = cv2.resize(pixels * np.uint8(60), None, fx=0.7, fy=0.7)
    Image.fromarray(cv2.resize(small, pixels.shape[::-1])).save(path)


def two_values(path, pixels):
    """Stripes of 255."""
    Image.fromarray(
        pixels * 0 + np.arange(pixels.shape[1]).astype("u1") // 4 % 2 * 255
    ).save(path)


def holding(number, dtype=np.float32):
    def write(path, pixels):
        values = pixels.astype(dtype)
        values[3, 3] = number
        tifffile.imwrite(path, values, photometric="minisblack")

    return write


REFUSED_MASKS = [
    Kind("NaN", "tif", holding(np.nan), "labels are NaN in places"),
    Kind("a negative number", "tif", holding(-1, np.int32), "negative labels"),
    Kind("a fraction", "tif", holding(0.5), "labels are not whole numbers"),
    Kind("lossy compression", "jpg", lossy, "changes values"),
    Kind(
        "lossy compression in TIFF", "tif", tiff(compression="jpeg"), "changes values"
    ),
    Kind("two values", "png", two_values, "is the only number, in "),
    Kind(
        "True and False by tifffile",
        "tif",
        lambda p, x: tifffile.imwrite(p, x > 0),
        "with True as black",
    ),
    Kind("resized with interpolation", "png", resized, "are rims around others"),
    Kind(
        "another size than the image",
        "png",
        lambda p, x: pillow()(p, x[:-9]),
        "does not match",
    ),
]


# Where the image and the mask of NAME are, and what the name of the frame is.
ARRANGED = [
    ("images/NAME.png", "masks/NAME.png", "NAME"),
    ("images/NAME.tif", "labels/NAME.bmp", "NAME"),
    ("images/NAME.png", "masks/NAME_mask.png", "NAME"),
    ("NAME.png", "NAME_mask.png", "NAME"),
    ("NAME.png", "NAME_masks.png", "NAME"),
    ("NAME.tif", "NAME_cp_masks.png", "NAME"),
    ("NAME.bmp", "NAME_seg.tif", "NAME"),
    ("NAME.png", "NAME_label.png", "NAME"),
    ("NAME.png", "NAME-Mask.png", "NAME"),
    ("imagesTr/NAME_0000.png", "labelsTr/NAME.png", "NAME"),
    ("around/Images/NAME.png", "around/Masks/NAME.png", "NAME"),
    ("images/plate/NAME.png", "masks/plate/NAME.png", "plate/NAME"),
    ("plate/images/NAME.png", "plate/masks/NAME.png", "plate/NAME"),
    ("plate/NAME.png", "plate/NAME_mask.png", "plate/NAME"),
]
BY_OBJECT = ("NAME/images/NAME.png", "NAME/masks/*.png: one mask per object", "NAME")


def tables() -> str:
    """What docs/data.md says of folders and formats."""
    lines = ["### Folders", "", "| image | mask | name of the frame |", "|---|---|---|"]
    lines += [f"| `{i}` | `{m}` | `{n}` |" for i, m, n in (*ARRANGED, BY_OBJECT)]
    lines.append("")
    for title, head, kinds in (
        ("Images", "read as", GREY),
        ("Images of three channels", "read as", RGB),
        ("Masks of two values", "read as", BINARY),
        ("Masks with a number an object", "read as", INSTANCES),
        ("Images that are refused", "the message says", REFUSED),
        ("Masks that are refused", "the message says", REFUSED_MASKS),
    ):
        lines += [f"### {title}", "", f"| file | {head} |", "|---|---|"]
        lines += [f"| {kind.name} | {kind.becomes} |" for kind in kinds]
        lines.append("")
    return "\n".join(lines)


MARKED = re.compile(r"(<!-- kinds -->\n).*(<!-- end of kinds -->)", re.S)

if __name__ == "__main__":
    page = PAGE.read_text()
    PAGE.write_text(MARKED.sub(lambda m: f"{m[1]}\n{tables()}\n{m[2]}", page))
