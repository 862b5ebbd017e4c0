"""The Cell Tracking Challenge's SEG and DET, of segmentations alone.

celltrackingchallenge.net, "Evaluation methodology"; Matula et al. 2015, PLoS ONE
10(12): e0144959 (DET); Maska et al. 2014, doi:10.1093/bioinformatics/btu080 (SEG).
Gold truth may be partial: only its objects are asked for, and what lies elsewhere costs
nothing in SEG. Markers are complete, so DET counts what should not be there too.
"""

from typing import NamedTuple

import numpy as np

from trainer.scores.overlaps import Overlaps, overlaps, without_background

SPLIT, MISSED, EXTRA = 5, 10, 1  # weights of operations on the detection graph


class Object(NamedTuple):
    """What became of an object of the truth.

    Attributes:
      label: its number in the truth.
      size_px: its pixels.
      jaccard: with the result object that covers more than half of it, 0 without one.
      found_as: that object's number, 0 without one.
      fate: "found"; "missed" (nothing covers more than half of it), "split" (missed,
        but half of it and more lies in two or more objects), or "merged" (the object
        that covers it covers more than half of another one too).
    """

    label: int
    size_px: int
    jaccard: float
    found_as: int
    fate: str


def seg_objects(truth: np.ndarray, result: np.ndarray) -> list[Object]:
    """Matches the objects of gold truth.

    Args:
      truth, result: integers [H, W], 0 is background.

    Returns:
      One entry an object of the truth, by number; their mean `jaccard` over all frames
      is SEG.
    """
    table = without_background(overlaps(truth, result))
    matched = _more_than_half(table)
    iou, found_as = np.zeros(len(table.first)), np.zeros(len(table.first), np.int64)
    iou[table.row[matched]] = table.iou[matched]
    found_as[table.row[matched]] = table.second[table.column[matched]]
    covered = np.bincount(table.row, table.both_px, len(table.first))
    sharing = np.bincount(table.row, minlength=len(table.first))
    fates = np.where(
        (2 * covered > table.first_px) & (sharing > 1), "split", "missed"
    ).astype(object)
    numbers, times = np.unique(found_as[found_as > 0], return_counts=True)
    fates[found_as > 0] = "found"
    fates[np.isin(found_as, numbers[times > 1])] = "merged"
    rows = zip(
        table.first.tolist(),
        table.first_px.tolist(),
        iou.tolist(),
        found_as.tolist(),
        fates.tolist(),
        strict=True,
    )
    return [Object(*row) for row in rows]


class Detection(NamedTuple):
    """Operations that would correct the detection of a frame, or of several.

    Attributes:
      markers: objects of the truth.
      missed: markers that no object covers by more than half (FN).
      extra: objects that cover no marker by more than half (FP).
      splits: cuts that objects need which cover several markers (NS).
    """

    markers: int = 0
    missed: int = 0
    extra: int = 0
    splits: int = 0


def detection(markers: np.ndarray, result: np.ndarray) -> Detection:
    """Counts a frame's operations.

    Args:
      markers, result: integers [H, W], 0 is background.
    """
    table = without_background(overlaps(markers, result))
    covering = table.column[_more_than_half(table)]
    each = np.bincount(covering, minlength=len(table.second))
    return Detection(
        markers=len(table.first),
        missed=len(table.first) - len(covering),
        extra=int((each == 0).sum()),
        splits=int(np.maximum(each - 1, 0).sum()),
    )


def det(counts: Detection) -> float | None:
    """DET of counts summed over frames; None without a marker."""
    if not counts.markers:
        return None
    cost = SPLIT * counts.splits + MISSED * counts.missed + EXTRA * counts.extra
    from_nothing = MISSED * counts.markers
    return 1 - min(cost, from_nothing) / from_nothing


def _more_than_half(table: Overlaps) -> np.ndarray:
    """bool [P], pairs where the second covers more than half of the first."""
    return 2 * table.both_px > table.first_px[table.row]
