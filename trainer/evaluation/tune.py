"""Finds the rules by which probabilities become instances, on validation frames.

Never on test frames: rules chosen there would score themselves. The search is by
coordinates: what parts cells first, jointly with the threshold, then what cleans up.
"""

import concurrent.futures
import functools
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from trainer.evaluation.evaluate_run import frames_of_split, load_run
from trainer.inference.instances import InstanceRules, classes_of
from trainer.run import workdir
from trainer.scores import frame as scoring
from trainer.scores.pixels import confusion_matrix, pixel_scores
from unet_tfrecords.command import bars
from unet_tfrecords.storage import files

THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
FINE = (-0.06, -0.03, 0.03, 0.06)  # around the best of them
CORES = (0.7, 0.8, 0.9, 0.95)
SPLITS_PX = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 11.0, 15.0)
SEEDS = (0.2, 0.3, 0.45, 0.6)
SMOOTHINGS_PX = (0.0, 1.0, 2.0)
SIZES_PX = (0, 20, 50, 100, 200, 400, 800, 1600)
BORDERS_PX = (0, 1, 2, 3, 5, 8)
LEAST_GAIN = 0.0005  # a change has to gain this, or the plainer rule stays


class TuningResult(NamedTuple):
    """What was found.

    Attributes:
      rules: the best.
      objective: the name of what was made as large as can be.
      before, after: its value by default rules, and by the best.
      frames: the keys of the frames it was found on.
    """

    rules: InstanceRules
    objective: str
    before: float
    after: float
    frames: list[str]

    def table(self) -> str:
        """The rules for people to read."""
        lines = [
            f"{self.objective} on {len(self.frames)} validation frames: "
            f"{self.before:.4f} before, {self.after:.4f} now"
        ]
        for name, value in self.rules._asdict().items():
            lines.append(f"{name:>20}  {value}")
        return "\n".join(lines)


def tune(
    folder: str,
    source: str,
    checkpoint: str = "best",
    tta: bool = False,
    edge_px: int | None = None,
) -> TuningResult:
    """Finds rules on the validation split and keeps them in the work directory.

    Where the truth has objects, SEG by all truth (gold alone labels too few validation
    frames) and DET count alike; elsewhere it is the mean IoU, and the threshold alone.

    Args:
      folder: the work directory.
      source: the data set's folder, as given to preprocess.
      checkpoint: best, newest or a step.
      tta: averages over the eight symmetries of the square.
      edge_px: see `evaluate_run.evaluate`.

    Raises:
      UserError: no validation split.
    """
    frames, _ = frames_of_split(folder, source, "validation")
    run = load_run(folder, checkpoint, tta, edge_px)
    with tempfile.TemporaryDirectory(prefix="unet-tune-") as scratch:
        found = _search(
            [
                _on_disk(frame, os.path.join(scratch, f"{number}.npy"))
                for number, frame in enumerate(run.segment(frames, desc="segment"))
            ]
        )
    about = found._asdict()
    del about["rules"]
    workdir.write_rules(folder, found.rules, about | {"step": run.step, "tta": tta})
    return found


class FrameOnDisk(NamedTuple):
    """A frame whose probabilities are in a file: there may be many frames.

    Attributes:
      frame: without image and probabilities.
      path: of the file.
    """

    frame: scoring.Segmented
    path: str

    def read(self) -> scoring.Segmented:
        """Returns the frame with its probabilities."""
        outputs = np.load(self.path)
        classes = self.frame.probabilities.shape[-1]
        planes = outputs[..., classes:] if outputs.shape[-1] > classes else None
        return self.frame._replace(probabilities=outputs[..., :classes], planes=planes)


def _on_disk(frame: scoring.Segmented, path: str) -> FrameOnDisk:
    with files.naming(path):
        outputs = [frame.probabilities]
        if frame.planes is not None:
            outputs.append(frame.planes)
        np.save(path, np.concatenate(outputs, axis=-1))
    nothing = np.zeros((0, 0, frame.probabilities.shape[-1]), np.uint8)
    light = frame._replace(image=nothing, probabilities=nothing, planes=None)
    return FrameOnDisk(light, path)


