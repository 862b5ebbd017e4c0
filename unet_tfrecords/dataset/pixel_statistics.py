"""Sums over pixels, exact in whole numbers: the same in any order and on any worker.

They go through a frame strip by strip, so that a large one needs no copy of itself.
"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np

STRIP_PIXELS = 2**20


class Moments(NamedTuple):
    """What mean and standard deviation are made of.

    Attributes:
      pixels: how many.
      totals: sum of each channel's values.
      squares: sum of each channel's squared values.

    >>> of_frame = moments(np.array([[[1], [3]]], np.uint8))
    >>> of_frame.mean, of_frame.std
    (array([2.]), array([1.]))
    """

    pixels: int
    totals: tuple[int, ...]
    squares: tuple[int, ...]

    @property
    def mean(self) -> np.ndarray:
        """float64 [C]."""
        return np.array([total / self.pixels for total in self.totals])

    @property
    def std(self) -> np.ndarray:
        """float64 [C]; a constant channel's counts as 1: it normalises to 0."""
        spread = [  # in Python's integers, which do not overflow
            math.sqrt(self.pixels * square - total**2) / self.pixels
            for total, square in zip(self.totals, self.squares, strict=True)
        ]
        return np.array([value or 1.0 for value in spread])


def strips(image: np.ndarray) -> Iterator[np.ndarray]:
    """An image's rows, some at a time."""
    rows = max(1, STRIP_PIXELS // max(1, image.shape[1]))
    for first in range(0, image.shape[0], rows):
        yield image[first : first + rows]


def moments(image: np.ndarray) -> Moments:
    """The moments of uint8 or uint16 [H, W, C], from each channel's histogram."""
    totals, squares = [], []
    for channel in range(image.shape[2]):
        counts = count_values(image[..., channel])
        values = np.arange(len(counts))
        totals.append(int((counts * values).sum()))
        squares.append(int((counts * values**2).sum()))
    return Moments(image.shape[0] * image.shape[1], tuple(totals), tuple(squares))


def pooled(parts: Iterable[Moments]) -> Moments:
    """The moments of several frames taken together.

    >>> pooled([Moments(1, (2,), (4,)), Moments(1, (4,), (16,))])
    Moments(pixels=2, totals=(6,), squares=(20,))
    """
    counts, totals, squares = zip(*parts, strict=True)
    return Moments(
        sum(counts),
        tuple(map(sum, zip(*totals, strict=True))),
        tuple(map(sum, zip(*squares, strict=True))),
    )


def count_values(labels: np.ndarray, at_least: int = 0) -> np.ndarray:
    """How often each number occurs, int64 [largest + 1 or `at_least`].

    Args:
      labels: uint8, uint16 or int32 [H, W], from 0.
    """
    counts = np.zeros(max(at_least, int(labels.max(initial=0)) + 1), np.int64)
    for strip in strips(labels):
        if labels.dtype == np.int32:
            counts += np.bincount(strip.ravel(), minlength=len(counts))
        else:  # several times as fast; float32 holds a strip's counts exactly
            bins, ends = [len(counts)], [0, len(counts)]
            counts += cv2.calcHist([strip], [0], None, bins, ends).ravel().astype(int)
    return counts
