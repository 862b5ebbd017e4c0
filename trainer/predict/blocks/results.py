"""What is written of an image that is segmented by blocks, and how.

| format   | masks and instances                                                     |
|----------|-------------------------------------------------------------------------|
| ome-zarr | NAME_mask.zarr, NAME_instances.zarr: OME-Zarr labels; or unet_mask and  |
|          | unet_instances in the image's own labels/                               |
| ome-tiff | NAME_mask.tif, NAME_instances.tif: tiles, smaller resolutions, BigTIFF  |

NAME_overlay.png is of at most 2048 px.
"""

import collections
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import tifffile

from trainer.inference.blockwise import Grid
from trainer.inference.instances import TOP, Outputs
from trainer.predict import object_table, outlines
from trainer.predict.blocks.pyramids import Placement, Pyramid, in_tiles
from trainer.predict.blocks.scratch import Scratch
from trainer.predict.inputs import Job
from trainer.predict.object_table import Measures
from trainer.predict.outputs import (
    LARGEST_TIFF,
    MOST_INSTANCES,
    OME_TIFF,
    OME_ZARR,
    Choice,
)
from trainer.predict.runtimes import Runtime
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images import zarr_image
from unet_tfrecords.dataset.images.formats import FOLDER_ENDING, pixel_size_um
from unet_tfrecords.dataset.images.pages import FOLDER_METADATA
from unet_tfrecords.dataset.images.png import encode_png
from unet_tfrecords.dataset.pictures import overlay
from unet_tfrecords.dataset.regions import Box
from unet_tfrecords.storage import files

LARGE_PX = 2**26  # images of more pixels are segmented by blocks in any case
MASK, INSTANCES, PROBABILITIES = "mask", "instances", "probabilities"
LARGEST_CHUNK = 1024  # px
OVERVIEW_PX = 2048


class Setup(NamedTuple):
    """How images are segmented by blocks, the same for all of a run.

    Attributes:
      about: the model's.
      choice: what is written.
      loaded: the model, on each device.
      tta: whether outputs are averaged over the symmetries.
      output: the folder for what is written.
      block_px: side of a block.
      is_shared: whether other processes work on the same images.
    """

    about: dict[str, Any]
    choice: Choice
    loaded: Sequence[Runtime]
    tta: bool
    output: str
    block_px: int
    is_shared: bool


def is_by_blocks(job: Job, choice: Choice) -> bool:
    """Whether an image is segmented by blocks: by its format, or since it is large."""
    if choice.format in (OME_ZARR, OME_TIFF):
        return True
    return choice.format == "png" and math.prod(job.size) > LARGE_PX


def container(job: Job, choice: Choice) -> str:
    """The format of masks and instances: by default that of the image."""
    if choice.format in (OME_ZARR, OME_TIFF):
        return choice.format
    return OME_ZARR if _is_zarr(job) else OME_TIFF


def _is_zarr(job: Job) -> bool:
    return job.page.path.lower().endswith(FOLDER_ENDING)


def paths_of(job: Job, choice: Choice, output: str) -> list[str]:
    """Where the outputs of an image go.

    Raises:
      UserError: some of them can't be made of it.
    """
    if choice.probabilities == "npy":
        raise UserError(
            f"{job.page}: is segmented by blocks, of which --probabilities=npy can't "
            "be made; take --probabilities=tiff"
        )
    if choice.rois and max(job.size) > outlines.LARGEST_ROI_PX:
        raise UserError(
            f"{job.page}: ImageJ's outlines end at {outlines.LARGEST_ROI_PX} px; "
            "leave out --rois, --geojson has no such end"
        )
    kinds = _kinds(choice)
    if container(job, choice) == OME_ZARR:
        paths = [_marker(job, folder_of(job, choice, kind, output)) for kind in kinds]
    else:
        paths = [files.join(output, f"{job.name}_{kind}.tif") for kind in kinds]
    endings = {
        f"_{PROBABILITIES}.tif": choice.probabilities == "tiff",
        "_overlay.png": choice.overlays,
        object_table.ENDING: choice.table,
        outlines.ROIS: choice.rois,
        outlines.GEOJSON: choice.geojson,
    }
    return paths + [
        files.join(output, job.name + end) for end in endings if endings[end]
    ]


def _kinds(choice: Choice) -> tuple[str, ...]:
    return (MASK, INSTANCES) if choice.wants_instances else (MASK,)


def folder_of(job: Job, choice: Choice, kind: str, output: str) -> str:
    """The folder of an OME-Zarr that is written.

    Raises:
      UserError: it is to be inside of an image that can't have it.
    """
    if not choice.into_image:
        return files.join(output, f"{job.name}_{kind}{FOLDER_ENDING}")
    if not _is_zarr(job) or job.pages > 1:
        raise UserError(
            f"{job.page}: --into_image is of OME-Zarr images of one time and z; leave "
            "it out"
        )
    return zarr_image.label_path(job.page.path, f"unet_{kind}")


