"""Regions of label images: distances, bounding boxes, connected pieces.

The same values on every machine, with any number of threads.
"""

from collections.abc import Iterator

import cv2
import numpy as np

from unet_tfrecords.dataset.pixel_statistics import count_values
from unet_tfrecords.dataset.records import UNLABELLED

Box = tuple[int, int, int, int]  # top, left, bottom, right, ends exclusive
FAR = 1e18  # px
LONGER = 1.5  # a cell's box, turned and deformed, to its box before


def distances_to(mask: np.ndarray) -> np.ndarray:
    """How far each pixel is from the nearest pixel of a mask.

    OpenCV's own differ in the last bit with the number of its threads and with where
    an array lies in memory; squares of distances are whole numbers, so they don't have
    to (up to 1,600 px; beyond, the rounding is that of float32).

    Args:
      mask: bool [H, W].

    Returns:
      float32 [H, W], px; FAR everywhere where the mask is empty.
    """
    if not mask.any():  # OpenCV's own value for that overflows when it is squared
        return np.full(mask.shape, FAR, np.float32)
    found = cv2.distanceTransform(
        (~mask).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    )
    np.square(found, out=found)
    np.rint(found, out=found)
    return np.sqrt(found, out=found)


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


def _with_neighbours(instances: np.ndarray, reach: int) -> Iterator[tuple[int, Box]]:
    """Instances that come near another, with the part of the frame where it matters.

    A pixel has a term only if it lies within reach of two instances: where the box
    around one, widened by the reach, meets that of another. The distances there hang
    on pixels of the instance that are no further than the reach.
    """
    names, boxes = bounding_boxes(instances)
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


def bounding_boxes(instances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def narrowed(instances: np.ndarray) -> np.ndarray:
    """The same numbers as uint16 where they fit."""
    return (
        instances.astype(np.uint16) if instances.max(initial=0) < 2**16 else instances
    )


def away_from_edge(instances: np.ndarray, edge_px: int) -> np.ndarray:
    """Instances without those that lie entirely within `edge_px` of the frame's edge.

    Args:
      instances: integer [H, W], 0 is background; returned itself where `edge_px` is 0.
    """
    if not edge_px:
        return instances
    inner = instances[edge_px:-edge_px, edge_px:-edge_px]
    return np.where(np.isin(instances, inner), instances, 0).astype(instances.dtype)


def longest_px(instances: np.ndarray) -> int:
    """The longest side of any instance's box."""
    _, boxes = bounding_boxes(instances)
    return int((boxes[:, 2:] - boxes[:, :2]).max(initial=0))


def pieces_of_cells(instances: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Numbers the pieces that cells are in, as `connected_instances` does.

    A deformed frame has mirror images of cells at its edges, of the same number.

    Args:
      instances: integer [H, W], 0 is background; cells of a class don't touch.
      classes: uint8 [H, W].
    """
    return connected_instances(np.where(instances > 0, classes, 0))


def connected_instances(classes: np.ndarray) -> np.ndarray:
    """Numbers the connected pieces of each foreground class, uint16 or int32 [H, W].

    Pieces connect over edges and not over corners: a membrane one pixel wide that
    runs diagonally still separates.
    """
    instances = None
    numbered = 0
    for value in np.flatnonzero(count_values(classes, UNLABELLED + 1)[:UNLABELLED]):
        if value:
            mask = (classes == value).view(np.uint8)
            count, pieces = cv2.connectedComponents(mask, connectivity=4)
            if instances is None:
                instances = pieces
            else:  # pieces of different classes lie apart
                np.add(pieces, numbered, out=instances, where=pieces > 0)
            numbered += count - 1
    return (
        np.zeros(classes.shape, np.uint16) if instances is None else narrowed(instances)
    )
