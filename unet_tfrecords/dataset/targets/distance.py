"""How far inside its cell a pixel lies, and how near to another cell.

Two planes of Scherr et al. 2020 (PLoS ONE 15(12): e0243219; arXiv 2004.01486), stored
as 0 to 255 for 0 to 1:

* cell: distance to the cell's edge, divided by its maximum in that cell.
* neighbour: 1 where cells touch, falling to 0 inside the cell; 1 in narrow gaps.

Flips and quarter turns of an image turn the planes alike.
"""

import math

import cv2
import numpy as np

from unet_tfrecords.dataset import regions

VERSION = 1
PLANES = 2
PLANES_ARE = "scalars"
TOP = 255  # stands for 1
RADIUS_PX = 40  # no cell further away counts as a neighbour
GAP_PX = 3  # gaps of at most N px between two cells are filled
BEYOND_PX = 3  # how much further than the cell's own depth a neighbour counts


def reach_px(instances: np.ndarray, zoom: float = 1.0) -> int:
    """How far around a pixel cells must be known: its own as a whole, and others near.

    Args:
      instances: integer [H, W] of the frame before it is deformed, 0 is background.
      zoom: how many times as large cells may get.
    """
    longest = regions.longest_px(instances)
    return math.ceil(zoom * regions.LONGER * longest) + RADIUS_PX


def render(instances: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Both planes.

    Args:
      instances: integer [H, W], 0 is background; cells of a class don't touch.
      classes: uint8 [H, W]; of unlabelled pixels the planes mean nothing.

    Returns:
      uint8 [H, W, 2], 0 on background but for narrow gaps.
    """
    pieces = regions.pieces_of_cells(instances, classes)
    cell, neighbour = (np.zeros(pieces.shape, np.float32) for _ in range(2))
    names, boxes = regions.bounding_boxes(pieces)
    for name, box in zip(names.tolist(), boxes.tolist(), strict=True):
        near = _widened(box, 1)
        own = pieces[near] == name
        depth = regions.distances_to(~own)[own]
        if depth[0] == regions.FAR:  # a cell all over
            depth = np.ones_like(depth)
        cell[near][own] = depth / depth.max()
        around = _widened(box, RADIUS_PX)
        own, others = pieces[around] == name, pieces[around] > 0
        if (others & ~own).any():
            away = regions.distances_to(others & ~own)[own]
            neighbour[around][own] = _nearness(away, float(depth.max()))
    neighbour[_gaps(pieces)] = 1
    neighbour = _closed(_sharpened(neighbour))
    return np.rint(TOP * np.stack([cell, neighbour], axis=-1)).astype(np.uint8)


def _widened(box: list[int], px: int) -> tuple[slice, slice]:
    top, left, bottom, right = box
    rows = slice(max(0, top - px), bottom + px)
    return rows, slice(max(0, left - px), right + px)


def _nearness(away: np.ndarray, depth: float) -> np.ndarray:
    """1 beside another cell, 0 where it is further than the cell is deep.

    Args:
      away: float32, px from the nearest other cell, of the pixels of one cell.
      depth: of the cell, px.
    """
    if away.min() > RADIUS_PX:
        return np.zeros_like(away)
    return np.clip(1 - away / min(depth + BEYOND_PX, float(away.max())), 0, 1)


def _gaps(instances: np.ndarray) -> np.ndarray:
    """Background between two cells that are up to GAP_PX apart, bool [H, W]."""
    reach = (
        GAP_PX + 2
    )  # distances in a gap of n px add up to n + 1, or some tenths more
    nearest, second = regions.distances_to_two(instances, reach)
    return (instances == 0) & (nearest + second < reach)


def _sharpened(neighbour: np.ndarray) -> np.ndarray:
    """The paper's curve, which leaves little below 0.5."""
    curve = 1 / np.sqrt(0.65 + 0.5 * np.exp(-11 * (neighbour - 0.75))) - 0.19
    return np.clip(curve, 0, 1, dtype=np.float32)


def _closed(neighbour: np.ndarray) -> np.ndarray:
    return cv2.morphologyEx(neighbour, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