def _marker(job: Job, folder: str) -> str:
    """The file that makes a folder an image, and is written last."""
    return files.join(folder, "zarr.json" if _version(job) == "0.5" else ".zattrs")


def _version(job: Job) -> str:
    """Of OME-Zarr: the image's, or the one that most programs read."""
    is_new = _is_zarr(job) and files.exists(files.join(job.page.path, "zarr.json"))
    return "0.5" if is_new else "0.4"


def is_marker(path: str) -> bool:
    """Whether an output is a folder, named by the file that makes it an image."""
    return files.basename(path) in FOLDER_METADATA


def remove(path: str) -> None:
    """Removes an output; of a folder first what makes it an image."""
    if is_marker(path):
        folder = path[: -len(files.basename(path))].rstrip("/")
        files.remove([path])
        files.remove_folder(folder)
    else:
        files.remove([path])


def chunk_px(block_px: int) -> int:
    """The side of chunks and tiles of which blocks are made: TIFF wants 16 times N.

    >>> chunk_px(2048), chunk_px(1984), chunk_px(64)
    (1024, 992, 64)
    """
    sizes = range(min(block_px, LARGEST_CHUNK) // 16 * 16, 0, -16)
    return next(size for size in sizes if block_px % size == 0)


def open_labels(scratch: Scratch, name: str, grid: Grid, chunk: int) -> Pyramid:
    """Numbers of objects that are not final yet."""
    folder = scratch.array_folder(name)
    size = grid.height, grid.width
    return Pyramid(folder, size, np.int32, chunk, version="0.5", levels=1)


def open_pyramids(
    job: Job, setup: Setup, scratch: Scratch, size: tuple[int, int], number: int
) -> dict[str, Pyramid]:
    """What masks and instances are written to, by kind.

    Args:
      job, setup, scratch: the image.
      size: its height and width.
      number: of instances.
    """
    dtypes = {
        MASK: np.uint8,
        INSTANCES: np.uint16 if number <= MOST_INSTANCES else np.uint32,
    }
    is_zarr = container(job, setup.choice) == OME_ZARR
    return {
        kind: Pyramid(
            folder_of(job, setup.choice, kind, setup.output)
            if is_zarr
            else scratch.array_folder(kind),
            size,
            dtypes[kind],
            chunk_px(setup.block_px),
            version=_version(job) if is_zarr else "0.5",
            axes=_axes(job, setup.choice) if is_zarr else "yx",
        )
        for kind in _kinds(setup.choice)
    }


def _axes(job: Job, choice: Choice) -> str:
    """Of what is written: inside an image, those that it has, but for channels."""
    if not choice.into_image:
        return "yx"
    return zarr_image.level_of(job.page).axes.replace("c", "")


def _placed(job: Job, axes: str) -> Placement:
    """Where a result's pixels are: where the image's are."""
    if _is_zarr(job):
        level = zarr_image.level_of(job.page)
        places = [level.axes.index(axis) for axis in axes]
        return Placement(
            tuple(level.scale[place] for place in places),
            tuple(level.translation[place] for place in places),
            tuple(level.units[place] for place in places),
        )
    pixel_um = pixel_size_um(job.page)
    unit = "micrometer" if pixel_um else ""
    return Placement(pixel_um or (1.0, 1.0), (0.0, 0.0), (unit, unit))


class Seen(NamedTuple):
    """What a block adds to the files of the whole image.

    Attributes:
      picture: the image, smaller.
      measures: of the objects' pixels here.
      outlines: numbers and outlines of the objects here, in well-known binary.
    """

    picture: np.ndarray
    measures: Measures | None = None
    outlines: list[tuple[int, bytes]] = []  # noqa: RUF012  never changed


def as_wkb(objects: Iterable[outlines.Numbered]) -> list[tuple[int, bytes]]:
    """Outlines as bytes."""
    import shapely

    return [(number, shapely.to_wkb(outline)) for number, outline in objects]


def overview_factor(size: tuple[int, int], block_px: int) -> int:
    """How many times smaller the picture to look at is: a power of two."""
    factor = 1
    while max(size) > OVERVIEW_PX * factor and not block_px % (2 * factor):
        factor *= 2
    return factor


def reduced(image: np.ndarray, factor: int) -> np.ndarray:
    """Means over squares of pixels, [H / factor, W / factor, C], rounded up."""
    more = [(0, -side % factor) for side in image.shape[:2]]
    whole = np.pad(image, (*more, (0, 0)), mode="edge")
    size = whole.shape[1] // factor, whole.shape[0] // factor
    small = cv2.resize(whole, size, interpolation=cv2.INTER_AREA)
    return small.reshape(*size[::-1], image.shape[2])


class Files(NamedTuple):
    """What the files of an image are written from.

    Attributes:
      job, setup: the image.
      pyramids: masks, and instances.
      seen: what each block adds, in order.
      outputs_in: the network's outputs of a window.
      grid: the blocks.
    """

    job: Job
    setup: Setup
    pyramids: dict[str, Pyramid]
    seen: Callable[[], Iterator[Seen]]
    outputs_in: Callable[[Box], Outputs]
    grid: Grid

    def writers(self) -> list[Callable[[], None]]:
        """Functions that write a file each."""
        choice = self.setup.choice
        todo: list[Callable[[], None]] = []
        if choice.overlays:
            todo.append(self.write_overlay)
        if choice.table:
            todo.append(self.write_table)
        if choice.geojson:
            todo.append(self.write_geojson)
        if choice.rois:
            todo.append(self.write_rois)
        if choice.probabilities == "tiff":
            todo.append(self.write_probabilities)
        # An OME-Zarr's metadata are what makes it one: they come last.
        if container(self.job, choice) == OME_ZARR:
            return [*todo, self.describe]
        return todo + [functools.partial(self.write_tiff, k) for k in self.pyramids]

    def _path(self, ending: str) -> str:
        return files.join(self.setup.output, self.job.name + ending)

    def write_overlay(self) -> None:
        """A picture of at most some thousand pixels."""
        size = self.grid.height, self.grid.width
        factor = overview_factor(size, self.setup.block_px)
        blocks = [each.picture for each in self.seen()]
        across = self.grid.columns
        rows = (blocks[n : n + across] for n in range(0, len(blocks), across))
        image = np.concatenate([np.concatenate(row, axis=1) for row in rows])
        level = factor.bit_length() - 1
        whole = (0, 0, *image.shape[:2])
        small = {kind: p.read(whole, level) for kind, p in self.pyramids.items()}
        instances = small.get(INSTANCES)
        if instances is not None:
            instances = instances.astype(np.int32)
        picture = overlay(image, small[MASK], instances)
        files.write_bytes(self._path("_overlay.png"), encode_png(picture))

    def write_table(self) -> None:
        """A row an object."""
        parts = [each.measures for each in self.seen() if each.measures is not None]
        content = object_table.table_of(self.job, object_table.added(parts))
        files.write_bytes(self._path(object_table.ENDING), content)

    def write_geojson(self) -> None:
        """Outlines for QuPath."""
        with files.open_atomic(self._path(outlines.GEOJSON)) as file:
            for part in outlines.geojson(self._outlines()):
                file.write(part)

    def write_rois(self) -> None:
        """Outlines for ImageJ."""
        page = None
        if self.job.pages > 1:
            channels = self.setup.about["channels"] // (1 + len(self.job.neighbours))
            page = self.job.page.number * channels
        with files.open_atomic(self._path(outlines.ROIS)) as file:
            outlines.write_rois(file, self._outlines(), page)

    def _outlines(self) -> Iterator[outlines.Numbered]:
        """Whole outlines, each as soon as the last block that has a part was seen."""
        import shapely

        left = collections.Counter(
            number for each in self.seen() for number, _ in each.outlines
        )
        parts: dict[int, list[shapely.Geometry]] = {}
        for each in self.seen():
            for number, wkb in each.outlines:
                parts.setdefault(number, []).append(shapely.from_wkb(wkb))
                left[number] -= 1
                if not left[number]:
                    found = parts.pop(number)
                    whole = outlines.joined(found) if len(found) > 1 else found[0]
                    yield number, whole

    def write_probabilities(self) -> None:
        """uint16, 65535 is 1: a page a class, in tiles."""
        height, width = self.grid.height, self.grid.width
        tile = chunk_px(self.setup.block_px)
        pages = self.setup.about["classes"]

        def tiles() -> Iterator[np.ndarray]:
            for page, top in itertools.product(range(pages), range(0, height, tile)):
                box = (top, 0, min(top + tile, height), width)
                strip = self.outputs_in(box).probabilities[..., page]
                yield from in_tiles(np.rint(strip * TOP).astype(np.uint16), tile)

        size = pages * height * width * 2
        with (
            files.open_atomic(self._path(f"_{PROBABILITIES}.tif")) as file,
            tifffile.TiffWriter(file, bigtiff=size > LARGEST_TIFF) as writer,
        ):
            writer.write(
                tiles(),
                shape=(pages, height, width),
                dtype=np.uint16,
                tile=(tile, tile),
                photometric="minisblack",
                compression="zlib",
                metadata=None,
            )

    def write_tiff(self, kind: str) -> None:
        """A mask, or instances, in tiles at all resolutions."""
        self.pyramids[kind].write_tiff(
            self._path(f"_{kind}.tif"),
            files.basename(self.job.name),
            pixel_size_um(self.job.page),
            chunk_px(self.setup.block_px),
        )

    def describe(self) -> None:
        """Makes OME-Zarrs what they are; inside an image, its labels."""
        is_inside = self.setup.choice.into_image
        for kind, pyramid in self.pyramids.items():
            source = "../../" if is_inside else ""
            pyramid.describe(kind, _placed(self.job, pyramid.axes), source)
            if is_inside:
                zarr_image.add_label_name(self.job.page.path, f"unet_{kind}")
