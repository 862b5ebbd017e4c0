"""Image files by their format: how many images each holds, and their pixels.

A reader (see `Reader`) gives images as viewers show them. A new format is a reader and
its endings in `READERS`.
"""

import functools
import hashlib
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images import raster_file, tiff_file, zarr_image
from unet_tfrecords.dataset.images.frames import size_text
from unet_tfrecords.dataset.images.pages import Header, Page, Planes, Stored
from unet_tfrecords.dataset.images.value_map import Mask
from unet_tfrecords.dataset.pixel_statistics import strips
from unet_tfrecords.storage import files, json_files

FOLDER_ENDING = ".zarr"
ALL_PLANES = Planes()
MOST_LABELS = 2**24  # whole numbers that float32 holds exactly: see augment.warp_labels


class Reader(Protocol):
    """A module for a format, of a file or of a folder that is an image."""

    def count_pages(self, path: str) -> int:
        """How many images there are."""

    def header_of(self, page: Page) -> Header:
        """Size, channels and type of an image, before its pixels are read."""

    def pixel_size_um(self, page: Page) -> tuple[float, float] | None:
        """Height and width of a pixel in micrometres; None where it is not known."""

    def read(self, page: Page) -> Stored:
        """Reads an image, upright; or says in a UserError what it cannot read."""

    def has_windows(self, page: Page) -> bool:
        """Whether a part of an image can be read without the rest."""

    def read_window(self, page: Page, rows: slice, columns: slice) -> Stored:
        """Reads a part of an image, from the first row and column to before the last.

        Of an image that is larger than memory, no more than that.
        """


READERS: dict[str, Reader] = {  # by the ending of a name
    **dict.fromkeys((".tif", ".tiff", ".lsm", ".btf", ".tf8"), tiff_file),
    **dict.fromkeys(raster_file.FORMATS, raster_file),
    FOLDER_ENDING: zarr_image,
}
# Images all the same, to be named wherever images are looked for.
UNREAD = {
    **dict.fromkeys((".czi", ".nd2", ".lif", ".oib", ".oif", ".zvi"), "TIFF"),
    **dict.fromkeys((".vsi", ".ims", ".dv", ".stk", ".flex", ".mrc"), "TIFF"),
    **dict.fromkeys((".dcm", ".dicom", ".nii", ".nrrd", ".mha", ".h5"), "TIFF"),
    **dict.fromkeys((".npy", ".npz", ".zip", ".svs", ".ndpi", ".scn"), "TIFF"),
    **dict.fromkeys((".jp2", ".jpx", ".heic", ".avif", ".psd", ".pgm"), "PNG or TIFF"),
    **dict.fromkeys((".ppm", ".pnm", ".tga", ".exr", ".fits"), "PNG or TIFF"),
    **dict.fromkeys((".mpo", ".jxl", ".dng", ".pbm", ".pcx", ".raw"), "PNG or TIFF"),
    **dict.fromkeys((".oir", ".qptiff", ".hdf5", ".nii.gz", ".h5ad", ".bif"), "TIFF"),
    **dict.fromkeys(
        (".ics", ".sld", ".lei", ".ets", ".xdce", ".n5", ".tif.gz"), "TIFF"
    ),
    **dict.fromkeys((".avi", ".mp4", ".mov", ".mkv", ".xcf", ".nef", ".cr2"), "TIFF"),
    **dict.fromkeys((".arw", ".orf", ".rw2", ".tiff.gz"), "PNG or TIFF"),
}
FOLDERS = re.compile(r".*?\.(zarr|n5)(?=/)", re.IGNORECASE)  # images that are folders
OF_LABELS = re.compile(rf"\.zarr/{zarr_image.LABELS}/[^/]+$", re.IGNORECASE)
ROBUST_SHARE = 0.001  # of the pixels, at either end, that are no part of the bulk
LEAST_BULK = 0.05  # of the pixels, or there is no telling
LEAST_LEVELS = 256  # of 65,536 that the bulk of a spread image has
FEW_LEVELS = 64  # of the middle nine tenths of the pixels, which is noted
ROOM = 32  # times its own range, which is left on either side of the bulk
FAR = 8  # times the bulk's range: from there on a value that recurs is no intensity


