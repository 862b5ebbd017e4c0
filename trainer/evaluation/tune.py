"""Finds the rules by which probabilities become instances, on validation frames.

Never on test frames: rules chosen there would score themselves. The search is by
coordinates: what parts cells first, jointly with the threshold, then what cleans up.
"""

import concurrent.futures
import functools
import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from trainer.evaluation.evaluate_run import (
    Run,
    ScoredFrame,
    check_unseen,
    frames_of_split,
    load_run,
    read_scored,
)
from trainer.inference.instances import InstanceRules, classes_of
from trainer.run import workdir
from trainer.scores.frame import FrameMeasures, measure_objects, object_scores
from trainer.scores.pixels import confusion_matrix, pixel_scores
from unet_tfrecords.command import bars
from unet_tfrecords.storage import files

THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
FINE = (-0.06, -0.03, 0.03, 0.06)  # around the best of them
CORES = (0.7, 0.8, 0.9, 0.95)
SPLITS_PX = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 11.0, 15.0)
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
    folder: str, source: str, checkpoint: str = "best", tta: bool = False
) -> TuningResult:
    """Finds rules on the validation split and keeps them in the work directory.

    Where the truth has objects, SEG by all truth (gold alone labels too few validation
    frames) and DET count alike; elsewhere it is the mean IoU, and the threshold alone.

    Args:
      folder: the work directory.
      source: the data set's folder, as given to preprocess.
      checkpoint: best, newest or a step.
      tta: averages over the eight symmetries of the square.

    Raises:
      UserError: no validation split.
    """
    config, info = workdir.read_config(folder), workdir.read_info(folder)
    frames = frames_of_split(config, source, "validation", info)
    check_unseen(frames, folder, info)
    run = load_run(folder, checkpoint, tta)
    with tempfile.TemporaryDirectory(prefix="unet-tune-") as scratch:
        kept = _ProbabilityFiles(run, scratch)
        for frame in bars.bar(frames, desc="segment", unit="frame"):
            kept.add(read_scored(frame, config))
        found = _search(kept, [frame.key for frame in frames])
    about = found._asdict()
    del about["rules"]
    workdir.write_rules(folder, found.rules, about | {"step": run.step, "tta": tta})
    return found


class _ProbabilityFiles:
    """Validation frames with their probabilities, on disk: there may be many."""

    def __init__(self, run: Run, folder: str):
        self.run = run
        self.folder = folder
        self.frames: list[tuple[str, ScoredFrame]] = []

    def add(self, scored: ScoredFrame) -> None:
        path = os.path.join(self.folder, f"{len(self.frames)}.npy")
        with files.naming(path):
            np.save(path, self.run.probabilities(scored.image))
        nothing = scored.image[:0]
        self.frames.append((path, scored._replace(image=nothing)))

    @property
    def has_objects(self) -> bool:
        return any(
            scored.objects.markers is not None or scored.objects.exact is not None
            for _, scored in self.frames
        )

    def value(self, pool: concurrent.futures.Executor, rules: InstanceRules) -> float:
        """The objective by some rules, over all frames."""
        if self.has_objects:
            objects = functools.partial(self._objects, rules)
            scores = object_scores(list(pool.map(objects, self.frames)))
            both = scores["seg_all"], scores["det"]
            known = [score for score in both if score is not None]
            return sum(known) / len(known) if known else 0.0
        confusion = functools.partial(self._confusion, rules)
        total = np.sum(list(pool.map(confusion, self.frames)), axis=0)
        return pixel_scores(total)["mean_iou"] or 0.0

    def _objects(
        self, rules: InstanceRules, entry: tuple[str, ScoredFrame]
    ) -> FrameMeasures:
        path, scored = entry
        empty = np.zeros(0)
        found = FrameMeasures(scored.frame.key, empty, empty, [])
        measure_objects(found, scored.truth, scored.objects, np.load(path), rules)
        return found

    def _confusion(
        self, rules: InstanceRules, entry: tuple[str, ScoredFrame]
    ) -> np.ndarray:
        path, scored = entry
        probabilities = np.load(path)
        classes = classes_of(probabilities, rules.threshold)
        return confusion_matrix(scored.truth.classes, classes, probabilities.shape[-1])


def _search(kept: _ProbabilityFiles, keys: Sequence[str]) -> TuningResult:
    """Goes through candidates, stage by stage, and keeps what is better."""
    objective = "(seg_all + det) / 2" if kept.has_objects else "mean_iou"
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        value = functools.cache(functools.partial(kept.value, pool))
        best = InstanceRules()
        before = value(best)
        stages = OF_OBJECTS if kept.has_objects else OF_PIXELS
        for stage in bars.bar(stages, desc="tune", unit="stage"):
            for candidate in list(stage(best)):
                if value(candidate) > value(best) + LEAST_GAIN:
                    best = candidate
        return TuningResult(best, objective, before, value(best), list(keys))


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


def _sizes(best: InstanceRules) -> Iterator[InstanceRules]:
    return (best._replace(min_size_px=size) for size in SIZES_PX)


def _cleaning(best: InstanceRules) -> Iterator[InstanceRules]:
    for border, fill in itertools.product(BORDERS_PX, (True, False)):
        yield best._replace(border_px=border, fill_holes=fill)


def _thresholds(best: InstanceRules) -> Iterator[InstanceRules]:
    return (best._replace(threshold=threshold) for threshold in THRESHOLDS)


OF_OBJECTS = (_sizes, _partings, _finer, _finer_parting, _sizes, _cleaning)
OF_PIXELS = (_thresholds, _finer)
