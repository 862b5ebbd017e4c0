"""What is written for each image, and in whose format.

| format | files, in the output folder                                              |
|--------|--------------------------------------------------------------------------|
| png    | NAME_mask.png: class numbers; NAME_overlay.png to look at                 |
| ctc    | maskNNN.tif of tNNN.tif: uint16 instances, as the challenge takes results |
| isbi   | NAME.tif: float32 pages, probability of class 1, as ISBI 2012 takes it    |
| ome-*  | see `blocks.results`, which writes these and what is large                |

On request besides: NAME_objects.csv, a row a cell; NAME_instances.tif, OME-TIFF with
the image's pixel size; NAME_rois.zip for ImageJ; NAME_objects.geojson for QuPath;
NAME_probabilities.tif (uint16, 65535 is 1, a page a class) or NAME_probabilities.npy
(float32 [H, W, K]).
"""

import functools
import io
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tifffile

from trainer.inference.instances import (
    InstanceRules,
    Outputs,
    classes_of,
    instances_of,
)
from trainer.predict import object_table, outlines
from trainer.predict.inputs import Job
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset import regions
from unet_tfrecords.dataset.images.formats import pixel_size_um, read_image
from unet_tfrecords.dataset.images.frames import size_text
from unet_tfrecords.dataset.images.png import encode_png
from unet_tfrecords.dataset.pictures import overlay
from unet_tfrecords.storage import files

_CTC_FRAME = re.compile(r"t(\d{3,})$")
# Of an OME-TIFF in one file: a random one would change its bytes from run to run.
NO_UUID = "urn:uuid:00000000-0000-0000-0000-000000000000"
LARGEST_TIFF = 2**32 - 2**25  # bytes; above, offsets need 64 bits (BigTIFF)
OME_ZARR, OME_TIFF = "ome-zarr", "ome-tiff"  # formats of images by blocks
MOST_INSTANCES = 2**16 - 1  # that uint16 can tell apart


class Choice(NamedTuple):
    """What is to be written.

    Attributes:
      format: png, ctc, isbi, ome-zarr or ome-tiff.
      probabilities: none, tiff or npy.
      overlays: whether there are pictures to look at.
      instances: whether instances are written; the challenge's format always does.
      table: whether tables of objects are.
      rois: whether outlines for ImageJ are.
      geojson: whether outlines for QuPath are.
      rules: how classes and instances are made of probabilities.
      selected_channels: of the image files, which tables measure; () takes all.
      edge_px: instances that lie entirely this near to the edge are left out, in the
        challenge's format.
      into_image: whether labels go into the OME-Zarr that they are of.
    """

    format: str = "png"
    probabilities: str = "none"
    overlays: bool = True
    instances: bool = False
    table: bool = False
    rois: bool = False
    geojson: bool = False
    rules: InstanceRules = InstanceRules()
    selected_channels: tuple[int, ...] = ()
    edge_px: int = 0
    into_image: bool = False

    @property
    def wants_instances(self) -> bool:
        """Whether any output has them."""
        each = self.instances, self.table, self.rois, self.geojson
        return any(each) or self.format == "ctc"


class Result(NamedTuple):
    """An image with all that was made of it."""

    image: np.ndarray
    probabilities: np.ndarray
    classes: np.ndarray
    instances: np.ndarray | None


Encode = Callable[[Result], bytes]


def encoders(job: Job, choice: Choice) -> dict[str, Encode]:
    """How each output of an image is made, by file name; stacks apart.

    Raises:
      UserError: the format can't hold an image of this name.
    """
    made: dict[str, Encode] = {}
    if choice.probabilities == "tiff":
        made[f"{job.name}_probabilities.tif"] = _probabilities_tiff
    elif choice.probabilities == "npy":
        made[f"{job.name}_probabilities.npy"] = _probabilities_npy
    if choice.overlays:
        made[f"{job.name}_overlay.png"] = _overlay
    if choice.format == "ctc":
        made[_ctc_name(job)] = _instances
    elif choice.instances:
        made[f"{job.name}_instances.tif"] = functools.partial(_ome_instances, job)
    if choice.rois:
        made[job.name + outlines.ROIS] = functools.partial(_rois, job)
    if choice.geojson:
        made[job.name + outlines.GEOJSON] = _geojson
    if choice.table:
        made[job.name + object_table.ENDING] = functools.partial(
            _table, job, choice.selected_channels
        )
    if choice.format == "png":
        made[f"{job.name}_mask.png"] = _mask
    return made


def stack_name(job: Job, choice: Choice) -> str | None:
    """The stack that an image becomes a page of, if the format has stacks."""
    return f"{job.stack}.tif" if choice.format == "isbi" else None


