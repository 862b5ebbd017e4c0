"""Border weights: the separation between touching cells (arXiv 1505.04597, eq. 2)."""

import math

import cv2
import numpy as np


def margin_px(sigma_px: float) -> int:
    """How far beyond a window instances must be known for exact targets within it.

    The border term's reach, and a pixel for each of the four directions in which
    touching pixels are given up.
    """
    return _reach_px(sigma_px) + 4


def _reach_px(sigma_px: float) -> int:
    """Where the border term ends: beyond 6 sigma it is under 1.6e-8 of w0."""
    return math.ceil(6 * sigma_px)


def touching_pixels(instances: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Pixels to give up so that no two instances of a class touch, even at a corner.

    Of two neighbouring pixels of different instances the first in reading order is
    given up: the gap is one pixel wide, as in the paper (section 3).

    Args:
      instances: [H, W] of any integer type, 0 is background.
      classes: [H, W] likewise; instances of different classes may touch.

    Returns:
      bool [H, W].
    """
    left_over = instances.copy()
    height, width = instances.shape
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        first = np.s_[: height - down, max(0, -right) : width - max(0, right)]
        second = np.s_[down:, max(0, right) : width - max(0, -right)]
        a, b = left_over[first], left_over[second]
        alike = classes[first] == classes[second]
        # What one direction has given up is background for the next, or a straight
        # border would lose two lines.
        a[(a != b) & (a > 0) & (b > 0) & alike] = 0
    return left_over != instances


def border_weights(instances: np.ndarray, *, w0: float, sigma_px: float) -> np.ndarray:
    """w0 * exp(-(d1 + d2)^2 / (2 sigma^2)) on background, 0 inside cells.

    d1 and d2 are a pixel's distances to the nearest and the second nearest cell.
    Where they add up to more than 6 sigma the term counts as 0.

    Args:
      instances: integer [H, W], 0 is background.
      w0: the largest weight.
      sigma_px: width of the term.

    Returns:
      float32 [H, W].
    """
    height, width = instances.shape
    reach = _reach_px(sigma_px)
    weights = np.zeros((height, width), np.float32)
    boxes = bounding_boxes(instances)
    if len(boxes) < 2:
        return weights
    nearest = np.full((height, width), np.inf, np.float32)
    second = np.full((height, width), np.inf, np.float32)
    for identity, (top, left, bottom, right) in boxes:
        box = np.s_[
            max(0, top - reach) : min(height, bottom + reach),
            max(0, left - reach) : min(width, right + reach),
        ]
        outside = (instances[box] != identity).astype(np.uint8)
        distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        # The smallest and the second smallest of all seen so far.
        np.minimum(second[box], np.maximum(nearest[box], distance), out=second[box])
        np.minimum(nearest[box], distance, out=nearest[box])
    between = (instances == 0) & (nearest + second <= reach)
    d1, d2 = _exact(nearest[between]), _exact(second[between])
    weights[between] = w0 * np.exp((d1 + d2) ** 2 / (-2 * sigma_px**2))
    return weights


def _exact(distance: np.ndarray) -> np.ndarray:
    """Roots of whole numbers, float64; OpenCV's last bit hangs on its threads."""
    return np.sqrt(np.rint(np.square(distance, dtype=np.float64)))


def bounding_boxes(
    instances: np.ndarray,
) -> list[tuple[int, tuple[int, int, int, int]]]:
    """(identity, (top, left, bottom, right)) of each instance, ends exclusive."""
    flat = np.flatnonzero(instances)
    if not flat.size:
        return []
    identities = instances.ravel()[flat]
    rows, columns = np.divmod(flat, instances.shape[1])
    order = np.argsort(identities, kind="stable")
    starts = np.flatnonzero(np.diff(identities[order], prepend=-1))
    rows, columns, names = rows[order], columns[order], identities[order][starts]
    tops = np.minimum.reduceat(rows, starts)
    bottoms = np.maximum.reduceat(rows, starts) + 1
    lefts = np.minimum.reduceat(columns, starts)
    rights = np.maximum.reduceat(columns, starts) + 1
    boxes = np.stack([tops, lefts, bottoms, rights], axis=1).tolist()
    return [(int(name), tuple(box)) for name, box in zip(names, boxes, strict=True)]
