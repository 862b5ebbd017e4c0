"""Large results at several resolutions, each half the one before: OME-Zarr and TIFF.

Numbers of objects can't be averaged: of each 2 x 2 pixels the first one is kept.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import tifffile

from trainer.inference.blockwise import Grid
from trainer.predict.blocks.scratch import open_array
from trainer.predict.outputs import LARGEST_TIFF, NO_UUID
from unet_tfrecords.dataset.regions import Box
from unet_tfrecords.storage import files

SMALLEST_PX = 1024  # the longer side of the last resolution is at most that
ZARR_OF: dict[str, Literal[2, 3]] = {
    "0.4": 2,
    "0.5": 3,
}  # the version of Zarr by that of OME-Zarr


class Placement(NamedTuple):
    """Where pixels are, for each axis of an array.

    Attributes:
      scale: the size of a pixel.
      translation: the place of the first one.
      units: of both, as OME-Zarr names them; "" where it is not known.
    """

    scale: tuple[float, ...]
    translation: tuple[float, ...]
    units: tuple[str, ...]


class Pyramid:
    """Arrays [H, W] of one image at several resolutions, in a folder.

    It is an OME-Zarr once `describe` has said so.
    """

    def __init__(
        self,
        folder: str,
        size: tuple[int, int],
        dtype: Any,
        chunk_px: int,
        *,
        version: str = "0.4",
        axes: str = "yx",
        levels: int = 64,
    ):
        """Opens or makes it.

        Args:
          folder: of the image.
          size: height and width, px.
          dtype: of its values.
          chunk_px: side of a chunk.
          version: of OME-Zarr.
          axes: their names; those before y have size 1.
          levels: how many resolutions there are at most.
        """
        self.folder, self.version, self.axes = folder, version, axes
        self.outer = len(axes) - 2
        self.sizes = [size]
        while max(self.sizes[-1]) > SMALLEST_PX and len(self.sizes) < levels:
            height, width = self.sizes[-1]
            self.sizes.append((math.ceil(height / 2), math.ceil(width / 2)))
        self.arrays = [
            open_array(
                files.join(folder, str(level)),
                (*(1 for _ in range(self.outer)), *each),
                dtype,
                chunk_px,
                zarr_format=ZARR_OF[version],
                axes=axes,
            )
            for level, each in enumerate(self.sizes)
        ]
        self.dtype = np.dtype(dtype)

    def read(self, box: Box, level: int = 0) -> np.ndarray:
        """A window of one resolution."""
        return np.asarray(self.arrays[level][self._at(box)])

    def write(self, box: Box, values: np.ndarray, level: int = 0) -> None:
        """Lays values there; only whole chunks may be written side by side."""
        self.arrays[level][self._at(box)] = values

    def _at(self, box: Box) -> tuple[Any, ...]:
        return *(0 for _ in range(self.outer)), *_slices(box)

    def grid(self, level: int, block: int) -> Grid:
        """The blocks of one resolution."""
        return Grid(*self.sizes[level], block)

    def reduce(self, level: int, box: Box) -> None:
        """Makes a window of one resolution from the one before."""
        above = self.sizes[level - 1]
        whole = (
            2 * box[0],
            2 * box[1],
            min(2 * box[2], above[0]),
            min(2 * box[3], above[1]),
        )
        self.write(box, self.read(whole, level - 1)[::2, ::2], level)

    def describe(self, name: str, place: Placement, source: str = "") -> None:
        """Writes the metadata, which make it an image: last, when all else is there.

        Args:
          name: of the image.
          place: of its pixels.
          source: where the image is whose labels these are, relative to them.
        """
        import zarr

        from unet_tfrecords.storage.zarr_store import FolderStore

        kinds = {"t": "time", "c": "channel"}
        described = [
            {"name": axis, "type": kinds.get(axis, "space")}
            | ({"unit": unit} if unit else {})
            for axis, unit in zip(self.axes, place.units, strict=True)
        ]
        datasets = []
        for level in range(len(self.sizes)):
            outer, pixel = place.scale[:-2], place.scale[-2:]
            scale = [*outer, *(side * 2**level for side in pixel)]
            change: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
            if any(place.translation):  # the first pixel of each 2 x 2 stays in place
                more = list(place.translation)
                change.append({"type": "translation", "translation": more})
            datasets.append({"path": str(level), "coordinateTransformations": change})
        image = {"name": name, "axes": described, "datasets": datasets}
        label: dict[str, Any] = {"source": {"image": source}} if source else {}
        ome: dict[str, Any] = {"multiscales": [image], "image-label": label}
        if self.version == "0.4":
            image["version"] = label["version"] = self.version
        else:
            ome = {"ome": {"version": self.version, **ome}}
        store = FolderStore(self.folder, read_only=False)
        form = ZARR_OF[self.version]
        try:  # at once: metadata without the image's would be no image
            zarr.create_group(store, attributes=ome, zarr_format=form)
        except zarr.errors.ContainsGroupError:
            zarr.open_group(store, mode="r+", zarr_format=form).attrs.put(ome)

    def write_tiff(
        self, path: str, name: str, pixel_um: Sequence[float] | None, tile_px: int
    ) -> None:
        """Writes an OME-TIFF of tiles with smaller resolutions, of any size.

        Args:
          path: of the file, which appears whole.
          name: of the image.
          pixel_um: height and width of a pixel; None where that is not known.
          tile_px: side of a tile.
        """
        metadata: dict[str, Any] = {"axes": "YX", "UUID": NO_UUID, "Name": name}
        if pixel_um:
            for axis, value in zip("YX", pixel_um, strict=True):
                unit = f"PhysicalSize{axis}Unit"
                metadata |= {f"PhysicalSize{axis}": value, unit: "\u00b5m"}
        bytes_px = self.dtype.itemsize * sum(h * w for h, w in self.sizes)
        with files.open_atomic(path) as file:
            with tifffile.TiffWriter(
                file, bigtiff=bytes_px > LARGEST_TIFF, ome=True
            ) as writer:
                for level, size in enumerate(self.sizes):
                    writer.write(
                        self._tiles(level, tile_px),
                        shape=size,
                        dtype=self.dtype,
                        tile=(tile_px, tile_px),
                        photometric="minisblack",
                        compression="zlib",
                        subifds=len(self.sizes) - 1 if not level else None,
                        subfiletype=1 if level else 0,
                        metadata=None if level else metadata,
                    )

    def _tiles(self, level: int, tile_px: int) -> Iterator[np.ndarray]:
        """Tiles in reading order, whole ones at the edges too."""
        height, width = self.sizes[level]
        for top in range(0, height, tile_px):
            strip = self.read((top, 0, min(top + tile_px, height), width), level)
            yield from in_tiles(strip, tile_px)


def in_tiles(strip: np.ndarray, tile_px: int) -> Iterator[np.ndarray]:
    """A strip [h, W] as tiles, filled up with 0 at its end and below."""
    height, width = strip.shape
    for left in range(0, width, tile_px):
        part = strip[:, left : left + tile_px]
        yield np.pad(part, [(0, tile_px - side) for side in part.shape])


def _slices(box: Box) -> tuple[slice, slice]:
    return slice(box[0], box[2]), slice(box[1], box[3])