def _search(frames: Sequence[FrameOnDisk]) -> TuningResult:
    """Goes through candidates, stage by stage, and keeps what is better."""
    has_objects = any(
        each.frame.objects.markers is not None or each.frame.objects.exact is not None
        for each in frames
    )
    objective = "(seg_all + det) / 2" if has_objects else "mean_iou"
    value_of = _object_value if has_objects else _pixel_value
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        value = functools.cache(functools.partial(value_of, pool, frames))
        best = InstanceRules()
        before = value(best)
        stages: Sequence[Stage] = OF_PIXELS
        if has_objects:
            stages = OF_DEPTHS if frames[0].read().planes is not None else OF_OBJECTS
        for stage in bars.bar(stages, desc="tune", unit="stage"):
            for candidate in list(stage(best)):
                if value(candidate) > value(best) + LEAST_GAIN:
                    best = candidate
        keys = [each.frame.key for each in frames]
        return TuningResult(best, objective, before, value(best), keys)


def _object_value(
    pool: concurrent.futures.Executor,
    frames: Sequence[FrameOnDisk],
    rules: InstanceRules,
) -> float:
    """SEG by all truth and DET alike."""

    def measured(each: FrameOnDisk) -> scoring.FrameMeasures:
        found = scoring.FrameMeasures(each.frame.key, np.zeros(0), np.zeros(0), [])
        scoring.measure_objects(found, each.read(), rules)
        return found

    scores = scoring.object_scores(list(pool.map(measured, frames)))
    known = [x for n in ("seg_all", "det") if (x := scores[n]) is not None]
    return sum(known) / len(known) if known else 0.0


def _pixel_value(
    pool: concurrent.futures.Executor,
    frames: Sequence[FrameOnDisk],
    rules: InstanceRules,
) -> float:
    """The mean IoU."""

    def confusion(each: FrameOnDisk) -> np.ndarray:
        frame = each.read()
        classes = classes_of(frame.probabilities, rules.threshold)
        number = frame.probabilities.shape[-1]
        return confusion_matrix(frame.truth.classes, classes, number)

    total = np.sum(list(pool.map(confusion, frames)), axis=0)
    return pixel_scores(total)["mean_iou"] or 0.0


def _partings(best: InstanceRules) -> Iterator[InstanceRules]:
    """Every threshold with every way to part cells, the plain one first."""
    ways = [(0.0, 0.0), *((c, 0.0) for c in CORES), *((0.0, s) for s in SPLITS_PX)]
    for threshold, (core, split) in itertools.product(THRESHOLDS, ways):
        yield best._replace(threshold=threshold, core_threshold=core, split_px=split)


def _finer(best: InstanceRules) -> Iterator[InstanceRules]:
    for change in FINE:
        yield best._replace(threshold=round(best.threshold + change, 2))


def _finer_parting(best: InstanceRules) -> Iterator[InstanceRules]:
    if best.split_px:
        for factor in (0.7, 0.85, 1.2, 1.4):
            yield best._replace(split_px=round(best.split_px * factor, 2))
        for core in CORES:
            yield best._replace(core_threshold=core)


def _seeds(best: InstanceRules) -> Iterator[InstanceRules]:
    """Every threshold with every way to begin cells by their depths."""
    ways = itertools.product(THRESHOLDS, SEEDS, SMOOTHINGS_PX)
    for threshold, seed, smoothing in ways:
        yield best._replace(
            threshold=threshold, seed_threshold=seed, smoothing_px=smoothing
        )


def _sizes(best: InstanceRules) -> Iterator[InstanceRules]:
    return (best._replace(min_size_px=size) for size in SIZES_PX)


def _cleaning(best: InstanceRules) -> Iterator[InstanceRules]:
    for border, fill in itertools.product(BORDERS_PX, (True, False)):
        yield best._replace(border_px=border, fill_holes=fill)


def _thresholds(best: InstanceRules) -> Iterator[InstanceRules]:
    return (best._replace(threshold=threshold) for threshold in THRESHOLDS)


Stage = Callable[[InstanceRules], Iterator[InstanceRules]]
OF_OBJECTS = (_sizes, _partings, _finer, _finer_parting, _sizes, _cleaning)
OF_DEPTHS = (_sizes, _seeds, _finer, _sizes, _cleaning)
OF_PIXELS = (_thresholds, _finer)
