"""Probabilities to classes and instances: which pixels are one cell."""

import math
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

import cv2
import numpy as np

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset import regions
from unet_tfrecords.dataset.targets import border, distance

LEAST_BETWEEN = 0.05  # nearness below this counts as none
LEAST_SEED_PX = 4
# Each pixel of an image, and the one above, below, left or right of it.
BESIDE = tuple(
    (pair, other)
    for one, two in ((np.s_[:-1, :], np.s_[1:, :]), (np.s_[:, :-1], np.s_[:, 1:]))
    for pair, other in ((one, two), (two, one))
)
_LOADING = threading.Lock()
TOP = 65535  # stands for 1 where planes are smoothed


class InstanceRules(NamedTuple):
    """How classes and instances are made of probabilities; `evaluate --tune` finds it.

    Attributes:
      threshold: probability of foreground above which a pixel is foreground; with
        several classes, the odds that the most probable of them must have against
        background.
      core_threshold: where above `threshold`, each instance grows from a core of pixels
        more probable than this, along falling probability: cells that touch by a bridge
        of doubt come apart. Cores below `min_size_px` count where there is no larger
        one; a piece without any goes.
      split_px: cores are parted where a bridge between two bulges is narrower than
        both by N px (each half-width): peaks of the distance transform. 0 parts
        nothing.
      min_size_px: instances of fewer pixels are dropped.
      fill_holes: whether background that a single instance encloses becomes part of it.
      border_px: gaps between two instances of up to N px are given back to them,
        each pixel to the nearer one: in training, background was drawn there.
      seed_threshold: of targets with planes: cells begin where this is exceeded by
        their depth, less their nearness to others ("distance"), or by the probability
        of their inside ("border").
      smoothing_px: of the same: deviation of the filter of depth or probability.
    """

    threshold: float = 0.5
    core_threshold: float = 0.0
    split_px: float = 0.0
    min_size_px: int = 20
    fill_holes: bool = True
    border_px: int = 3
    seed_threshold: float = 0.45
    smoothing_px: float = 1.0


class Outputs(NamedTuple):
    """What a network says of an image, or of a window of it.

    Attributes:
      probabilities: float32 [H, W, K].
      planes: float32 [H, W, P], of its target; None where that has none.
    """

    probabilities: np.ndarray
    planes: np.ndarray | None = None


def check_rules(rules: InstanceRules) -> list[str]:
    """What is wrong with rules, a line each."""
    problems = [
        f"{name}={value} must be from 0 to below 1"
        for name in ("threshold", "core_threshold", "seed_threshold")
        if not 0 <= (value := getattr(rules, name)) < 1
    ]
    problems += [
        f"{name}={value} must be a number and not negative"
        for name in ("split_px", "min_size_px", "border_px", "smoothing_px")
        if not 0 <= (value := getattr(rules, name)) < math.inf
    ]
    problems += [
        f"{name}={value} must be a whole number"
        for name in ("min_size_px", "border_px")
        if (value := getattr(rules, name)) != value // 1
    ]
    return problems


def rules_from(content: dict, where: str) -> InstanceRules:
    """Rules as they stand in a JSON file.

    Raises:
      UserError: unknown or impossible ones.
    """
    if not isinstance(content, dict):
        raise UserError(f"{where}: broken (rules are values by name)")
    try:
        rules = InstanceRules(**content)
        problems = check_rules(rules)
    except TypeError as error:
        problems = [str(error)]
    if problems:
        raise UserError([f"{where}: {problem}" for problem in problems])
    return rules


