"""Average precision of instances over Jaccard thresholds.

Without scores of confidence: TP / (TP + FP + FN) at each threshold, as StarDist and the
Data Science Bowl 2018 report it (Caicedo et al. 2019, doi:10.1038/s41592-019-0612-7).
"""

import numpy as np

from trainer.scores.overlaps import overlaps, without_background

THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))


def match_counts(
    truth: np.ndarray, result: np.ndarray, unlabelled: np.ndarray
) -> np.ndarray:
    """True positives, false positives and false negatives at each threshold.

    Above 0.5 no object can match two others, so nothing need be chosen.

    Args:
      truth, result: integers [H, W], 0 is background.
      unlabelled: bool [H, W]; objects of the result that lie there for the most part
        count nowhere.

    Returns:
      int64 [10, 3], for matches by a Jaccard index above 0.5, 0.55, ..., 0.95.
    """
    result = without_those_in(unlabelled, result)
    table = without_background(overlaps(truth, result))
    counts = []
    for threshold in THRESHOLDS:
        true = int((table.iou > threshold).sum())
        counts.append((true, len(table.second) - true, len(table.first) - true))
    return np.array(counts)


def without_those_in(place: np.ndarray, result: np.ndarray) -> np.ndarray:
    """Objects less those that lie for the most part in some place.

    Args:
      place: bool [H, W].
      result: integers [H, W], 0 is background.
    """
    all_px = np.bincount(result.ravel().astype(np.int64))
    inside_px = np.bincount(result[place].astype(np.int64), minlength=len(all_px))
    return np.where((2 * inside_px > all_px)[result], 0, result)


def average_precision(counts: np.ndarray) -> list[float | None]:
    """TP / (TP + FP + FN) at each threshold; None where there is nothing at all."""
    return [
        true / total if (total := true + extra + missed) else None
        for true, extra, missed in counts.tolist()
    ]
