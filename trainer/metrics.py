"""Pixel scores from a confusion matrix, in NumPy."""

from typing import Any

import numpy as np

from preprocess.records import UNLABELLED


def confusion_matrix(
    truth: np.ndarray, predicted: np.ndarray, classes: int
) -> np.ndarray:
    """Counts of labelled pixels by true class (rows) and predicted class (columns).

    Args:
      truth: integers of any shape, 255 is unlabelled and not counted.
      predicted: integers of the same shape, below `classes`.

    Returns:
      int64 [classes, classes].
    """
    labelled = truth != UNLABELLED
    pairs = truth[labelled].astype(np.int64) * classes + predicted[labelled]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def _ratio(part: np.ndarray, whole: np.ndarray) -> list[float | None]:
    """None where a class neither occurs nor is predicted: there is nothing to score."""
    pairs = zip(part.tolist(), whole.tolist(), strict=True)
    return [a / b if b else None for a, b in pairs]


def pixel_scores(confusion: np.ndarray) -> dict[str, Any]:
    """Scores of a confusion matrix.

    Returns:
      `iou` and `dice` per class (None for a class that never occurs), `mean_iou` over
      the classes that do, and `pixel_error`, the share of labelled pixels that are
      wrong (None where none is labelled).
    """
    right = np.diag(confusion)
    true, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    iou = _ratio(right, true + predicted - right)
    scored = [value for value in iou if value is not None]
    total = int(confusion.sum())
    return {
        "iou": iou,
        "dice": _ratio(2 * right, true + predicted),
        "mean_iou": sum(scored) / len(scored) if scored else None,
        "pixel_error": 1 - int(right.sum()) / total if total else None,
    }
