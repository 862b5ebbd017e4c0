"""Distances between the outlines of a class in truth and result, px."""

from typing import NamedTuple

import cv2
import numpy as np

from unet_tfrecords.dataset.regions import distances_to


class Surface(NamedTuple):
    """Distances from each outline to the other, both ways together.

    Attributes:
      sum_px: of all distances.
      pixels: of both outlines.
      hausdorff_px: the largest distance.
    """

    sum_px: float
    pixels: int
    hausdorff_px: float


def surface_distances(truth: np.ndarray, result: np.ndarray) -> Surface | None:
    """Distances between two outlines: pixels of a mask beside one that isn't of it.

    Args:
      truth, result: bool [H, W].

    Returns:
      None where one of them is empty: there is no distance then.
    """
    outlines = _outline(truth), _outline(result)
    if not all(outline.any() for outline in outlines):
        return None
    first, second = outlines
    away = np.concatenate([distances_to(second)[first], distances_to(first)[second]])
    return Surface(float(away.sum(dtype=np.float64)), away.size, float(away.max()))


def _outline(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask beside one that isn't of it; the frame's edge is no outline."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    # Beyond the frame's edge counts as inside.
    inside = cv2.erode(mask.astype(np.uint8), cross)
    return mask & (inside == 0)