def is_image(path: str) -> bool:
    """Whether a name ends like an image that can be read here."""
    return path.lower().endswith(tuple(READERS))


def around_of(path: str, start: int) -> str:
    """The image that a file is a part of, where images are folders; else "".

    Args:
      path: of the file.
      start: where its part below the data set's folder begins.
    """
    match = FOLDERS.match(path, start)
    return path[: match.end()] if match else ""


def newest(found: Mapping[str, float], start: int) -> dict[str, float]:
    """Files and when each was changed, with one entry for an image that is a folder.

    Args:
      found: times by path.
      start: as in `around_of`.

    >>> newest({"a/1.png": 5.0, "a/2.zarr/0/0": 3.0, "a/2.zarr/0/1": 4.0}, 2)
    {'a/1.png': 5.0, 'a/2.zarr': 4.0}
    """
    times: dict[str, float] = {}
    for path, changed in found.items():
        image = around_of(path, start) or path
        times[image] = max(changed, times.get(image, changed))
    return times


def unread(path: str, start: int | None = None) -> str:
    """Says that an image is of a format which is not read; "" of any other file.

    Args:
      path: of the file.
      start: as in `around_of`; by default a file is no part of another image.

    >>> unread("a/f04.czi")
    'a/f04.czi: CZI is not read; convert it to TIFF'
    >>> unread("a/f05.n5/0/0/0", 2)
    'a/f05.n5: N5 is not read; convert it to TIFF'
    """
    if start is not None:
        path = around_of(path, start) or path
    name = files.basename(path).lower()
    ending = next((e for e in UNREAD if name.endswith(e)), "")
    if not ending or name.endswith("_seg.npy"):  # Cellpose's notes beside an image
        return ""
    return f"{path}: {ending[1:].upper()} is not read; convert it to {UNREAD[ending]}"


def _reader_of(path: str) -> Reader:
    """Also of an image inside one: the labels of an OME-Zarr, whose names are any."""
    if OF_LABELS.search(path):
        return READERS[FOLDER_ENDING]
    own = os.path.splitext(path)[1].lower()
    return READERS[own] if own in READERS else READERS[FOLDER_ENDING]


def _is_tiff(path: str) -> bool:
    return _reader_of(path) is READERS[".tif"]


def _is_raster(path: str) -> bool:
    return _reader_of(path) is READERS[".png"]


def _explained(read):
    """Turns whatever a decoder throws at a broken file into one line that names it."""

    @functools.wraps(read)
    def wrapped(page, *args, **named):
        path = str(page)
        try:
            return read(page, *args, **named)
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
    """Images of a file: 1 unless it is a TIFF stack."""
    return _reader_of(path).count_pages(path)


@_explained
def pages_of(path: str, planes: Planes = ALL_PLANES) -> list[Page]:
    """The images of a file, or those of an OME-Zarr that are wanted."""
    if _reader_of(path) is not READERS[FOLDER_ENDING]:
        if planes != ALL_PLANES:
            raise UserError(
                f"{path}: level, times and slices choose images of an OME-Zarr, and "
                "this is another format; leave them out"
            )
        return [Page(path, number) for number in range(count_pages(path))]
    numbers = zarr_image.numbers_of(path, planes)
    return [Page(path, number, level=planes.level) for number in numbers]


@_explained
def label_names(path: str) -> list[str]:
    """Names of the label images inside an OME-Zarr; none of any other file."""
    is_folder = path.lower().endswith(FOLDER_ENDING)
    return zarr_image.label_names(path) if is_folder else []


