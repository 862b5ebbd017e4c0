"""ISBI 2012's scores of a membrane map, a slice at a time.

* V_rand and V_info after border thinning rank the challenge's board since 2013:
  Arganda-Carreras et al. 2015, doi:10.3389/fnana.2015.00142.
* Rand error, pixel error and warping error are what the U-Net paper reports (table 1);
  warping error: Jain et al. 2010, doi:10.1109/CVPR.2010.5539950.

All are best over thresholds of the probability of being cell interior, each at its own.
Slices are segmented in 2D, and scores are means over slices. The challenge's test
labels were never published, so any local figure is of held-out training slices.
"""

import collections
from typing import NamedTuple

import numpy as np

from trainer.scores.overlaps import Overlaps, overlaps

THRESHOLDS = tuple(round(0.1 * i, 1) for i in range(1, 10))


class Agreement(NamedTuple):
    """An f-score with its parts: low `split` means cells cut, low `merge` means joined.

    Attributes:
      f: the harmonic mean of both.
      split, merge: 1 is perfect.
    """

    f: float
    split: float
    merge: float


class ThresholdScores(NamedTuple):
    """A slice's scores at one threshold.

    Attributes:
      v_rand, v_info: after border thinning.
      rand_error: 1 - f-score of pixel pairs, borders as thick as they are.
      pixel_error: share of wrong pixels.
      warping_error: share of pixels that stay wrong however outlines are moved.
    """

    v_rand: Agreement
    v_info: Agreement
    rand_error: float
    pixel_error: float
    warping_error: float


def scores_of_slice(
    segments: np.ndarray, interior: np.ndarray, probability: np.ndarray
) -> list[ThresholdScores]:
    """Scores at each of THRESHOLDS.

    Args:
      segments: integers [H, W], the truth's cells; 0 is membrane.
      interior: bool [H, W], the truth's pixels.
      probability: float32 [H, W] of being interior.
    """
    found = []
    for threshold in THRESHOLDS:
        proposed = probability > threshold
        thinned = joint(segments, segments_of(proposed, thin=True))
        as_is = joint(segments, segments_of(proposed, thin=False))
        found.append(
            ThresholdScores(
                v_rand(thinned),
                v_info(thinned),
                rand_error(as_is),
                float((proposed != interior).mean()),
                warping_error(interior, proposed),
            )
        )
    return found


def segments_of(interior: np.ndarray, *, thin: bool) -> np.ndarray:
    """Cells as pieces connected by sides.

    Args:
      interior: bool [H, W].
      thin: whether membranes first shrink to lines of one pixel, connected as before
        (a skeleton), so that their thickness counts nowhere.

    Returns:
      int32 [H, W], 0 is membrane.
    """
    from skimage import measure, morphology

    if thin:
        # The frame's edge must not look like the end of a membrane, or its line would
        # retreat from there and let cells meet.
        around = min(32, *interior.shape)
        membrane = np.pad(~interior, around, mode="edge")
        skeleton = morphology.skeletonize(membrane)
        interior = ~skeleton[around:-around, around:-around]
    return measure.label(interior, connectivity=1).astype(np.int32)


def joint(truth: np.ndarray, result: np.ndarray) -> Overlaps:
    """Common pixels of two segmentations, on the truth's foreground alone.

    Args:
      truth, result: integers [H, W]; where truth is 0 nothing is counted, 0 in result
        is a region of its own.

    Raises:
      ValueError: truth is 0 everywhere.
    """
    inside = truth > 0
    if not inside.any():
        raise ValueError("the truth has no foreground")
    return overlaps(truth[inside], result[inside])


def v_rand(table: Overlaps) -> Agreement:
    """Rand scores: of two pixels of a cell drawn at random, how often they stay so."""
    total = table.both_px.sum()
    both, truth, result = (
        float(np.square(px / total).sum())
        for px in (table.both_px, table.first_px, table.second_px)
    )
    return Agreement(2 * both / (truth + result), both / truth, both / result)


def v_info(table: Overlaps) -> Agreement:
    """Information scores: mutual information over either entropy."""
    total = table.both_px.sum()
    of_both, of_truth, of_result = (
        _entropy(px / total) for px in (table.both_px, table.first_px, table.second_px)
    )
    mutual = of_truth + of_result - of_both
    if of_truth + of_result == 0:  # one region in both
        return Agreement(1.0, 1.0, 1.0)
    split = mutual / of_result if of_result else 1.0
    merge = mutual / of_truth if of_truth else 1.0
    return Agreement(2 * mutual / (of_truth + of_result), split, merge)


def _entropy(share: np.ndarray) -> float:
    return float(-(share * np.log(share)).sum())


def rand_error(table: Overlaps) -> float:
    """1 - f-score over pairs of different pixels that are in one region."""
    both, truth, result = (
        float((px.astype(np.float64) * (px - 1)).sum())
        for px in (table.both_px, table.first_px, table.second_px)
    )
    return 1 - 2 * both / (truth + result) if truth + result else 0.0


def warping_error(truth: np.ndarray, result: np.ndarray) -> float:
    """Share of pixels that differ once truth is warped towards the result.

    Pixels of truth that differ are given the result's value one after another as long
    as no cell or membrane is cut, joined, made or lost by it ("simple" pixels; interior
    connects by sides, membrane by corners too). Outlines displaced by less than a
    membrane's thickness cost nothing then. Going from the outlines outwards is greedy:
    it bounds the best warping from above.

    Args:
      truth, result: bool [H, W].
    """
    height, width = truth.shape
    # Beyond the frame there is membrane. Flat lists: scalars of arrays are slow.
    stride = width + 2
    framed = np.pad(truth, 2).astype(np.uint8)
    rings = np.zeros((height + 2, stride), np.uint8)
    for bit, (down, across) in enumerate(_RING):
        shifted = framed[1 + down :, 1 + across :][: height + 2, :stride]
        rings |= shifted << bit
    codes = rings.ravel().tolist()  # of each pixel's neighbours, kept as they change
    differs = bytearray(np.pad(truth != result, 1).tobytes())
    waiting = collections.deque(np.flatnonzero(np.frombuffer(differs, bool)).tolist())
    # A neighbour's place, and which bit one is in its code: the opposite.
    around = [
        (down * stride + across, 1 << (bit + 4) % 8)
        for bit, (down, across) in enumerate(_RING)
    ]
    while waiting:
        place = waiting.popleft()
        if not differs[place] or not _SIMPLE[codes[place]]:
            continue
        differs[place] = False
        for offset, mine in around:
            neighbour = place + offset
            codes[neighbour] ^= mine
            if differs[neighbour]:
                waiting.append(neighbour)
    return sum(differs) / truth.size


_RING = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))


def _is_simple(ring: list[bool]) -> bool:
    """Whether a pixel can change without changing how many pieces there are.

    It can if the crossing number of Yokoi et al. 1975 is 1, for interior that connects
    by sides and membrane that connects by corners too.

    Args:
      ring: which of the eight neighbours are interior, around from the upper left.
    """
    ring = ring + ring[:1]
    # Neighbours by a side, less those that the two after them connect to the next one.
    return 1 == sum(
        ring[side] and not (ring[side + 1] and ring[(side + 2) % 8])
        for side in (1, 3, 5, 7)
    )


_SIMPLE = [
    _is_simple([bool(code >> bit & 1) for bit in range(8)]) for code in range(256)
]
