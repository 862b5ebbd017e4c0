"""Border weights: the separation between touching cells (arXiv 1505.04597, eq. 2)."""

import math
from collections.abc import Iterator

import cv2
import numpy as np

Box = tuple[int, int, int, int]  # top, left, bottom, right, ends exclusive


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
    if not any(_with_neighbours(instances, 1)):
        return np.zeros(instances.shape, bool)
    left_over = instances.copy()
    height, width = instances.shape
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        first = np.s_[: height - down, max(0, -right) : width - max(0, right)]
        second = np.s_[down:, max(0, right) : width - max(0, -right)]
        a, b = left_over[first], left_over[second]
        touch = np.minimum(a, b) > 0
        touch &= a != b
        touch &= classes[first] == classes[second]
        # What one direction has given up is background for the next, or a straight
        # border would lose two lines.
        a[touch] = 0
    return left_over != instances


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


def distances_to_two(
    instances: np.ndarray, reach: int
) -> tuple[np.ndarray, np.ndarray]:
    """Distances to the nearest and the second nearest instance, px.

    Right where both are within reach; elsewhere one of them, at least, is larger.

    Args:
      instances: integer [H, W], 0 is background.
      reach: px.

    Returns:
      Two float32 [H, W]; inside an instance the first is 0.
    """
    nearest = np.full(instances.shape, np.inf, np.float32)
    second = np.full(instances.shape, np.inf, np.float32)
    for identity, (top, left, bottom, right) in _with_neighbours(instances, reach):
        box = np.s_[top:bottom, left:right]
        outside = (instances[box] != identity).view(np.uint8)
        distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        # The smallest and the second smallest of all seen so far.
        np.minimum(second[box], np.maximum(nearest[box], distance), out=second[box])
        np.minimum(nearest[box], distance, out=nearest[box])
    return nearest, second


def _exact(distance: np.ndarray) -> np.ndarray:
    """Roots of whole numbers, float64; OpenCV's last bit hangs on its threads."""
    return np.sqrt(np.rint(np.square(distance, dtype=np.float64)))


def _with_neighbours(instances: np.ndarray, reach: int) -> Iterator[tuple[int, Box]]:
    """Instances that come near another, with the part of the frame where it matters.

    A pixel has a term only if it lies within reach of two instances: where the box
    around one, widened by the reach, meets that of another. The distances there hang
    on pixels of the instance that are no further than the reach.
    """
    names, boxes = _boxes(instances)
    order = np.argsort(boxes[:, 0], kind="stable")
    names, boxes = names[order], boxes[order]
    low = np.maximum(boxes[:, :2] - reach, 0)
    high = np.minimum(boxes[:, 2:] + reach, instances.shape)
    # Arrays of their own: parts of them are gone through for each instance.
    (tops, lefts), (bottoms, rights) = (np.ascontiguousarray(e.T) for e in (low, high))
    # Only boxes that begin in these rows can meet one.
    begins = np.searchsorted(tops, tops - (bottoms - tops).max(initial=0))
    ends = np.searchsorted(tops, bottoms)
    for index, (name, begin, end) in enumerate(
        zip(names.tolist(), begins.tolist(), ends.tolist(), strict=True)
    ):
        meets = bottoms[begin:end] > tops[index]
        meets &= lefts[begin:end] < rights[index]
        meets &= rights[begin:end] > lefts[index]
        others = np.flatnonzero(meets) + begin
        if len(others) > 1:  # it meets itself
            others = others[others != index]
            first = np.maximum(low[others], low[index]).min(axis=0) - reach
            stop = np.minimum(high[others], high[index]).max(axis=0) + reach
            first, stop = np.maximum(first, low[index]), np.minimum(stop, high[index])
            yield name, (*first.tolist(), *stop.tolist())


def bounding_boxes(instances: np.ndarray) -> list[tuple[int, Box]]:
    """(identity, (top, left, bottom, right)) of each instance, ends exclusive."""
    names, boxes = _boxes(instances)
    return [
        (name, tuple(box))
        for name, box in zip(names.tolist(), boxes.tolist(), strict=True)
    ]


def _boxes(instances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Identities [N] and their boxes [N, 4], from the runs of equal pixels in rows."""
    begins = np.ones(instances.shape, bool)
    np.not_equal(instances[:, 1:], instances[:, :-1], out=begins[:, 1:])
    flat = np.flatnonzero(begins)
    identities = instances.ravel()[flat]
    rows, lefts = np.divmod(flat, instances.shape[1])
    rights = np.append(flat[1:], instances.size) - rows * instances.shape[1]
    order = np.argsort(identities, kind="stable")
    order = order[np.searchsorted(identities[order], 1) :]  # background is no instance
    if not order.size:
        return np.zeros(0, np.int64), np.zeros((0, 4), np.int64)
    identities = identities[order]
    starts = np.flatnonzero(np.diff(identities, prepend=0))
    boxes = [
        np.minimum.reduceat(rows[order], starts),
        np.minimum.reduceat(lefts[order], starts),
        np.maximum.reduceat(rows[order], starts) + 1,
        np.maximum.reduceat(rights[order], starts),
    ]
    return identities[starts], np.stack(boxes, axis=1)
