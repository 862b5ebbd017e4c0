"""Pixel scores from a confusion matrix, in NumPy."""

import numpy as np

from unet_tfrecords.dataset.records import UNLABELLED


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


def pixel_scores(confusion: np.ndarray) -> dict[str, float | None]:
    """Scores of a confusion matrix.

    Returns:
      `mean_iou` over the classes that occur; `pixel_error`, the share of labelled
      pixels that are wrong; and `iou_K`, `dice_K`, `precision_K`, `recall_K` of each
      class K. None where there is nothing to score: a class that neither occurs nor is
      predicted, a precision of nothing predicted.
    """
    right = np.diag(confusion)
    true, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    each = {
        "iou": _ratios(right, true + predicted - right),
        "dice": _ratios(2 * right, true + predicted),
        "precision": _ratios(right, predicted),
        "recall": _ratios(right, true),
    }
    scored = [value for value in each["iou"] if value is not None]
    total = int(confusion.sum())
    return {
        "mean_iou": sum(scored) / len(scored) if scored else None,
        "pixel_error": 1 - int(right.sum()) / total if total else None,
        **{
            f"{name}_{k}": value
            for name, values in each.items()
            for k, value in enumerate(values)
        },
    }


def _ratios(part: np.ndarray, whole: np.ndarray) -> list[float | None]:
    pairs = zip(part.tolist(), whole.tolist(), strict=True)
    return [a / b if b else None for a, b in pairs]
