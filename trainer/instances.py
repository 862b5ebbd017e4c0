"""Classes to instances: which pixels are one cell."""

from typing import NamedTuple

import cv2
import numpy as np

from preprocess.sources.base import connected_instances
from preprocess.weights import distances_to_two


class InstanceRules(NamedTuple):
    """How instances are made of classes.

    Attributes:
      min_size_px: instances of fewer pixels are dropped.
      fill_holes: whether background that a single instance encloses becomes part of it.
      border_px: gaps between two instances of up to so many px are given back to them,
        each pixel to the nearer one: in training, background was drawn there.
    """

    min_size_px: int = 20
    fill_holes: bool = True
    border_px: int = 3


def instances_of(classes: np.ndarray, rules: InstanceRules) -> np.ndarray:
    """Connected pixels of one class, numbered 1, 2, ... in reading order.

    Args:
      classes: uint8 [H, W], 0 is background.
      rules: what is cleaned up.

    Returns:
      int32 [H, W], 0 is background.
    """
    found = connected_instances(classes).astype(np.int32)
    if rules.min_size_px > 1:
        found = _drop_small(found, rules.min_size_px)
    if rules.fill_holes:
        found = _fill_holes(found)
    if rules.border_px:
        found = _give_back_borders(found, rules.border_px)
    return _numbered_without_gaps(found)


def _fill_holes(instances: np.ndarray) -> np.ndarray:
    """Background in one piece that meets a single instance and no edge of the frame."""
    number, holes = cv2.connectedComponents((instances == 0).view(np.uint8))
    least = np.full(number, np.iinfo(np.int32).max, np.int32)
    most = np.zeros(number, np.int32)
    for axis in (0, 1):
        along = [slice(None)] * 2
        for first, second in ((np.s_[:-1], np.s_[1:]), (np.s_[1:], np.s_[:-1])):
            along[axis] = first
            here = tuple(along)
            along[axis] = second
            there = tuple(along)
            meets = (instances[here] == 0) & (instances[there] > 0)
            hole, beside = holes[here][meets], instances[there][meets]
            np.minimum.at(least, hole, beside)
            np.maximum.at(most, hole, beside)
    filled = np.where(least == most, most, 0)
    for edge in (holes[0], holes[-1], holes[:, 0], holes[:, -1]):
        filled[edge] = 0
    filled[0] = 0  # not background
    return instances + filled[holes]


def _drop_small(instances: np.ndarray, least_px: int) -> np.ndarray:
    """Without instances of fewer than `least_px` pixels."""
    small = np.bincount(instances.ravel()) < least_px
    return np.where(small[instances], 0, instances)


def _numbered_without_gaps(instances: np.ndarray) -> np.ndarray:
    """The same instances as 1, 2, ..., in the order of their numbers."""
    there = np.bincount(instances.ravel()) > 0
    there[0] = False
    return np.where(there, np.cumsum(there), 0).astype(np.int32)[instances]


def _give_back_borders(instances: np.ndarray, border_px: int) -> np.ndarray:
    """Gaps of up to `border_px` between two instances, to the nearer one of them."""
    # A pixel in a straight gap of n pixels has distances that add up to n + 1, in a
    # diagonal one up to some tenths more.
    reach = border_px + 2
    nearest, second = distances_to_two(instances, reach)
    between = (instances == 0) & (nearest + second < reach)
    return np.where(between, _nearest(instances), instances)


def _nearest(instances: np.ndarray) -> np.ndarray:
    """The instance nearest to each pixel, but for ties and rounding."""
    inside = instances > 0
    if not inside.any():
        return instances
    _, numbers = cv2.distanceTransformWithLabels(
        (~inside).view(np.uint8),
        cv2.DIST_L2,
        cv2.DIST_MASK_5,
        labelType=cv2.DIST_LABEL_PIXEL,
    )
    instance_of = np.zeros(numbers.max() + 1, np.int32)
    instance_of[numbers[inside]] = instances[inside]  # a pixel inside has its own
    return instance_of[numbers]
