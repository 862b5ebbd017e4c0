"""A frame measured once, as sums that frames add up to, and the scores of some frames.

Which scores there are depends on what the truth holds: `measure` takes what it finds.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from trainer.inference.instances import InstanceRules, classes_of, instances_of
from trainer.scores import calibration, ctc_scores, detections, isbi_scores, surface
from trainer.scores.pixels import confusion_matrix, pixel_scores
from unet_tfrecords.dataset import regions
from unet_tfrecords.dataset.images.frames import Objects, Truth
from unet_tfrecords.dataset.records import UNLABELLED


@dataclasses.dataclass
class FrameMeasures:
    """What was counted on one frame; all that scores of several frames need.

    Attributes:
      key: the frame's.
      confusion: int64 [K, K], see `pixels`.
      histogram: float64 [BINS, 3], see `calibration`.
      surfaces: of each foreground class.
      matches: int64 [10, 3], see `detections`; None where the truth has no objects.
      exact: objects of exact (gold) truth, None where the frame has none.
      every: objects of all truth there is, gold and silver.
      detection: None without markers.
      slices: ISBI's scores by threshold; None elsewhere.
    """

    key: str
    confusion: np.ndarray
    histogram: np.ndarray
    surfaces: list[surface.Surface | None]
    matches: np.ndarray | None = None
    exact: list[ctc_scores.Object] | None = None
    every: list[ctc_scores.Object] | None = None
    detection: ctc_scores.Detection | None = None
    slices: list[isbi_scores.ThresholdScores] | None = None


class Segmented(NamedTuple):
    """A frame, its truth and what a network makes of it.

    Attributes:
      key: the frame's.
      image: uint8 or uint16 [H, W, C].
      truth: classes and instances, H by W.
      objects: see `Objects`.
      probabilities: float32 [H, W, K].
      partition: whether cells fill the plane between membranes, as in ISBI 2012, so
        that the frame is scored as a partition, and numbering cells says nothing.
      planes: of the target, float32 [H, W, P]; None where it has none.
      edge_px: objects that lie entirely this near to the frame's edge don't count.
    """

    key: str
    image: np.ndarray
    truth: Truth
    objects: Objects
    probabilities: np.ndarray
    partition: bool = False
    planes: np.ndarray | None = None
    edge_px: int = 0


def measure(frame: Segmented, rules: InstanceRules) -> FrameMeasures:
    """Measures a segmentation against its truth, by rules for classes and instances."""
    truth, number = frame.truth, frame.probabilities.shape[-1]
    labelled = truth.classes != UNLABELLED
    classes = classes_of(frame.probabilities, rules.threshold)
    foreground = 1 - frame.probabilities[..., 0]
    shown = np.where(labelled, classes, 0)
    found = FrameMeasures(
        frame.key,
        confusion_matrix(truth.classes, classes, number),
        calibration.histogram(foreground[labelled], truth.classes[labelled] > 0),
        [
            surface.surface_distances(truth.classes == k, shown == k)
            for k in range(1, number)
        ],
    )
    if frame.partition and truth.instances.any():
        found.slices = isbi_scores.scores_of_slice(
            truth.instances, truth.classes > 0, foreground
        )
    if frame.objects.exact is not None or frame.objects.markers is not None:
        measure_objects(found, frame, rules)
    return found


def measure_objects(
    found: FrameMeasures, frame: Segmented, rules: InstanceRules
) -> None:
    """Adds the measures of objects; those of several classes only match their own."""
    number = frame.probabilities.shape[-1]

    def counted(cells: np.ndarray) -> np.ndarray:
        return regions.away_from_edge(cells, frame.edge_px)

    truth = frame.truth._replace(instances=counted(frame.truth.instances))
    objects = frame.objects
    if objects.exact is not None:
        objects = objects._replace(exact=counted(objects.exact))
    if objects.markers is not None:
        objects = objects._replace(markers=counted(objects.markers))
    instances = counted(instances_of(frame.probabilities, rules, frame.planes))
    classes = classes_of(frame.probabilities, rules.threshold)
    parts = [(truth.instances, objects, instances)]
    if number > 2:  # of two, gold outlines need not be the truth's own
        parts = [
            (
                truth.instances * (own := truth.classes == k),
                Objects(
                    None if objects.exact is None else objects.exact * own,
                    None if objects.markers is None else objects.markers * own,
                    objects.ignored,
                ),
                instances * (classes == k),
            )
            for k in range(1, number)
        ]
    measured = [_of_class(*part, truth.classes == UNLABELLED) for part in parts]
    every, exact, detection, matches = zip(*measured, strict=True)
    found.every = list(itertools.chain.from_iterable(every))
    if objects.exact is not None:
        found.exact = list(itertools.chain.from_iterable(exact))
    if objects.markers is not None:
        found.detection = ctc_scores.Detection(*np.sum(detection, axis=0).tolist())
    found.matches = np.sum(matches, axis=0)


def _of_class(every, objects: Objects, instances, unlabelled):
    """What is counted of one class's objects."""
    exact: list[ctc_scores.Object] = []
    detection = ctc_scores.Detection()
    if objects.exact is not None:
        exact = ctc_scores.seg_objects(objects.exact, instances)
    if objects.markers is not None:
        counted = instances
        if objects.ignored is not None:
            counted = detections.without_those_in(objects.ignored, instances)
        detection = ctc_scores.detection(objects.markers, counted)
    matches = detections.match_counts(every, instances, unlabelled)
    return ctc_scores.seg_objects(every, instances), exact, detection, matches


