"""How many pixels each two regions of two segmentations share."""

from typing import NamedTuple

import numpy as np


class Overlaps(NamedTuple):
    """A sparse table of two labelings of the same pixels; 0 is a label as any other.

    Attributes:
      first, second: int64 [N] and [M], the labels that occur, ascending.
      first_px, second_px: int64 [N] and [M], their pixels.
      row, column: int64 [P], indices of the pairs that share pixels.
      both_px: int64 [P], pixels shared.
    """

    first: np.ndarray
    second: np.ndarray
    first_px: np.ndarray
    second_px: np.ndarray
    row: np.ndarray
    column: np.ndarray
    both_px: np.ndarray

    @property
    def iou(self) -> np.ndarray:
        """float64 [P], the Jaccard index of each pair."""
        union = self.first_px[self.row] + self.second_px[self.column] - self.both_px
        return self.both_px / union


def overlaps(first: np.ndarray, second: np.ndarray) -> Overlaps:
    """Counts common pixels.

    Args:
      first, second: integers of the same shape, not negative.
    """
    first, second = first.ravel().astype(np.int64), second.ravel().astype(np.int64)
    base = int(second.max(initial=0)) + 1
    pairs, both_px = np.unique(first * base + second, return_counts=True)
    of_first, of_second = np.divmod(pairs, base)
    labels_a, row = np.unique(of_first, return_inverse=True)
    labels_b, column = np.unique(of_second, return_inverse=True)
    return Overlaps(
        labels_a,
        labels_b,
        np.bincount(row, both_px, len(labels_a)).astype(np.int64),
        np.bincount(column, both_px, len(labels_b)).astype(np.int64),
        row,
        column,
        both_px,
    )


def without_background(table: Overlaps) -> Overlaps:
    """The same without label 0 in either; sizes stay those of whole regions."""
    keep_a, keep_b = table.first > 0, table.second > 0
    keep = keep_a[table.row] & keep_b[table.column]
    new_a, new_b = np.cumsum(keep_a) - 1, np.cumsum(keep_b) - 1
    return Overlaps(
        table.first[keep_a],
        table.second[keep_b],
        table.first_px[keep_a],
        table.second_px[keep_b],
        new_a[table.row[keep]],
        new_b[table.column[keep]],
        table.both_px[keep],
    )
