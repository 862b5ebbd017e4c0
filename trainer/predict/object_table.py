"""Tables of objects: a row a cell, for spreadsheets, R and pandas.

NAME_objects.csv of each image, and objects.csv of all of them.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from trainer.predict.inputs import Job
from unet_tfrecords.dataset import regions
from unet_tfrecords.dataset.images.formats import pixel_size_um
from unet_tfrecords.storage import csv_tables, files

NAME = "objects.csv"
ENDING = f"_{NAME}"
SHAPE = (
    *("file", "label", "area_px", "centroid_y_px", "centroid_x_px"),
    *("top_px", "left_px", "bottom_px", "right_px", "eccentricity"),
    *("mean_probability", "area_um2", "centroid_y_um", "centroid_x_um"),
)


def header(channels: int) -> list[str]:
    """Names of the columns; lengths and areas have their unit.

    Boxes end before bottom and right. Columns in um are empty where the file does not
    say how large a pixel is.
    """
    intensities = [
        f"{kind}_intensity_{channel}"
        for channel in range(channels)
        for kind in ("mean", "sum")
    ]
    return [*SHAPE, *intensities]


class Measures(NamedTuple):
    """Sums over the pixels of objects, which add up over parts of an image.

    Attributes:
      numbers: int64 [N], of the objects, rising.
      boxes: int64 [N, 4]: top, left, bottom, right in the image, px.
      sums: float64 [N, 7 + C]: of 1, y, x, y * y, x * x, x * y, of the probability of
        foreground, and of each channel's intensity.
    """

    numbers: np.ndarray
    boxes: np.ndarray
    sums: np.ndarray


def measured(
    instances: np.ndarray,
    image: np.ndarray,
    probabilities: np.ndarray,
    origin: tuple[int, int] = (0, 0),
) -> Measures:
    """Measures the objects of an image, or of a part of it.

    Args:
      instances: integer [H, W], 0 is background.
      image: [H, W, C], intensities as they are stored.
      probabilities: float32 [H, W, K]; all but the first are foreground.
      origin: of the part, in the image: row and column.
    """
    numbers, boxes = regions.bounding_boxes(instances)
    flat = instances.ravel()
    inside = np.flatnonzero(flat)
    which = np.searchsorted(numbers, flat[inside])
    rows, columns = np.divmod(inside, instances.shape[1])
    y, x = (rows + origin[0]).astype(float), (columns + origin[1]).astype(float)
    foreground = 1 - probabilities[..., 0].ravel()[inside].astype(np.float64)
    channels = image.reshape(-1, image.shape[2])[inside].T
    values = (np.ones(len(y)), y, x, y * y, x * x, x * y, foreground, *channels)
    sums = [np.bincount(which, each, len(numbers)) for each in values]
    boxes = boxes + np.tile(origin, 2)
    return Measures(numbers.astype(np.int64), boxes, np.stack(sums, axis=1))


def added(parts: Sequence[Measures]) -> Measures:
    """The measures of an image, of those of its parts."""
    numbers, which = np.unique(
        np.concatenate([part.numbers for part in parts]), return_inverse=True
    )
    order = np.argsort(which, kind="stable")
    starts = np.searchsorted(which[order], np.arange(len(numbers)))
    boxes = np.concatenate([part.boxes for part in parts])[order]
    sums = np.concatenate([part.sums for part in parts])[order]
    if not len(numbers):
        return Measures(numbers, boxes, sums)
    low = np.minimum.reduceat(boxes[:, :2], starts)
    high = np.maximum.reduceat(boxes[:, 2:], starts)
    boxes = np.concatenate([low, high], axis=1)
    return Measures(numbers, boxes, np.add.reduceat(sums, starts))


def _eccentricity(sums: np.ndarray) -> np.ndarray:
    """That of the ellipse with an object's second moments, 0 to below 1: [N].

    As scikit-image's regionprops has it.
    """
    count, y, x, yy, xx, xy = sums[:, :6].T
    spread_y = yy / count - (y / count) ** 2
    spread_x = xx / count - (x / count) ** 2
    common = xy / count - (y / count) * (x / count)
    half = np.sqrt((spread_y - spread_x) ** 2 / 4 + common**2)
    long, short = ((spread_y + spread_x) / 2 + sign * half for sign in (1, -1))
    share = np.clip(short, 0, None) / np.where(long > 0, long, 1)
    return np.where(long > 0, np.sqrt(np.clip(1 - share, 0, 1)), 0.0)


def table_of(job: Job, measures: Measures) -> bytes:
    """The table of one image, as CSV."""
    return csv_tables.as_csv(header(measures.sums.shape[1] - 7), _rows(job, measures))


def _rows(job: Job, measures: Measures) -> Iterator[list[Any]]:
    size = pixel_size_um(job.page)
    name = csv_tables.not_a_formula(
        job.stack
        + os.path.splitext(job.page.path)[1]
        + (f" (page {job.page.number})" if job.pages > 1 else "")
    )
    of_all = zip(*measures, _eccentricity(measures.sums), strict=True)
    for number, box, sums, eccentricity in of_all:
        area = int(sums[0])
        y, x, probability = sums[1] / area, sums[2] / area, sums[6] / area
        in_um = (area * size[0] * size[1], y * size[0], x * size[1]) if size else ()
        yield [
            *(name, int(number), area, f"{y:.3f}", f"{x:.3f}"),
            *(box.tolist()),
            *(f"{eccentricity:.4f}", f"{probability:.4f}"),
            *([f"{value:.6g}" for value in in_um] or [""] * 3),
            *(f"{v:.6g}" for total in sums[7:] for v in (total / area, total)),
        ]


def join(output: str, names: Iterable[str]) -> None:
    """Writes one table of all images out of theirs.

    Args:
      output: the folder.
      names: what the outputs of each image begin with, in order.
    """
    lines: list[bytes] = []
    for name in names:
        path = files.join(output, name + ENDING)
        if files.exists(path):  # not of an image that could not be read
            first, *rows = files.read_bytes(path).splitlines(keepends=True)
            lines += rows if lines else [first, *rows]
    if lines:
        files.write_bytes(files.join(output, NAME), b"".join(lines))
