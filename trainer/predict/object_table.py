"""Tables of objects: a row a cell, for spreadsheets, R and pandas.

NAME_objects.csv of each image, and objects.csv of all of them.
"""

import os
from collections.abc import Iterable

import numpy as np

from trainer.predict.inputs import Job
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


def table_of(
    job: Job, image: np.ndarray, instances: np.ndarray, probabilities: np.ndarray
) -> bytes:
    """The table of one image, as CSV.

    Args:
      job: the image's file.
      image: [H, W, C], intensities as they are stored.
      instances: integer [H, W], 0 is background.
      probabilities: float32 [H, W, K]; all but the first are foreground.
    """
    from skimage.measure import regionprops_table

    channels = image.shape[2]
    wanted = ("label", "area", "centroid", "bbox", "eccentricity", "intensity_mean")
    foreground = 1 - probabilities[..., 0]
    measured = np.concatenate([foreground[..., None], image], axis=2, dtype=np.float64)
    found = regionprops_table(instances, measured, properties=wanted)
    size = pixel_size_um(job.page)
    name = csv_tables.not_a_formula(
        job.stack
        + os.path.splitext(job.page.path)[1]
        + (f" (page {job.page.number})" if job.pages > 1 else "")
    )
    rows = []
    for i in range(len(found["label"])):
        area = int(found["area"][i])
        y, x = found["centroid-0"][i], found["centroid-1"][i]
        means = [found[f"intensity_mean-{k}"][i] for k in range(channels + 1)]
        in_um = (area * size[0] * size[1], y * size[0], x * size[1]) if size else ()
        rows.append(
            [
                *(name, int(found["label"][i]), area, f"{y:.3f}", f"{x:.3f}"),
                *(int(found[f"bbox-{k}"][i]) for k in range(4)),
                *(f"{found['eccentricity'][i]:.4f}", f"{means[0]:.4f}"),
                *([f"{value:.6g}" for value in in_um] or [""] * 3),
                *(f"{v:.6g}" for mean in means[1:] for v in (mean, mean * area)),
            ]
        )
    return csv_tables.as_csv(header(channels), rows)


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
