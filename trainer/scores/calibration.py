"""Whether a probability means what it says, and what each threshold would give.

Both depend on one histogram, which frames add up to.
"""

import numpy as np

BINS = 200


def histogram(foreground: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Counts pixels by probability and truth.

    Args:
      foreground: float32 [N], the probability of not being background.
      truth: bool [N], whether it is.

    Returns:
      float64 [BINS, 3]: background pixels, foreground pixels, and the sum of their
      probabilities, in each bin.
    """
    index = np.minimum((foreground * BINS).astype(np.int64), BINS - 1)
    return np.stack(
        [
            np.bincount(index[~truth], minlength=BINS),
            np.bincount(index[truth], minlength=BINS),
            np.bincount(index, foreground, minlength=BINS),
        ],
        axis=1,
    ).astype(np.float64)


def expected_calibration_error(counts: np.ndarray, bins: int = 20) -> float | None:
    """Mean of |share that is foreground - mean probability|, weighted by pixels.

    Naeini et al. 2015, of the foreground's probability over its whole range.

    Args:
      counts: see `histogram`.
      bins: into which they are gathered; divides BINS.
    """
    gathered = counts.reshape(bins, -1, 3).sum(axis=1)
    total = gathered[:, :2].sum()
    if not total:
        return None
    return float(np.abs(gathered[:, 1] - gathered[:, 2]).sum() / total)


def precision_recall(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the foreground's pixels, at each threshold from the highest to the lowest.

    Returns:
      precision and recall, float64 [BINS]; precision is 1 where nothing is predicted.
    """
    false, true = (np.cumsum(counts[::-1, k]) for k in (0, 1))
    predicted = true + false
    precision = np.divide(true, predicted, out=np.ones(BINS), where=predicted > 0)
    return precision, true / max(1, true[-1])
