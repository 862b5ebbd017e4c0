"""Border weights: the separation between touching cells (arXiv 1505.04597, eq. 2)."""

import math

import numpy as np

from unet_tfrecords.dataset.regions import distances_to_two


def margin_px(sigma_px: float) -> int:
    """How far beyond a window instances must be known for exact targets within it.

    The border term's reach, and a pixel for each of the four directions in which
    touching pixels are given up.
    """
    return reach_px(sigma_px) + 4


def reach_px(sigma_px: float) -> int:
    """d1 + d2 where the border term ends, px.

    At 3.6 sigma it is 0.0015 w0, which a record's 255 steps up to w0 store as 0.
    """
    return math.ceil(3.6 * sigma_px)


def border_weights(instances: np.ndarray, *, w0: float, sigma_px: float) -> np.ndarray:
    """w0 * exp(-(d1 + d2)^2 / (2 sigma^2)) on background, 0 inside cells.

    d1 and d2 are a pixel's distances to the nearest and the second nearest cell.
    Where they add up to more than `reach_px` the term counts as 0.

    Args:
      instances: integer [H, W], 0 is background.
      w0: the largest weight.
      sigma_px: width of the term.

    Returns:
      float32 [H, W].
    """
    reach = reach_px(sigma_px)
    weights = np.zeros(instances.shape, np.float32)
    nearest, second = distances_to_two(instances, reach)
    # Few pixels lie between: the others are not looked at again.
    near_two = np.flatnonzero(second <= reach)
    d1, d2 = (_exact(d.ravel()[near_two]) for d in (nearest, second))
    term = w0 * np.exp((d1 + d2) ** 2 / (-2 * sigma_px**2))
    term[(d1 + d2 > reach) | (d1 == 0)] = 0
    weights.ravel()[near_two] = term
    return weights


def _exact(distance: np.ndarray) -> np.ndarray:
    """Roots of whole numbers, float64; OpenCV's last bit depends on its threads."""
    return np.sqrt(np.rint(np.square(distance, dtype=np.float64)))