Scores = dict[str, float | None]


def pooled(frames: Sequence[FrameMeasures]) -> Scores:
    """The scores of some frames together, by name.

    Returns:
      What `pixels.pixel_scores` gives; `surface_px` and `hausdorff_px` (mean over
      frames), `calibration_error`; with objects `seg`, `det`, `op_csb`, `seg_all` (SEG
      by all truth, silver too), `ap`, `ap_50`, `ap_75`; of ISBI slices `v_rand`,
      `v_info` with their `_split` and `_merge`, `rand_error`, `warping_error` and
      `best_pixel_error`. None where nothing was there to score.
    """
    scores = pixel_scores(np.sum([frame.confusion for frame in frames], axis=0))
    scores |= _surface_scores(frames)
    counts = np.sum([frame.histogram for frame in frames], axis=0)
    scores["calibration_error"] = calibration.expected_calibration_error(counts)
    if any(frame.matches is not None for frame in frames):
        scores |= object_scores(frames)
        scores |= _precision_scores(frames)
    if any(frame.slices for frame in frames):
        scores |= _slice_scores([frame.slices for frame in frames if frame.slices])
    return scores


def _surface_scores(frames: Sequence[FrameMeasures]) -> Scores:
    known = [s for frame in frames for s in frame.surfaces if s is not None]
    if not known:
        return {"surface_px": None, "hausdorff_px": None}
    return {
        "surface_px": sum(s.sum_px for s in known) / sum(s.pixels for s in known),
        "hausdorff_px": sum(s.hausdorff_px for s in known) / len(known),
    }


def object_scores(frames: Sequence[FrameMeasures]) -> Scores:
    """SEG, DET and their mean."""
    exact = [o.jaccard for frame in frames for o in frame.exact or ()]
    every = [o.jaccard for frame in frames for o in frame.every or ()]
    counted = [frame.detection for frame in frames if frame.detection]
    columns = zip(*counted, strict=True)
    found = ctc_scores.det(ctc_scores.Detection(*(sum(column) for column in columns)))
    seg = sum(exact) / len(exact) if exact else None
    return {
        "seg": seg,
        "det": found,
        "op_csb": None if seg is None or found is None else (seg + found) / 2,
        "seg_all": sum(every) / len(every) if every else None,
    }


def _precision_scores(frames: Sequence[FrameMeasures]) -> Scores:
    counts = np.sum([f.matches for f in frames if f.matches is not None], axis=0)
    each = detections.average_precision(counts)
    whole = [value for value in each if value is not None]
    return {
        "ap": sum(whole) / len(whole) if whole else None,
        "ap_50": each[0],
        "ap_75": each[5],
    }


def _slice_scores(slices: list[list[isbi_scores.ThresholdScores]]) -> Scores:
    """Means over slices, each score at the threshold that is best for it."""
    flat = np.array(
        [[[*t.v_rand, *t.v_info, *t[2:]] for t in slice_] for slice_ in slices]
    ).mean(axis=0)  # [thresholds, 9]
    rand, info = flat[flat[:, 0].argmax(), :3], flat[flat[:, 3].argmax(), 3:6]
    errors = flat[:, 6:].min(axis=0)
    names = (
        *("v_rand", "v_rand_split", "v_rand_merge"),
        *("v_info", "v_info_split", "v_info_merge"),
        *("rand_error", "best_pixel_error", "warping_error"),
    )
    return dict(
        zip(names, (*rand.tolist(), *info.tolist(), *errors.tolist()), strict=True)
    )


HEADLINES = ("op_csb", "v_rand", "mean_iou")


def headline(scores: Scores) -> tuple[str, float | None]:
    """The one score that sums up a data set of its kind."""
    for name in HEADLINES:
        if scores.get(name) is not None:
            return name, scores[name]
    return "mean_iou", None


def rank(scores: Scores) -> float | None:
    """By which one frame is better than another of its data set.

    Not the headline: most frames have no gold truth, and would be compared by another
    score than those that have it.
    """
    seg, det = scores.get("seg_all"), scores.get("det")
    if seg is not None and det is not None:
        return (seg + det) / 2
    return scores.get("v_rand", scores["mean_iou"])


def as_line(frame: FrameMeasures) -> bytes:
    """As JSON."""
    return msgspec.json.encode(frame, enc_hook=np.ndarray.tolist)


def from_line(line: bytes) -> FrameMeasures:
    """What `as_line` was given."""
    return msgspec.json.decode(
        line, type=FrameMeasures, dec_hook=lambda _, values: np.array(values)
    )
