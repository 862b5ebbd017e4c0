"""How far scores depend on which frames there were."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95  # share of them inside an interval
SEED = 1  # the same frames give the same intervals

Scores = Mapping[str, float | None]


def intervals(
    frames: Sequence[Any],
    pooled: Callable[[Sequence[Any]], Scores],
) -> dict[str, tuple[float, float] | None]:
    """Percentile intervals of pooled scores, over frames drawn with replacement.

    Neighbouring frames of a video are near copies, so that intervals over them are
    narrower than over frames of other videos; and they say nothing of what another
    training would have given.

    Args:
      frames: what each frame was measured to be.
      pooled: the scores of some frames together.

    Returns:
      Low and high by the score's name, over the resamples that have it (a few may lack
      all frames with gold truth); None where more than a tenth have not, or where there
      is a single frame.
    """
    rng = np.random.default_rng(SEED)
    draws = [
        pooled([frames[i] for i in rng.integers(len(frames), size=len(frames))])
        for _ in range(RESAMPLES if len(frames) > 1 else 0)
    ]
    tails = [50 * (1 - LEVEL), 50 * (1 + LEVEL)]
    found: dict[str, tuple[float, float] | None] = {}
    for name in pooled(frames):
        values = [draw[name] for draw in draws if draw[name] is not None]
        if not values or len(values) < 0.9 * len(draws):
            found[name] = None
        else:
            low, high = np.percentile(np.array(values, np.float64), tails).tolist()
            found[name] = low, high
    return found