def result_of(image: np.ndarray, made: Outputs, choice: Choice) -> Result:
    """Adds classes, and instances where they are wanted."""
    probabilities, planes = made
    classes = classes_of(probabilities, choice.rules.threshold)
    instances = None
    if choice.wants_instances:
        if min(classes.shape) <= 2 * choice.edge_px:
            raise UserError(
                f"{size_text(image)} px, of which the challenge scores nothing within "
                f"{choice.edge_px} px of the edge; give --edge_px=0 to keep all cells"
            )
        instances = instances_of(probabilities, choice.rules, planes)
        instances = regions.away_from_edge(instances, choice.edge_px)
    return Result(image, probabilities, classes, instances)


def _ctc_name(job: Job) -> str:
    """
    >>> from unet_tfrecords.dataset.images.pages import Page
    >>> _ctc_name(Job(Page("01/t012.tif"), "t012", "t012", 1, 0.0))
    'mask012.tif'
    """
    folder, slash, name = job.name.rpartition("/")
    match = _CTC_FRAME.match(name)
    if not match or job.pages > 1:
        raise UserError(
            f"{job.page}: the challenge's frames are tNNN.tif of one page; rename it, "
            "or take --format=png --instances"
        )
    return f"{folder}{slash}mask{match[1]}.tif"


def _mask(result: Result) -> bytes:
    return encode_png(result.classes, flat=True)


def _overlay(result: Result) -> bytes:
    return encode_png(overlay(result.image, result.classes, result.instances))


def _rois(job: Job, result: Result) -> bytes:
    assert result.instances is not None
    # ImageJ counts each channel of a stack.
    page = job.page.number * result.image.shape[2] if job.pages > 1 else None
    buffer = io.BytesIO()
    outlines.write_rois(buffer, outlines.outlines(result.instances), page)
    return buffer.getvalue()


def _geojson(result: Result) -> bytes:
    assert result.instances is not None
    return b"".join(outlines.geojson(outlines.outlines(result.instances)))


def _instances(result: Result) -> bytes:
    return _tiff(_numbers(result))


def _ome_instances(job: Job, result: Result) -> bytes:
    """OME-TIFF, with the size of a pixel where the image's file has it."""
    metadata: dict[str, Any] = {"axes": "YX", "UUID": NO_UUID}
    if size := pixel_size_um(job.page):
        for axis, value in zip("YX", size, strict=True):
            metadata |= {
                f"PhysicalSize{axis}": value,
                f"PhysicalSize{axis}Unit": "\u00b5m",
            }
    return _tiff(_numbers(result), metadata, ome=True)


def _numbers(result: Result) -> np.ndarray:
    assert result.instances is not None
    number = int(result.instances.max())
    if number > MOST_INSTANCES:
        raise UserError(
            f"has {number} instances, where 16 bits hold {MOST_INSTANCES}; "
            "a larger --min_size_px leaves out specks"
        )
    return result.instances.astype(np.uint16)


def _table(job: Job, selected: tuple[int, ...], result: Result) -> bytes:
    assert result.instances is not None
    image = read_image(job.page, result.image.shape[2], selected=selected, spread=False)
    found = object_table.measured(result.instances, image, result.probabilities)
    return object_table.table_of(job, found)


def _probabilities_tiff(result: Result) -> bytes:
    scaled = np.rint(result.probabilities * 65535).astype(np.uint16)
    return _tiff(np.moveaxis(scaled, -1, 0))


def _probabilities_npy(result: Result) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, result.probabilities)
    return buffer.getvalue()


def _tiff(
    pages: np.ndarray, metadata: dict[str, Any] | None = None, *, ome: bool = False
) -> bytes:
    """A lossless TIFF of one page, or of several."""
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        pages,
        photometric="minisblack",
        compression="lzw",  # the challenge's own
        predictor=False,
        metadata=metadata,
        ome=ome,
    )
    return buffer.getvalue()


class PageMissing(UserError):
    """A page of a stack could not be made."""


def write_stack(path: str, pages: Iterator[tuple[Job, np.ndarray | None]]) -> None:
    """Writes the pages of a stack as they come; the file appears whole or not at all.

    Args:
      path: of the TIFF file.
      pages: in order, float32 [H, W]; None is a page that could not be made.

    Raises:
      PageMissing: one is.
    """
    first, one = next(pages)
    large = one is not None and first.pages * one.nbytes > LARGEST_TIFF
    missing = None
    with files.open_atomic(path) as file:
        with tifffile.TiffWriter(file, bigtiff=large) as writer:
            for job, page in itertools.chain([(first, one)], pages):
                if page is None:
                    missing = missing or job
                elif not missing:
                    writer.write(page, photometric="minisblack", metadata=None)
        if missing:
            raise PageMissing(f"{path}: not written, for want of {missing.page}")