@_explained
def is_label_image(path: str) -> bool:
    """Whether an OME-Zarr says that it is the labels of another image."""
    return zarr_image.is_label_image(path)


@_explained
def check_alike(image: str, mask: str) -> None:
    """Sees that pages of one number are of the same time and z.

    Raises:
      UserError: they are not.
    """
    if {_reader_of(image), _reader_of(mask)} != {READERS[FOLDER_ENDING]}:
        return  # by number
    own, others = zarr_image.stacks_of(image), zarr_image.stacks_of(mask)
    if own != others:
        (times, slices), (mask_times, mask_slices) = own[0], others[0]
        raise UserError(
            f"{mask}: {mask_times} times and {mask_slices} z, but {image} has {times} "
            f"and {slices}"
        )


def stack_of(page: Page) -> list[Page]:
    """The pages of an OME-Zarr that are neighbours in z, or else in time."""
    return zarr_image.beside(page)


@_explained
def header_of(page: Page) -> Header:
    """What the file says of an image; its pixels may still be damaged."""
    header = _reader_of(page.path).header_of(page)
    if page.window is None:
        return header
    top, left, bottom, right = page.window
    return header._replace(height=bottom - top, width=right - left)


@_explained
def has_windows(page: Page) -> bool:
    """Whether parts of an image can be read, in memory for no more than them."""
    reader = _reader_of(page.path)
    if not reader.has_windows(page):
        return False
    # Others are spread by their smallest and largest value.
    return reader.header_of(page).dtype in ("uint8", "uint16")


def has_header(path: str) -> bool:
    """Whether a file says how large its images are before they are decoded."""
    return not _is_raster(path)


@_explained
def pixels_of(page: Page) -> int:
    """Height times width; of a file whose header says nothing of it, its bytes."""
    if not has_header(page.path):
        return files.size_of(page.path)
    header = header_of(page)
    return header.height * header.width


def sha256_of(path: str) -> str:
    """sha256 of a file; of a folder that is an image, of what its files have."""
    if _reader_of(path) is not READERS[FOLDER_ENDING]:
        return files.sha256_of(path)
    names = sorted(files.all_below(path))
    return json_files.fingerprint(
        [[name, files.sha256_of(files.join(path, name))] for name in names]
    )


def digest_of(page: Page) -> str:
    """sha256 of the file of an image; of a region of it, of its pixels as stored.

    A slide would be read as a whole for each of its regions.
    """
    if page.window is None:
        return sha256_of(page.path)
    values = decode(page).values
    digest = hashlib.sha256(f"{values.shape} {values.dtype}".encode())
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def decode(page: Page) -> Stored:
    """Reads the pixels that a file stores."""
    if page.window is None:
        return _reader_of(page.path).read(page)
    top, left, bottom, right = page.window
    return _decode_window(page, slice(top, bottom), slice(left, right))


def _decode_window(page: Page, rows: slice, columns: slice) -> Stored:
    stored = _reader_of(page.path).read_window(page, rows, columns)
    expected = rows.stop - rows.start, columns.stop - columns.start
    if stored.values.shape[:2] != expected:
        raise UserError(f"{page}: ends beyond the image")
    return stored


def read_images(
    pages: Sequence[Page],
    channels: int,
    notes: list[str] | None = None,
    *,
    selected: Sequence[int] = (),
    window: tuple[slice, slice] | None = None,
) -> np.ndarray:
    """Reads images, such as a frame and its neighbours, as one of all their channels.

    Args:
      pages: where they are.
      channels: how many they have together.
      notes, selected, window: of each, as `read_image` takes them.

    Returns:
      uint8 or uint16 [H, W, channels].

    Raises:
      UserError: one is not as it should be, or another than the first.
    """
    each = channels // len(pages)
    known: dict[Page, np.ndarray] = {}
    for page in pages:  # at the ends of a stack some are the same
        if page not in known:
            known[page] = read_image(
                page,
                each,
                notes,
                selected=selected,
                images=len(pages),
                window=window,
            )
    first = known[pages[0]]
    for page, image in known.items():
        if (image.shape, image.dtype) != (first.shape, first.dtype):
            raise UserError(
                f"{page}: {size_text(image)} px, {image.dtype}, but its neighbour "
                f"{pages[0]} has {size_text(first)} px, {first.dtype}"
            )
    if len(pages) == 1:
        return first
    return np.concatenate([known[page] for page in pages], axis=2)


