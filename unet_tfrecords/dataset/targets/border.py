"""One more class, beside the label's: pixels where cells touch or nearly touch.

A pixel of it lies between two cells, or in one of them next to the other
(Guerrero-Pena et al. 2018, arXiv 1802.07465; Caicedo et al. 2019,
doi:10.1038/s41592-019-0612-7). It is a plane of its own and not one more value of the
label, because such a pixel also has its class.
"""

import math

import numpy as np

from unet_tfrecords.dataset import regions

VERSION = 1
PLANES = 1
PLANES_ARE = "probabilities"
TOP = 255  # stands for 1
NEAR_PX = 3  # of the distances to both cells together


def reach_px(instances: np.ndarray, zoom: float = 1.0) -> int:
    """How far around a pixel cells must be whole, or one would count as two."""
    longest = regions.longest_px(instances)
    return math.ceil(zoom * regions.LONGER * longest) + NEAR_PX


def render(instances: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The plane.

    Args:
      instances: integer [H, W], 0 is background; cells of a class don't touch.
      classes: uint8 [H, W]; of unlabelled pixels the plane means nothing.

    Returns:
      uint8 [H, W, 1], 255 where the distances to the two nearest cells add up to
      NEAR_PX at most, else 0; inside a cell its own is 0.
    """
    pieces = regions.pieces_of_cells(instances, classes)
    nearest, second = regions.distances_to_two(pieces, NEAR_PX)
    between = nearest + second < NEAR_PX + 0.1  # no other sum of roots is that near
    return np.where(between, TOP, 0).astype(np.uint8)[..., None]
