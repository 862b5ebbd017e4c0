"""OME-Zarr: an image as a folder of chunks, at several resolutions.

Versions 0.3 to 0.5 of the format (ngff.openmicroscopy.org). A 2D image is a page: of
each time and each z, in this order; of several images in one folder (a file converted
by bioformats2raw, the wells of a plate), one image after the other.
"""

import functools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.command.extras import load_extra
from unet_tfrecords.dataset.images import image_checks
from unet_tfrecords.dataset.images.pages import (
    FOLDER_METADATA,
    Header,
    Page,
    Planes,
    Stored,
    check_unchanged,
    stamp_of,
)
from unet_tfrecords.storage import files

AXES = "tczyx"  # in the order that the format prescribes
LABELS = "labels"
CHANGES = ("scale", "translation")  # coordinateTransformations that are read
UM = {  # of the format's names of units, which are UDUNITS-2's
    **{"angstrom": 1e-4, "nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3},
    **{"centimeter": 1e4, "meter": 1e6, "picometer": 1e-6, "inch": 25_400.0},
}
KEPT_LAYOUTS = 256  # of images that are read again and again


class Level(NamedTuple):
    """An image at one resolution.

    Attributes:
      name: of its array, relative to the image's folder.
      shape: by the axis' name; axes that the image lacks have 1.
      axes: that the array has, in its order.
      dtype: of its values.
      pixel_um: height and width of a pixel; None where that is not said.
      scale, translation: of each axis that the array has, in its unit.
      units: of these axes; "" where none is said.
    """

    name: str
    shape: Mapping[str, int]
    axes: str
    dtype: np.dtype
    pixel_um: tuple[float, float] | None
    scale: tuple[float, ...]
    translation: tuple[float, ...]
    units: tuple[str, ...]


def count_pages(path: str) -> int:
    """The number of 2D images: one for each time and z of each image."""
    return sum(_planes(levels[0]) for levels in _images(path))


def numbers_of(path: str, planes: Planes) -> list[int]:
    """The numbers of the pages that are wanted.

    Raises:
      UserError: an image has no such time, z or resolution.
    """
    numbers, first = list[int](), 0
    for levels in _images(path):
        shape = levels[0].shape
        for kind, axis, wanted, size in (
            ("levels", "resolution", (planes.level,), len(levels)),
            ("times", "time", planes.times, shape["t"]),
            ("slices", "z", planes.slices, shape["z"]),
        ):
            if max(wanted, default=0) >= size:
                raise UserError(
                    f"{path}: has {kind} 0 to {size - 1}, but {axis} {max(wanted)} was "
                    "given"
                )
        chosen = levels[planes.level].shape
        if (chosen["t"], chosen["z"]) != (shape["t"], shape["z"]):
            raise UserError(
                f"{path}: resolution {planes.level} has other times or z than 0, which "
                "is not read; choose one that is smaller in y and x alone"
            )
        times = planes.times or range(shape["t"])
        slices = planes.slices or range(shape["z"])
        numbers += [first + t * shape["z"] + z for t in times for z in slices]
        first += _planes(levels[0])
    return numbers


def stacks_of(path: str) -> list[tuple[int, int]]:
    """How many times and z each image has."""
    return [(level.shape["t"], level.shape["z"]) for level, *_ in _images(path)]


def beside(page: Page) -> list[Page]:
    """The pages of a page's stack: those of all z, or of all times where z is one."""
    first = 0
    for times, slices in stacks_of(page.path):
        if page.number < first + times * slices:
            break
        first += times * slices
    if slices > 1:
        start = page.number - (page.number - first) % slices
        return [page._replace(number=start + z) for z in range(slices)]
    return [page._replace(number=first + t) for t in range(times)]


def header_of(page: Page) -> Header:
    """What the metadata say of a page."""
    level, _ = _at(page)
    size = level.shape
    return Header(size["y"], size["x"], size["c"], str(level.dtype))


def pixel_size_um(page: Page) -> tuple[float, float] | None:
    """Height and width of a pixel in micrometres; None where that is not said."""
    return _at(page)[0].pixel_um


def read(page: Page) -> Stored:
    """Reads a page as a whole."""
    header = header_of(page)
    itemsize = header.channels * np.dtype(header.dtype).itemsize
    image_checks.check_size(str(page), header.height, header.width, itemsize)
    return read_window(page, slice(0, header.height), slice(0, header.width))


def has_windows(_: Page) -> bool:
    """Chunks are read one by one."""
    return True


def read_window(page: Page, rows: slice, columns: slice) -> Stored:
    """Reads a part of a page: no more chunks than it touches.

    Args:
      page: which.
      rows, columns: of it, from a start to a stop.

    Raises:
      UserError: not stored as it should be.
    """
    from numcodecs import Blosc
    from zarr.codecs import BloscCodec

    level, place = _at(page)
    array = _open(page.path)[level.name]
    at = {**place, "c": slice(None), "y": rows, "x": columns}
    kinds = Blosc, BloscCodec  # in the format's second and third version
    array.store.are_blosc = any(isinstance(c, kinds) for c in array.compressors)
    values = np.asarray(array[tuple(at[axis] for axis in level.axes)])
    check_unchanged(page)
    if "c" in level.axes:
        values = np.moveaxis(values, 0, -1)
    return Stored(values.astype(level.dtype, copy=False))


def label_names(path: str) -> list[str]:
    """Names of the label images that an image has, in `labels/`."""
    inside = files.join(path, LABELS)
    marks = (*FOLDER_METADATA, ".zgroup")
    if not any(files.exists(files.join(inside, name)) for name in marks):
        return []
    names = _ome(_open(inside).attrs).get("labels", [])
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise UserError(f"{inside}: its metadata are broken ('labels' is no list)")
    return names


def add_label_name(path: str, name: str) -> None:
    """Lists a label image, which is in `labels/` by now, among those of an image."""
    zarr = load_extra("zarr", flag=f"{path}: OME-Zarr", extra="zarr")
    from unet_tfrecords.storage.zarr_store import FolderStore

    names = label_names(path)
    is_new = files.exists(files.join(path, FOLDER_METADATA[0]))
    form = 3 if is_new else 2
    store = FolderStore(files.join(path, LABELS), read_only=False)
    group = zarr.open_group(store, mode="a", zarr_format=form)
    listed: dict[str, Any] = {"labels": [*dict.fromkeys([*names, name])]}
    if is_new:
        before = group.attrs.asdict().get("ome", {"version": "0.5"})
        listed = {"ome": {**before, **listed}}
    group.attrs.update(listed)


def level_of(page: Page) -> Level:
    """The resolution that a page is of."""
    return _at(page)[0]


def is_label_image(path: str) -> bool:
    """Whether an OME-Zarr is labels of another image, by its own metadata."""
    return "image-label" in _ome(_open(path).attrs)


def label_path(path: str, name: str) -> str:
    """Where the label image of that name is."""
    return files.join(path, LABELS, name)


def _images(path: str) -> tuple[tuple[Level, ...], ...]:
    """The resolutions, largest first, of each image in a folder.

    Raises:
      UserError: it is no OME-Zarr, or of a form that is not read.
    """
    if not (files.is_remote(path) or os.path.isdir(path)):
        raise UserError(f"{path}: is not a folder, as an OME-Zarr must be; unpack it")
    return _read_metadata(path, stamp_of(path))


@functools.lru_cache(KEPT_LAYOUTS)
def _read_metadata(path: str, _stamp: str) -> tuple[tuple[Level, ...], ...]:
    group = _open(path)
    try:
        found = [_levels(path, group, name) for name in _image_names(path, group)]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(
            f"{path}: its OME-Zarr metadata are broken ({type(error).__name__}: "
            f"{reason}); convert it again or take it out"
        ) from error
    if not found:
        raise UserError(f"{path}: holds no image")
    return tuple(found)


def _image_names(path: str, group: Any) -> Iterator[str]:
    """Groups with an image each, relative to the folder."""
    ome = _ome(group.attrs)
    if "multiscales" in ome:
        yield ""
    elif "plate" in ome:
        for well in ome["plate"].get("wells", []):
            inside = _ome(group[well["path"]].attrs).get("well", {})
            for field in inside.get("images", []):
                yield f"{well['path']}/{field['path']}"
    elif "bioformats2raw.layout" in ome:
        listed = _ome(group["OME"].attrs).get("series") if "OME" in group else None
        names = listed or sorted((n for n in group if n.isdecimal()), key=int)
        yield from map(str, names)
    else:
        raise UserError(
            f"{path}: no OME-Zarr image (no 'multiscales' in its metadata); --input "
            "takes the folder that has them, or convert it by bioformats2raw"
        )


def _levels(path: str, group: Any, name: str) -> tuple[Level, ...]:
    multiscales = _ome((group[name] if name else group).attrs).get("multiscales")
    if not multiscales:
        where = files.join(path, name) if name else path
        raise UserError(f"{where}: no OME-Zarr image ('multiscales' is empty)")
    first = multiscales[0]
    names = [_axis_name(axis) for axis in first.get("axes", AXES)]
    axes = "".join(names)
    if {*"yx"} - {*names} or [a for a in AXES if a in names] != names:
        raise UserError(
            f"{path}: its axes are {', '.join(names) or 'none'}, where some of t, c, "
            "z, y, x are read, in this order"
        )
    levels = []
    for dataset in first["datasets"]:
        inside = f"{name}/{dataset['path']}".lstrip("/")
        array = group[inside]
        if len(array.shape) != len(axes):
            raise ValueError(f"{len(array.shape)} axes where {len(axes)} are named")
        shape = dict.fromkeys(AXES, 1) | dict(zip(axes, array.shape, strict=True))
        scale, shift = np.ones(len(axes)), np.zeros(len(axes))
        for each in (dataset, first):  # the image's own change comes after
            change = _changes(each)
            own = np.asarray(change.get("scale", np.ones(len(axes))), np.float64)
            more = np.asarray(change.get("translation", np.zeros(len(axes))))
            if not len(own) == len(more) == len(axes):
                raise ValueError(f"{len(own)} scales for {len(axes)} axes")
            scale, shift = scale * own, shift * own + more
        size = _pixel_um(axes, first.get("axes", ()), scale)
        units = _units(axes, first.get("axes", ()))
        placed = tuple(scale.tolist()), tuple(shift.tolist()), units
        levels.append(Level(inside, shape, axes, _native(array.dtype), size, *placed))
    if not levels:
        raise ValueError("no 'datasets' in its metadata")
    return tuple(levels)


def _native(dtype: Any) -> np.dtype:
    """A type in this machine's byte order: others do not compare equal to it."""
    return np.dtype(dtype).newbyteorder("=")


def _axis_name(axis: Any) -> str:
    """Version 0.4 describes an axis, 0.3 has its name alone."""
    return str(axis["name"] if isinstance(axis, Mapping) else axis).lower()


def _changes(described: Mapping[str, Any]) -> dict[str, Any]:
    """Scale, and translation after it."""
    changes = described.get("coordinateTransformations", ())
    return {c["type"]: c[c["type"]] for c in changes if c.get("type") in CHANGES}


def _units(axes: str, described: Sequence[Any]) -> tuple[str, ...]:
    if len(described) != len(axes):
        return ("",) * len(axes)
    named = (a if isinstance(a, Mapping) else {} for a in described)
    return tuple(str(a.get("unit") or "") for a in named)


def _pixel_um(
    axes: str, described: Sequence[Any], scale: np.ndarray
) -> tuple[float, float] | None:
    units = [str(a.get("unit")) for a in described if isinstance(a, Mapping)]
    if len(units) != len(axes):
        return None
    height, width = (
        float(scale[axes.index(axis)]) * UM.get(units[axes.index(axis)], math.nan)
        for axis in "yx"
    )
    is_known = 0 < height < math.inf and 0 < width < math.inf
    return (height, width) if is_known else None


def _planes(level: Level) -> int:
    return level.shape["t"] * level.shape["z"]


def _at(page: Page) -> tuple[Level, dict[str, int]]:
    """The resolution that a page is taken from, and its time and z.

    Raises:
      UserError, ValueError: there is no such resolution, or page.
    """
    left = page.number
    for levels in _images(page.path):
        if left < _planes(levels[0]):
            level = levels[page.level]
            time, z = divmod(left, levels[0].shape["z"])
            return level, {"t": time, "z": z}
        left -= _planes(levels[0])
    raise ValueError(f"it has no page {page.number}")


def _ome(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """The format's own metadata: version 0.5 has them under a name."""
    return attributes.get("ome", attributes)


def _open(path: str) -> Any:
    """A group of zarr's.

    Raises:
      UserError: there is none, or zarr is not installed.
    """
    zarr = load_extra("zarr", flag=f"{path}: OME-Zarr", extra="zarr")
    from unet_tfrecords.storage.zarr_store import FolderStore

    try:
        return zarr.open_group(FolderStore(path), mode="r")
    except FileNotFoundError:
        raise UserError(
            f"{path}: is no Zarr folder; replace it or take it out"
        ) from None