def neighbours_of(
    pages: Sequence[Page], place: int, offsets: Sequence[int]
) -> tuple[Page, ...]:
    """The pages beside one; beyond either end the last one there is.

    >>> pages = [Page("a", z) for z in range(3)]
    >>> [page.number for page in neighbours_of(pages, 0, (-1, 2))]
    [0, 2]
    """
    last = len(pages) - 1
    return tuple(pages[min(max(place + offset, 0), last)] for offset in offsets)


@_explained
def read_image(
    page: Page,
    channels: int,
    notes: list[str] | None = None,
    *,
    selected: Sequence[int] = (),
    spread: bool = True,
    images: int = 1,
    window: tuple[slice, slice] | None = None,
) -> np.ndarray:
    """Reads one image, or a part of it, as viewers show it.

    A palette is applied. An alpha channel is dropped. Grey saved as RGB (three equal
    channels) counts as one channel, and grey becomes three equal channels where three
    are wanted. Other than unsigned 8 and 16 bit is spread linearly over 16 bit, which
    normalisation by mean and deviation undoes.

    Args:
      page: where it is.
      channels: how many channels it must have.
      notes: takes in a line on each thing that its owner should look at.
      selected: which channels of the file they are, from 0; () takes all there are.
      spread: whether other than 8 and 16 bit is spread.
      images: how many are read as one, for the message.
      window: rows and columns, from a start to a stop; None takes all.

    Returns:
      uint8 or uint16 [H, W, channels], or as stored where nothing is spread.

    Raises:
      UserError: unreadable, not 2D, not finite or of other channels.
    """
    if window is None:
        stored = decode(page)
    else:
        stored = _decode_window(page, *window)
    image = stored.values
    if stored.palette is not None:
        image = stored.palette[image]
    if stored.spread > 1:
        image = image * np.uint8(stored.spread)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or not image.size:
        raise UserError(f"{page}: shape {image.shape} is not that of a 2D image")
    if selected:
        image = _selected(page, image, selected)
    elif stored.has_alpha and image.shape[2] != channels:
        image = image[..., :-1]
    if channels == 1 and image.shape[2] == 3 and (image == image[..., :1]).all():
        image = image[..., :1]
    if channels == 3 and image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    if image.shape[2] != channels:
        raise UserError(_other_channels(page, image, channels, images))
    if image.dtype.kind == "c":
        raise UserError(f"{page}: complex numbers; save their magnitude")
    if image.dtype.kind not in "uib" and not np.isfinite(image).all():
        raise UserError(f"{page}: holds NaN or infinite values; repair or remove it")
    notes = [] if notes is None else notes
    if skipped := _smaller_pages(page):
        notes.append(
            "pages that are smaller versions or transparency are left out: "
            f"{skipped} of {page.path}"
        )
    if not spread:
        return np.ascontiguousarray(image)
    if image.dtype not in (np.uint8, np.uint16):
        if window:
            raise UserError(
                f"{page}: {image.dtype}, which is spread by its smallest and largest "
                "value; convert it to unsigned 8 or 16 bit to have it read in parts"
            )
        # Each channel by itself: one can be a ratio, another a count.
        spread_channels = [_spread(image[..., c], notes) for c in range(channels)]
        image = np.stack(spread_channels, axis=2)
    elif image.dtype == np.uint16:
        _note_hot_pixels(image, notes)
    return np.ascontiguousarray(image)


