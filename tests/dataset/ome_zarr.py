"""Writes OME-Zarr as the specification has it, without any code of ours."""

import json
import pathlib

import numpy as np
import zarr

VERSIONS = {"0.4": 2, "0.5": 3}  # of OME-Zarr, and of Zarr
UNITS = {"y": "micrometer", "x": "micrometer"}


def write(
    folder: pathlib.Path,
    array: np.ndarray,
    axes: str = "yx",
    *,
    version: str = "0.4",
    levels: int = 1,
    chunks: int = 32,
    pixel_um: float = 0.5,
) -> pathlib.Path:
    """An image at some resolutions, each half as large as the one before."""
    form = VERSIONS[version]
    group = zarr.open_group(str(folder), mode="w", zarr_format=form)
    datasets = []
    for level in range(levels):
        inner = (chunks if axis in "yx" else 1 for axis in axes)
        named = group.create_array(
            str(level), shape=array.shape, dtype=array.dtype, chunks=tuple(inner)
        )
        named[...] = array
        scale = [pixel_um * 2**level if axis in UNITS else 1.0 for axis in axes]
        change = [{"type": "scale", "scale": scale}]
        datasets.append({"path": str(level), "coordinateTransformations": change})
        halves = (slice(None, None, 2 if a in UNITS else 1) for a in axes)
        array = array[tuple(halves)]
    described = [
        {"name": axis} | ({"unit": UNITS[axis]} if axis in UNITS else {})
        for axis in axes
    ]
    say(group, {"multiscales": [{"axes": described, "datasets": datasets}]}, version)
    return folder


def add_labels(folder: pathlib.Path, name: str, array: np.ndarray, **how) -> None:
    """A label image inside an image."""
    version = how.get("version", "0.4")
    labels = zarr.open_group(
        str(folder / "labels"), mode="a", zarr_format=VERSIONS[version]
    )
    attributes = labels.attrs.asdict()
    before = attributes.get("ome", attributes).get("labels", [])
    say(labels, {"labels": [*before, name]}, version)
    write(folder / "labels" / name, array, **how)


def say(group: zarr.Group, metadata: dict, version: str) -> None:
    """Metadata where a version of the format has them."""
    if version == "0.5":
        metadata = {"ome": {"version": version, **metadata}}
    group.attrs.update(json.loads(json.dumps(metadata)))
