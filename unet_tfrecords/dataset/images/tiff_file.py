"""TIFF, and LSM, which is TIFF: which images a file holds, and each as viewers show it.

TIFF 6.0 has the tags' meanings (pages in brackets).
"""

import contextlib
import functools
import html
import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import imagecodecs  # noqa: F401  tifffile needs it for LZW, the challenge's compression
import numpy as np
import tifffile

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.command.extras import load_extra
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
from unet_tfrecords.storage.local_copies import open_near, open_parts, version_of

WHITE_IS_ZERO, PALETTE, YCBCR = 0, 3, 6  # PhotometricInterpretation (p. 37)
SHOWN_AS_STORED = (1, 2)  # grey with black as zero, RGB
JPEG = (6, 7)  # Compression; its YCbCr is decoded to RGB
# JPEG, WebP, JPEG 2000, JPEG XR, JPEG XL, LERC: some can be lossless, none says so.
LOSSY = {*JPEG, 22610, 33003, 33004, 33005, 34712, 34887, 34892, 34934, 50001, 50002}
_ALPHAS = ((1,), (2,))  # ExtraSamples (p. 31): associated and unassociated, at the end
UM = {  # micrometres of a unit, as ImageJ and OME write them
    **dict.fromkeys(("um", "\u00b5m", "\u03bcm", "\\u00B5m", "micron", "microns"), 1.0),
    **{"nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "pm": 1e-6, "\u00c5": 1e-4},
    **dict.fromkeys(("in", "inch", "inches"), 25_400.0),
}
OME_PIXELS = re.compile(r"<(?:\w+:)?Pixels\b[^>]*>")
KEPT_LAYOUTS = 256  # of files that are read again and again


class TiffLayout(NamedTuple):
    """Which pages of a file are images.

    Attributes:
      images: the page numbers of each image, one page a channel where channels are
        pages of their own.
      skipped: pages left out: smaller versions of others, and their transparency.
    """

    images: tuple[tuple[int, ...], ...]
    skipped: int = 0


@contextlib.contextmanager
def opened(path: str, *, whole: bool = False) -> Iterator[tifffile.TiffFile]:
    """Opens a TIFF whose pages are read one by one.

    Args:
      path: of the file.
      whole: whether whole pages are: a large remote one is then copied.
    """
    opener = open_near if whole else open_parts
    with opener(path) as file, tifffile.TiffFile(file) as tiff:
        yield tiff


def layout_of(path: str) -> TiffLayout:
    """Finds the images of a file.

    Raises:
      ValueError, UserError: broken, or of a form that is not read.
    """
    return _layout(path, *version_of(path))


@functools.lru_cache(KEPT_LAYOUTS)
def _layout(path: str, _size: int, _version: str) -> TiffLayout:
    with opened(path) as tiff:
        heads = image_checks.page_heads(tiff)
        largest = max((head.height, head.width) for head in heads)
        kept = [i for i, head in enumerate(heads) if not head.is_auxiliary(*largest)]
        if not kept:  # all say that they are smaller versions, of nothing that is here
            sizes = [(head.height, head.width) for head in heads]
            kept = [i for i, size in enumerate(sizes) if size == largest]
        if len(kept) == 1 and (images := _images_behind(tiff, kept[0])) > 1:
            raise UserError(
                f"{path}: {images} images behind one header, as of ImageJ over 4 GB; "
                "save it as a TIFF of single pages, or in parts"
            )
        return TiffLayout(_by_channels(path, tiff, kept), len(heads) - len(kept))


def _images_behind(tiff: tifffile.TiffFile, number: int) -> int:
    """Images behind the header of one page; what it says counts only if they fit."""
    page = tiff.pages[number].aspage()
    told = 1
    if tiff.is_imagej:
        told = int((tiff.imagej_metadata or {}).get("images", 1))
    elif tiff.is_stk or tiff.is_shaped:  # MetaMorph, tifffile
        told = tiff.series[0].size // page.size
    end = page.dataoffsets[0] + told * page.nbytes
    return told if page.is_contiguous and end <= tiff.filehandle.size else 1


def _by_channels(
    path: str, tiff: tifffile.TiffFile, kept: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    """Puts pages together that are channels of one image, by the metadata."""
    single = tuple((number,) for number in kept)
    imagej = tiff.imagej_metadata or {} if tiff.is_imagej else {}
    says = tiff.is_ome or tiff.is_shaped or int(imagej.get("channels", 1)) > 1
    if not says or len(kept) == 1 and not tiff.is_ome:
        return single
    images = [image for each in tiff.series for image in _images_of(each)]
    if sorted(number for image in images for number in image) == [*kept]:
        return tuple(images)
    if any(
        "C" in each.axes and each.sizes.get("channel", 2) > 1 for each in tiff.series
    ):
        raise UserError(
            f"{path}: its channels are pages, some in other files or missing; "
            "save it as a single whole TIFF"
        )
    return single


def _images_of(series: tifffile.TiffPageSeries) -> list[tuple[int, ...]]:
    """The page numbers of each image of a series; none if pages are elsewhere."""
    axes = series.axes[: -2 if series.axes.endswith("YX") else -3]
    found = [getattr(page, "index", None) for page in series.pages]
    numbers = [number for number in found if number is not None]
    if len(numbers) < len(found):
        return []
    if len(numbers) != math.prod(series.shape[: len(axes)]):
        return [(number,) for number in numbers]  # channels are within a page
    grid = np.array(numbers).reshape(series.shape[: len(axes)])
    if "C" in axes:
        grid = np.moveaxis(grid, axes.index("C"), -1)
        return [tuple(each) for each in grid.reshape(-1, grid.shape[-1]).tolist()]
    return [(number,) for number in grid.reshape(-1).tolist()]


def count_pages(path: str) -> int:
    """How many images a file holds."""
    return len(layout_of(path).images)


def header_of(page: Page) -> Header:
    """What the tags of an image say."""
    numbers = _numbers(page)
    with opened(page.path) as tiff:
        described = tiff.pages[numbers[0]].aspage()
    tag = described.tags.get(ORIENTATION)
    size = described.imagelength, described.imagewidth
    height, width = size[::-1] if tag and tag.value >= 5 else size
    extra = tuple(described.extrasamples)
    channels = described.samplesperpixel
    if extra[-1:] in _ALPHAS or (channels, len(extra)) == (4, 1):
        channels -= 1
    if described.photometric == PALETTE:
        channels = 3
    return Header(height, width, max(channels, len(numbers)), str(described.dtype))


def pixel_size_um(page: Page) -> tuple[float, float] | None:
    """Height and width of a pixel in micrometres, as OME or ImageJ metadata say.

    Resolution tags alone are mostly a screen's or a printer's.
    """
    with opened(page.path) as tiff:
        if tiff.is_ome and tiff.ome_metadata:
            found = {
                _ome_pixel_size(tag) for tag in OME_PIXELS.findall(tiff.ome_metadata)
            }
            sizes = found.pop() if len(found) == 1 else ()  # of several images, others
        elif tiff.is_imagej:
            unit = UM.get(str((tiff.imagej_metadata or {}).get("unit", "")), math.nan)
            tags = tiff.pages.first.tags
            both = [tags.get(name) for name in ("YResolution", "XResolution")]
            per_unit = [tag.value for tag in both if tag and tag.value[0]]
            sizes = tuple(unit * below / above for above, below in per_unit)
        else:
            return None
        tag = tiff.pages.first.tags.get(ORIENTATION)
    if len(sizes) != 2 or not all(0 < size < math.inf for size in sizes):
        return None
    is_turned = tag is not None and tag.value >= 5
    return (sizes[1], sizes[0]) if is_turned else (sizes[0], sizes[1])


def _ome_pixel_size(tag: str) -> tuple[float, ...]:
    """PhysicalSizeY and X of a <Pixels> element, in micrometres."""
    said = {k: html.unescape(v) for k, v in re.findall(r'(\w+)="([^"]*)"', tag)}
    return tuple(
        float(said[f"PhysicalSize{axis}"])
        * UM.get(said.get(f"PhysicalSize{axis}Unit", "um"), math.nan)
        for axis in "YX"
        if f"PhysicalSize{axis}" in said
    )


def _numbers(page: Page) -> tuple[int, ...]:
    images = layout_of(page.path).images
    if page.number >= len(images):
        raise ValueError(f"it has no page {page.number}")
    return images[page.number]


def read(page: Page) -> Stored:
    """Reads one image.

    Raises:
      ValueError, UserError: broken, or of a form that is not read.
    """
    return _read(page, None)


def has_windows(page: Page) -> bool:
    """Tiles and strips are read one by one, unless they are then turned."""
    with opened(page.path) as tiff:
        tags = [tiff.pages[n].aspage().tags.get(ORIENTATION) for n in _numbers(page)]
    return all(tag is None or tag.value == UPRIGHT for tag in tags)


def read_window(page: Page, rows: slice, columns: slice) -> Stored:
    """Reads a part of an image: no more tiles or strips than it touches.

    Args:
      page: which.
      rows, columns: of it, from a start to a stop.

    Raises:
      ValueError, UserError: broken, or of a form that is not read.
    """
    return _read(page, (rows, columns))


def _read(page: Page, window: tuple[slice, slice] | None) -> Stored:
    numbers = _numbers(page)
    with opened(page.path, whole=window is None) as tiff:
        planes = [_read_page(page, tiff, number, window) for number in numbers]
    check_unchanged(page)
    if len(planes) == 1:
        return planes[0]
    values = [each.values for each in planes]
    if len({(each.shape, each.dtype) for each in values}) > 1 or values[0].ndim > 2:
        raise ValueError("its channels differ in size or kind")
    return planes[0]._replace(values=np.stack(values, -1))


def _read_page(
    page: Page,
    tiff: tifffile.TiffFile,
    number: int,
    window: tuple[slice, slice] | None,
) -> Stored:
    described = tiff.pages[number].aspage()
    _check(page, described, window)
    if window is None:
        values = np.asarray(described.asarray())
    else:
        values = _window_of(page, described, window)
    if described.planarconfig == 2 and values.ndim == 3:
        values = np.moveaxis(values, 0, -1)
    palette = None
    if described.photometric == PALETTE and described.colormap is not None:
        if values.ndim > 2:
            raise ValueError("a palette beside other channels")
        table = described.colormap.T
        # Some writers leave 8 bits where 16 belong; libtiff looks for that too.
        palette = (table >> 8 if table.max() > 255 else table).astype(np.uint8)
    elif described.photometric == WHITE_IS_ZERO:
        values = _black_as_zero(page, described, values, is_imagej=tiff.is_imagej)
    tag = described.tags.get(ORIENTATION)
    channels = values.shape[2] if values.ndim == 3 else 1
    extra = tuple(described.extrasamples)
    return Stored(
        upright(values, tag.value if tag else UPRIGHT),
        palette,
        # RGB with a fourth sample of no stated kind: ImageJ and Pillow show RGB.
        has_alpha=channels > 1
        and (extra[-1:] in _ALPHAS or (channels, len(extra)) == (4, 1)),
        is_lossy=described.compression in LOSSY,
    )


def _window_of(
    page: Page, described: tifffile.TiffPage, window: tuple[slice, slice]
) -> np.ndarray:
    tag = described.tags.get(ORIENTATION)
    if tag and tag.value != UPRIGHT:
        raise UserError(
            f"{page}: its orientation tag turns it, and it is too large to be turned "
            "in memory; save it upright"
        )
    at = (..., *window) if described.axes.endswith("YX") else window
    if described.is_memmappable and described.parent.filehandle.is_file:
        return np.array(described.asarray(out="memmap")[at])
    zarr = load_extra("zarr", flag=f"{page}: a part of a TIFF", extra="zarr")
    with described.aszarr() as store:
        return np.asarray(zarr.open_array(store, mode="r")[at])


def _black_as_zero(
    page: Page, described: tifffile.TiffPage, values: np.ndarray, *, is_imagej: bool
) -> np.ndarray:
    """Inverts an image whose white is zero.

    Raises:
      UserError: the program that wrote it may have meant the contrary.
    """
    if is_imagej:
        raise UserError(
            f"{page}: ImageJ saved it with an inverting LUT, so that 255 may be the "
            "object or the background; in ImageJ choose Image > Lookup Tables > Grays "
            "where 255 is the object, or Edit > Invert before it where 0 is, and save"
        )
    if values.dtype == bool:
        if described.software.startswith("tifffile"):
            raise UserError(
                f"{page}: tifffile saved it with True as black, so that True may be "
                "the object or the background; save it again as numbers: "
                "tifffile.imwrite(path, mask.astype('uint8'))"
            )
        return ~values
    if values.dtype.kind != "u":
        raise ValueError(f"white as zero in {values.dtype}")
    white = values.dtype.type(2 ** int(described.bitspersample) - 1)
    return white - values


def _check(
    page: Page, described: tifffile.TiffPage, window: tuple[slice, slice] | None
) -> None:
    height, width = described.imagelength, described.imagewidth
    if described.dtype is None or not height * width:
        raise ValueError(f"{height} x {width} px of no known kind")
    if described.imagedepth > 1:
        raise UserError(
            f"{page}: a volume of {described.imagedepth} slices in one page; save it "
            "as a stack, a page a slice, and each slice becomes a frame"
        )
    kind = described.photometric
    decoded = kind == YCBCR and described.compression in JPEG
    if kind not in (*SHOWN_AS_STORED, WHITE_IS_ZERO, PALETTE) and not decoded:
        name = getattr(kind, "name", kind)
        raise UserError(f"{page}: its colours are {name}; save it as RGB or grey")
    bytes_a_pixel = described.nbytes / height / width
    if window:
        height, width = (side.stop - side.start for side in window)
    image_checks.check_size(str(page), height, width, bytes_a_pixel)
    image_checks.repair_counts(described)
    image_checks.check_strips(described)