def _smaller_pages(page: Page) -> int:
    return tiff_file.layout_of(page.path).skipped if _is_tiff(page.path) else 0


def _selected(page: Page, image: np.ndarray, selected: Sequence[int]) -> np.ndarray:
    if max(selected) >= image.shape[2]:
        raise UserError(
            f"{page}: {image.shape[2]} channels, the last is {image.shape[2] - 1}, but "
            f"config.data.channels={tuple(selected)} takes channel {max(selected)}"
        )
    return image[..., list(selected)]


def _other_channels(
    page: Page, image: np.ndarray, channels: int, images: int = 1
) -> str:
    if images > 1:
        return (
            f"{page}: {image.shape[2]} channels, where each of {images} images, the "
            f"frame and its neighbours, has {channels} of config.model.channels="
            f"{images * channels}; set that to {images * image.shape[2]}, or convert it"
        )
    line = (
        f"{page}: {image.shape[2]} channels where config.model.channels promises "
        f"{channels}; "
    )
    used = [c for c in range(image.shape[2]) if image[..., c].any()]
    if len(used) == channels:
        which = tuple(used)
        return (
            f"{line}the others are empty: preprocess with config.data.channels={which}"
        )
    if image.shape[2] > channels:
        which = tuple(range(channels))
        return (
            f"{line}convert it, or preprocess and train with the other number, or with "
            f"some of them, as config.data.channels={which}"
        )
    return f"{line}convert it, or preprocess and train with the other number"


@_explained
def pixel_size_um(page: Page) -> tuple[float, float] | None:
    """Height and width of a pixel in micrometres; None where the file does not say."""
    return _reader_of(page.path).pixel_size_um(page)


@_explained
def is_spread(page: Page) -> bool:
    """Whether `read_image` spreads the intensities, as it does but for 8 and 16 bit."""
    if _is_raster(page.path):
        return False
    return _reader_of(page.path).header_of(page).dtype not in ("uint8", "uint16")


def _note_hot_pixels(image: np.ndarray, notes: list[str]) -> None:
    """Notes a few pixels at the top of a dark image, which keeps them."""
    top = np.iinfo(image.dtype).max
    if image.max() < top:
        return
    few, bulk = _bulk(image)
    if few and bulk[1] < top / 16:
        notes.append(
            f"a few pixels of {top} in a dark image (hot ones?) move its mean: it is "
            f"below {bulk[1]:.0f} otherwise"
        )