def classes_of(probabilities: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """The class of each pixel.

    Args:
      probabilities: float32 [H, W, K], background first.
      threshold: see `InstanceRules`; at 0.5 it is the most probable class.

    Returns:
      uint8 [H, W].
    """
    if probabilities.shape[-1] == 2:  # exact at any threshold
        return (probabilities[..., 1] > threshold).view(np.uint8)
    best = probabilities[..., 1:].argmax(-1).astype(np.uint8) + 1
    most = probabilities[..., 1:].max(-1)
    return np.where(most * (1 - threshold) > probabilities[..., 0] * threshold, best, 0)


def instances_of(
    probabilities: np.ndarray, rules: InstanceRules, planes: np.ndarray | None = None
) -> np.ndarray:
    """Connected pixels of one class, numbered 1, 2, ... without gaps.

    Args:
      probabilities: float32 [H, W, K], background first.
      rules: what is parted, cleaned up and given back.
      planes: float32 [H, W, P] of the target, which part cells; None where it has none.

    Returns:
      int32 [H, W], 0 is background.
    """
    classes = classes_of(probabilities, rules.threshold)
    found = parted(probabilities, classes, rules, planes)
    if rules.fill_holes:
        found = _fill_holes(found)
    if rules.border_px:
        found = give_back_borders(found, rules.border_px)
    return numbered_without_gaps(found)


def are_parted(rules: InstanceRules, planes: int) -> bool:
    """Whether a piece of a class may become several instances."""
    return bool(planes or rules.core_threshold > rules.threshold or rules.split_px)


def parted(
    probabilities: np.ndarray,
    classes: np.ndarray,
    rules: InstanceRules,
    planes: np.ndarray | None = None,
    least_seed_px: Mapping[int, float] | None = None,
) -> np.ndarray:
    """Instances before holes and borders are given to them.

    Those of a piece, which is all connected pixels of a class, depend on that piece
    alone: an image can be parted piece by piece.

    Args:
      probabilities, rules, planes: as `instances_of` takes them.
      classes: uint8 [H, W]; of some of the pieces where others are to be left out.
      least_seed_px: smallest seeds by class; by default of the seeds that are here.

    Returns:
      int32 [H, W], 0 is background.
    """
    if planes is not None:
        seeds, height = seeds_of(probabilities, planes, rules)
        found = _grown_from_seeds(classes, seeds, height, least_seed_px)
    elif are_parted(rules, 0):
        found = _grown_from_cores(classes, 1 - probabilities[..., 0], rules)
    else:
        found = regions.connected_instances(classes).astype(np.int32)
    return drop_small(found, rules.min_size_px) if rules.min_size_px > 1 else found


def seeds_of(
    probabilities: np.ndarray, planes: np.ndarray, rules: InstanceRules
) -> tuple[np.ndarray, np.ndarray]:
    """Where cells begin, bool [H, W], and what they grow down from, float32 [H, W].

    Both depend on pixels up to `reach_px` away.
    """
    certainty, height = SEEN_IN[planes.shape[-1]](probabilities, planes, rules)
    return certainty > rules.seed_threshold, height


def reach_px(rules: InstanceRules, planes: int) -> int:
    """How far away pixels count in `seeds_of`."""
    return math.ceil(4 * rules.smoothing_px) + 1 if planes else 0


class ScikitImage(NamedTuple):
    """What is used of scikit-image."""

    diamond: Callable[..., np.ndarray]
    h_maxima: Callable[..., np.ndarray]
    label: Callable[..., np.ndarray]
    watershed: Callable[..., np.ndarray]


def _scikit_image() -> ScikitImage:
    """Loads it, once and by one thread: it loads its parts when they are first used.

    Two threads that do so at once can find one half loaded.
    """
    with _LOADING:
        from skimage import measure, morphology, segmentation

        return ScikitImage(
            morphology.diamond,
            morphology.h_maxima,
            measure.label,
            segmentation.watershed,
        )


def _flooded(height: np.ndarray, seeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Watershed of seeds in a mask, down from the highest pixels.

    All seeds are flooded from at the start, in reading order (Meyer 1994). Left to
    scikit-image, seeds of equal height come in an order that depends on the rest of
    the image.
    """
    depth = -height.astype(np.float64)
    places = np.flatnonzero(seeds)
    depth.ravel()[places] = depth.min() - np.arange(len(places), 0, -1)
    return _scikit_image().watershed(depth, seeds, mask=mask, connectivity=1)


def _grown_from_cores(
    classes: np.ndarray, foreground: np.ndarray, rules: InstanceRules
) -> np.ndarray:
    """Instances as watersheds around cores, class by class."""
    grown = np.zeros(classes.shape, np.int32)
    for value in np.unique(classes[classes > 0]):
        mask = classes == value
        cores = mask & (foreground > rules.core_threshold)
        if rules.split_px:
            seeds, height = _bulges(cores, rules.split_px)
        else:
            seeds, height = _large_cores(cores, mask, rules.min_size_px), foreground
        found = _flooded(height, seeds, mask)
        grown += np.where(found > 0, found + grown.max(), 0)
    return grown


def _from_border(
    probabilities: np.ndarray, planes: np.ndarray, rules: InstanceRules
) -> tuple[np.ndarray, np.ndarray]:
    """Inside a cell, and not at its border with another: probability, as both."""
    inside = (1 - probabilities[..., 0]) * (1 - planes[..., 0])
    inside = _smoothed(inside, rules.smoothing_px)
    return inside, inside


def _from_distance(
    _: np.ndarray, planes: np.ndarray, rules: InstanceRules
) -> tuple[np.ndarray, np.ndarray]:
    """Deep in a cell and far from others; depth (Scherr et al. 2020).

    As in PLoS ONE 15(12): e0243219, but for the extent of cells, which is by the
    network's classes: near the edge of a large cell its depth says little.
    """
    depth = _smoothed(planes[..., 0], rules.smoothing_px)
    between = np.tan(np.square(planes[..., 1]))
    between = np.where(between < LEAST_BETWEEN, 0, np.minimum(between, 1))
    return depth - between, depth


def _smoothed(plane: np.ndarray, deviation_px: float) -> np.ndarray:
    """In steps of 1 / 65,535, in which OpenCV's filter is exact anywhere."""
    if not deviation_px:
        return plane
    steps = np.rint(np.clip(plane, 0, 1) * TOP).astype(np.uint16)
    return cv2.GaussianBlur(steps, (0, 0), deviation_px).astype(np.float32) / TOP


# How certainly a cell begins at each pixel, and what it grows down from, float32
# [H, W] each: by the number of planes, which tells targets apart.
SEEN_IN = {border.PLANES: _from_border, distance.PLANES: _from_distance}


def _grown_from_seeds(
    classes: np.ndarray,
    begins: np.ndarray,
    height: np.ndarray,
    least_px: Mapping[int, float] | None,
) -> np.ndarray:
    """Instances as watersheds around seeds, class by class.

    Args:
      classes: uint8 [H, W].
      begins: bool [H, W], seeds; those of few pixels don't count.
      height: float32 [H, W], which falls towards the edges of cells.
      least_px: of the seeds that count, by class; None takes a share of their mean.
    """
    grown = np.zeros(classes.shape, np.int32)
    for value in np.unique(classes[classes > 0]):
        mask = classes == value
        seeds = _scikit_image().label(mask & begins, connectivity=1)
        size = np.bincount(seeds.ravel())[1:]
        small = np.zeros(len(size) + 1, bool)
        if least_px is None:
            least = least_seed_px(int(size.sum()), len(size))
        else:
            least = least_px[int(value)]
        small[1:] = size < least
        seeds[small[seeds]] = 0
        # A piece of the class without a seed is a cell too, shallow or badly seen.
        pieces = _scikit_image().label(mask, connectivity=1)
        has_seed = np.zeros(pieces.max() + 1, bool)
        has_seed[pieces[seeds > 0]] = True
        others = mask & ~has_seed[pieces]
        seeds[others] = pieces[others] + seeds.max()
        found = _flooded(height, seeds, mask)
        grown += np.where(found > 0, found + grown.max(), 0).astype(np.int32)
    return grown


def least_seed_px(pixels: int, seeds: int) -> float:
    """How large a seed must be, by how many pixels all of them have."""
    return max(LEAST_SEED_PX, pixels / seeds / 10 if seeds else 0)


def _large_cores(cores: np.ndarray, mask: np.ndarray, least_px: int) -> np.ndarray:
    """Cores of `least_px` pixels or more; in a piece without any, its largest one.

    Args:
      cores, mask: bool [H, W], cores within the mask.
      least_px: or specks of certainty would cut cells up.

    Returns:
      int32 [H, W].
    """
    numbers = regions.connected_instances(cores.view(np.uint8)).astype(np.int32)
    pieces = regions.connected_instances(mask.view(np.uint8))
    size = np.bincount(numbers.ravel())
    size[0] = 0
    piece_of = np.zeros(len(size), np.int64)
    piece_of[numbers[cores]] = pieces[cores]
    largest = np.zeros(int(pieces.max()) + 1, np.int64)
    np.maximum.at(largest, piece_of, size)
    kept = (size >= least_px) | (size == largest[piece_of])
    kept[0] = False
    return np.where(kept[numbers], numbers, 0)


def _bulges(mask: np.ndarray, least_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Peaks of the distance to a mask's edge, and that distance.

    A piece too thin to have a peak is one as a whole.

    Args:
      mask: bool [H, W].
      least_px: how far down it must go between two peaks.
    """
    depth = regions.distances_to(~mask)
    # Over edges alone, as pieces connect: or one would depend on its corners' others.
    over_edges = _scikit_image().diamond(1)
    peaks = mask & (_scikit_image().h_maxima(depth, least_px, over_edges) > 0)
    pieces = regions.connected_instances(mask.view(np.uint8))
    has_peak = np.zeros(int(pieces.max()) + 1, bool)
    has_peak[pieces[peaks]] = True
    peaks |= mask & ~has_peak[pieces]
    numbers = np.where(peaks, pieces, 0)  # pieces that meet at a corner stay apart
    return _scikit_image().label(numbers, connectivity=2).astype(np.int32), depth


def _fill_holes(instances: np.ndarray) -> np.ndarray:
    """Background in one piece that meets a single instance and no edge of the frame."""
    number, holes = cv2.connectedComponents((instances == 0).view(np.uint8))
    least = np.full(number, np.iinfo(np.int32).max, np.int32)
    most = np.zeros(number, np.int32)
    for here, there in BESIDE:
        meets = (instances[here] == 0) & (instances[there] > 0)
        hole, beside = holes[here][meets], instances[there][meets]
        np.minimum.at(least, hole, beside)
        np.maximum.at(most, hole, beside)
    filled = np.where(least == most, most, 0)
    for edge in (holes[0], holes[-1], holes[:, 0], holes[:, -1]):
        filled[edge] = 0
    filled[0] = 0  # not background
    return instances + filled[holes]


def drop_small(instances: np.ndarray, least_px: int) -> np.ndarray:
    """Without instances of fewer than `least_px` pixels."""
    small = np.bincount(instances.ravel()) < least_px
    return np.where(small[instances], 0, instances)


def numbered_without_gaps(instances: np.ndarray) -> np.ndarray:
    """The same instances as 1, 2, ..., in the order of their numbers."""
    there = np.bincount(instances.ravel()) > 0
    there[0] = False
    return np.where(there, np.cumsum(there), 0).astype(np.int32)[instances]


def give_back_borders(instances: np.ndarray, border_px: int) -> np.ndarray:
    """Gaps of up to `border_px` between two instances, to the nearer one of them."""
    # A pixel in a straight gap of n pixels has distances that add up to n + 1, in a
    # diagonal one up to some tenths more.
    reach = border_px + 2
    nearest, second = regions.distances_to_two(instances, reach)
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