def _bulk(image: np.ndarray) -> tuple[bool, tuple[float, float]]:
    """The range of all but outliers, and whether there are some outside.

    Outliers are the smallest and the largest value, which stand for missing data or a
    saturated detector, and ROBUST_SHARE of the others at either end.
    """
    flat = image.reshape(-1)
    flat = flat[:: max(1, flat.size // 2**22)]  # of a huge image a sample will do
    low, high = flat.min(), flat.max()
    inner = flat[(flat != low) & (flat != high)]
    if inner.size < LEAST_BULK * flat.size:
        return False, (float(low), float(high))
    cut = int(ROBUST_SHARE * inner.size)
    ordered = np.partition(inner, [cut, inner.size - 1 - cut])
    return True, (float(ordered[cut]), float(ordered[inner.size - 1 - cut]))


def _levels(image: np.ndarray) -> int:
    """How many of 65,536 levels the middle nine tenths of an image span."""
    sample = image.reshape(-1)[:: max(1, image.size // 2**20)]
    start, end = np.percentile(sample.astype(np.float64), [5, 95])
    span = float(image.max()) - float(image.min())
    return int((end - start) / span * 65535) if 0 < span < np.inf else 65535


def _spread(image: np.ndarray, notes: list[str]) -> np.ndarray:
    """Any finite numbers to uint16, the smallest to 0 and the largest to 65535.

    Outliers so far out that little would be left of the others are clipped, and closer
    to these where one value recurs: it stands for missing data.
    """
    low, high = float(image.min()), float(image.max())
    has_outliers, bulk = _bulk(image)
    # Near 1 by a power of two, which rounds nothing: neither the span of 1e308 and
    # -1e308 nor one over the span of 1e-310 would be finite.
    shift = -math.frexp(max(abs(low), abs(high)))[1]
    low, high = math.ldexp(low, shift), math.ldexp(high, shift)
    start, end = (math.ldexp(value, shift) for value in bulk)
    span = end - start
    is_filler = [
        away > FAR * span and np.mean(image == extreme) > ROBUST_SHARE
        for away, extreme in ((start - low, image.min()), (high - end, image.max()))
    ]
    is_narrow = 0 < span < (high - low) * LEAST_LEVELS / 2**16
    if has_outliers and span > 0 and (is_narrow or any(is_filler)):
        notes.append(
            f"outliers of intensity are clipped: from {image.min():g} to "
            f"{image.max():g}, where the others are between {bulk[0]:g} and {bulk[1]:g}"
        )
        below, above = (span * (1 if filler else ROOM) for filler in is_filler)
        low, high = max(low, start - below), min(high, end + above)
    elif (levels := _levels(image)) < FEW_LEVELS:
        notes.append(
            f"most pixels share few of 65,536 grey levels: {levels}, between the 5th "
            "and the 95th percentile; values far away take the others"
        )
    scale = 65535 / (high - low) if high > low else 0.0
    spread = np.empty(image.shape, np.uint16)
    for there, here in zip(strips(image), strips(spread), strict=True):
        near_one = np.ldexp(there.astype(np.float64), shift)
        here[:] = np.rint(np.clip((near_one - low) * scale, 0, 65535))
    return spread


def read_labels(
    page: Page, *, exact: bool = True, notes: list[str] | None = None
) -> np.ndarray:
    """Reads a label image of numbers; see `read_mask`.

    Raises:
      UserError: unreadable, not 2D, not integers, or of colours.
    """
    mask = read_mask(page, exact=exact, notes=notes)
    if mask.has_colours:
        raise UserError(
            f"{page}: holds colours; a label is a whole number for each pixel"
        )
    return mask.values


@_explained
def read_mask(
    page: Page,
    *,
    exact: bool = True,
    as_colours: bool = False,
    whole_palette: bool = True,
    notes: list[str] | None = None,
) -> Mask:
    """Reads a mask: whole numbers as stored, grey values of a grey palette.

    Of a palette of colours the indices are the labels. A colour saved as RGB is the
    number 0xRRGGBB.

    Args:
      page: where it is.
      exact: whether to refuse a file whose compression changes values.
      as_colours: whether greys and the colours of palettes are such numbers too.
      whole_palette: whether a palette is one of greys only if all of its colours are,
        which all masks of a data set share, or if those are that occur.
      notes: takes in a line on each thing that its owner should look at.

    Returns:
      uint16 [H, W], or int32 where there are more than 65,535.

    Raises:
      UserError: unreadable, not 2D or not integers.
    """
    stored = decode(page)
    image = stored.values
    if exact and stored.is_lossy:
        raise UserError(
            f"{page}: its compression (JPEG or the like) changes values, and so the "
            "labels; save the mask as PNG or TIFF without it"
        )
    if stored.palette is not None:
        if as_colours:
            image = stored.palette[image]
        elif _is_grey(stored, whole=whole_palette):
            image = stored.palette[image, 0]
        else:
            _check_black(page, stored)
            if notes is not None:
                notes.append("indices of a palette of colours are taken for the labels")
    if as_colours and stored.spread > 1:
        image = image * np.uint8(stored.spread)
    if image.ndim == 3 and image.shape[2] > 1:
        has_parts = stored.has_alpha and image[..., -1].min() != image[..., -1].max()
        image = image[..., : -1 if stored.has_alpha else None]
        is_grey = bool((image == image[..., :1]).all())
        if has_parts:
            raise UserError(
                f"{page}: has transparent parts; save the mask without an alpha channel"
            )
        if is_grey:  # saved as RGB
            image = image[..., :1]
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.ndim == 2 and as_colours:
        image = np.repeat(image[..., None], 3, axis=2)
    if image.ndim == 3:
        return Mask(_numbers_of_colours(page, image, stored.is_lossy), True)
    return Mask(
        _whole_numbers(page, image),
        palette=_palette_kind(stored),
        colours=_colours_of(stored),
    )


def _numbers_of_colours(page: Page, image: np.ndarray, is_lossy: bool) -> np.ndarray:
    """RGB to 0xRRGGBB, int32 [H, W]."""
    if image.shape[2] != 3:
        raise UserError(
            f"{page}: {image.shape[2]} channels in a mask; a label is a whole number "
            "for each pixel"
        )
    if image.dtype != np.uint8:
        raise UserError(
            f"{page}: colours of a mask must have 8 bits, not {image.dtype}"
        )
    if is_lossy:
        raise UserError(
            f"{page}: its compression (JPEG or the like) changes colours; save the "
            "mask as PNG"
        )
    red, green, blue = np.moveaxis(image.astype(np.int32), -1, 0)
    return red << 16 | green << 8 | blue


def _whole_numbers(page: Page, image: np.ndarray) -> np.ndarray:
    if image.dtype.kind == "f":
        image = image.astype(np.promote_types(image.dtype, np.float32))
        if np.isnan(image).any():
            raise UserError(f"{page}: labels are NaN in places; 0 is background")
        if (image != np.rint(image)).any():
            raise UserError(
                f"{page}: labels are not whole numbers ({image.dtype}); probabilities "
                "must be thresholded first"
            )
    elif image.dtype.kind not in "uib":
        raise UserError(f"{page}: labels are not whole numbers ({image.dtype})")
    if image.size and image.min() < 0:
        raise UserError(
            f"{page}: negative labels, down to {image.min()}; 0 is background, and "
            "255 of labels=class is unlabelled"
        )
    if image.size and image.max() > MOST_LABELS:
        raise UserError(
            f"{page}: labels up to {image.max()}; 0 to {MOST_LABELS} can be told "
            "apart: number the objects from 1"
        )
    return image.astype(np.uint16 if image.max(initial=0) < 2**16 else np.int32)


def _is_grey(stored: Stored, *, whole: bool) -> bool:
    """Whether all colours of a palette are grey, or all that occur."""
    assert stored.palette is not None
    used = stored.palette if whole else stored.palette[np.unique(stored.values)]
    return bool((used == used[:, :1]).all())


def _palette_kind(stored: Stored) -> str:
    if stored.palette is None:
        return ""
    if _is_grey(stored, whole=True):
        return "greys"
    return "mixed" if _is_grey(stored, whole=False) else "colours"


def _colours_of(stored: Stored) -> dict[int, int]:
    """0xRRGGBB of the indices that occur, of a palette of colours."""
    if stored.palette is None or _is_grey(stored, whole=True):
        return {}
    used = np.unique(stored.values)
    red, green, blue = stored.palette[used].astype(np.int32).T
    return dict(
        zip(used.tolist(), (red << 16 | green << 8 | blue).tolist(), strict=True)
    )


def _check_black(page: Page, stored: Stored) -> None:
    """Refuses a palette of colours whose black occurs and is not number 0."""
    assert stored.palette is not None
    used = np.unique(stored.values)
    black = used[(stored.palette[used] == 0).all(axis=1)]
    if len(black) and black[0] > 0:
        raise UserError(
            f"{page}: black is number {black[0]} of its palette, and 0 is background; "
            "give its colours numbers, as --config.data.mask_values='#000000=0, "
            "#ff0000=1', or save it in grey"
        )
