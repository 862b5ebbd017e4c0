"""Scores on the whole frames of a split, through the code that is exported."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np
import tensorflow as tf

from trainer.devices.graphs import graph_function
from trainer.evaluation.gallery import Gallery, panels
from trainer.evaluation.report import names, page
from trainer.inference.segmenter import Segmenter
from trainer.network.layers import freeze
from trainer.run import workdir
from trainer.run.restore import restore_network
from trainer.scores import calibration
from trainer.scores import frame as scoring
from trainer.scores.bootstrap import intervals
from unet_tfrecords.command import bars
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.dataset_info import DatasetInfo
from unet_tfrecords.dataset.images import formats, layouts
from unet_tfrecords.dataset.images.frames import Frame, size_text
from unet_tfrecords.dataset.images.layouts import check_frame, find_frames, read_objects
from unet_tfrecords.dataset.images.pages import Page
from unet_tfrecords.dataset.splits import assign_splits
from unet_tfrecords.dataset.targets import planes_of
from unet_tfrecords.storage import files, json_files, locks
from unet_tfrecords.storage.csv_tables import as_csv, not_a_formula

SHOWN = 3  # best frames, and as many worst ones, whose pictures the report shows


class SplitFrames(NamedTuple):
    """What is to be scored.

    Attributes:
      frames: of the split.
      origin: how near they are to those that were trained on, in words.
    """

    frames: list[Frame]
    origin: str


def frames_of_split(folder: str, source: str, split: str) -> SplitFrames:
    """The frames of a split, as preprocess made the splits, less those it skipped.

    Raises:
      UserError: the split is empty there, or frames to be tested on were trained on.
    """
    config, info = workdir.read_config(folder), workdir.read_info(folder)
    data = config.data
    found = find_frames(data, source)
    frames = assign_splits(found, data.split, grouped=bool(data.group))
    skipped = {entry.frame for entry in info.skipped}
    chosen = [f for f in frames if f.split == split and f.key not in skipped]
    if not chosen:
        raise UserError(f"{source}: no frame in the {split} split; see --split")
    if split == "train":
        return SplitFrames(chosen, "the training frames themselves")
    return SplitFrames(chosen, origin_of(chosen, folder, info, data))


def origin_of(
    frames: Sequence[Frame],
    folder: str,
    info: DatasetInfo,
    data: ml_collections.ConfigDict,
) -> str:
    """How near frames are to those that were trained on, in words; by their content.

    Args:
      frames: to be scored.
      folder: the work directory, or the data set's.
      info: the data set's.
      data: the config's `data` part.

    Raises:
      UserError: naming every image that was trained on.
    """
    known: set[tuple[str, int]] = set()  # of the data set, by content
    learned: set[tuple[str, int]] = set()  # of these, what was trained on
    trained: set[str] = set()  # all that their keys begin with, such as "HeLa/01"
    for entry in info.read_sources(folder):
        content = entry.files[0].sha256, entry.files[0].page
        known.add(content)
        if entry.split == "train":
            learned.add(content)
            parts = entry.frame.split("/")
            trained.update("/".join(parts[:n]) for n in range(2, len(parts)))
    digest = functools.cache(formats.digest_of)
    found = {f.key: (digest(_of_file(f.image)), f.image.number) for f in frames}
    if seen := [f for f in frames if found[f.key] in learned]:
        raise UserError(
            [
                f"{frame.image}: was trained on, so its score would mean nothing; "
                "give the --input that preprocess had, or other frames"
                for frame in seen
            ]
        )
    if not known.issuperset(found.values()):
        return "from files that are not of the data set"
    return relation(frames, trained, data)


def _of_file(page: Page) -> Page:
    """What all pages of a file have in common, or a region has alone."""
    return page if page.window else Page(page.path)


KINDS = {"ctc": "video", "isbi": "stack"}  # of sequences, by layout


def relation(
    frames: Sequence[Frame], trained: set[str], data: ml_collections.ConfigDict
) -> str:
    """How near frames of the data set are to those that were trained on, in words.

    Neighbouring frames are near copies: a score on the same video says little of the
    next one.

    Args:
      frames: to be scored.
      trained: what keys of training frames begin with, "DATASET/SEQUENCE" among it.
      data: the config's `data` part.
    """
    kind = KINDS.get(data.layout, "group")
    if kind == "group" and not data.group:
        return "from the same folder as the training frames"
    sequences = {f"{frame.dataset}/{frame.sequence}" for frame in frames}
    same = sequences & trained
    if not same:
        return f"from another {kind} than the training frames"
    some = "" if same == sequences else "some "
    return f"{some}from the same {kind} as the training frames"


class Run(NamedTuple):
    """A trained run, ready to segment.

    Attributes:
      config, info: the run's and its data set's.
      step: of the checkpoint.
      outputs: raw image [H, W, C] to probabilities float32 [H, W, K] and, where the
        target has any, planes float32 [H, W, P].
      edge_px: objects that lie entirely this near to a frame's edge are not scored.
    """

    config: ml_collections.ConfigDict
    info: DatasetInfo
    step: int
    outputs: Callable[[np.ndarray], dict[str, np.ndarray]]
    edge_px: int

    def segment(self, frames: Sequence[Frame], **shown) -> Iterator[scoring.Segmented]:
        """Reads and segments frames, behind a bar that `shown` describes."""
        data, model = self.config.data, self.config.model
        for frame in bars.bar(frames, unit="frame", **shown):
            image, truth = check_frame(
                frame, data, channels=model.channels, classes=model.classes
            )
            if 0 < min(image.shape[:2]) <= 2 * self.edge_px:
                raise UserError(
                    f"{frame.image}: {size_text(image)} px, all of which is within "
                    f"{self.edge_px} px of the edge; give --edge_px=0"
                )
            outputs = self.outputs(image)
            yield scoring.Segmented(
                frame.key,
                image[..., : model.channels // len(frame.images)],
                truth,
                read_objects(frame, truth),
                outputs["probabilities"],
                partition=data.layout == "isbi",
                planes=outputs.get("planes"),
                edge_px=self.edge_px,
            )


def load_run(
    folder: str, checkpoint: str, tta: bool, edge_px: int | None = None
) -> Run:
    """Restores a run's network as one that segments whole images.

    Args:
      edge_px: see `Run`; None takes the data set's own.
    """
    config, info = workdir.read_config(folder), workdir.read_info(folder)
    network, step = restore_network(folder, config, checkpoint)
    model = config.model
    segmenter = Segmenter(
        freeze(network),
        depth=model.depth,
        classes=model.classes,
        planes=planes_of(config.data),
        normalization=info.normalization,
        tta=tta,
    )
    shape = [None, None, None, model.channels]
    segment = graph_function(
        segmenter, input_signature=[tf.TensorSpec(shape, tf.float32, name="image")]
    )

    def outputs(image: np.ndarray) -> dict[str, np.ndarray]:
        named = segment(tf.constant(image[None], tf.float32))
        return {name: value[0].numpy() for name, value in named.items()}

    if edge_px and config.data.layout == "isbi":
        raise UserError("--edge_px is of objects; isbi's slices are scored as a whole")
    if edge_px is None:
        edge_px = layouts.edge_px(config.data)
    return Run(config, info, step, outputs, edge_px)


def evaluate(
    folder: str,
    source: str,
    split: str,
    checkpoint: str = "best",
    tta: bool = False,
    edge_px: int | None = None,
) -> dict[str, Any]:
    """Scores a run on a split, writes what it found and renews the report.

    In the work directory: evaluation-SPLIT.json, the scores; -objects.csv, a row an
    object; -frames.jsonl, the sums that scores of several runs are pooled from;
    report.html.

    Args:
      folder: the work directory.
      source: the data set's folder, as given to preprocess.
      split: train, validation or test.
      checkpoint: best, newest or a step.
      tta: averages over the eight symmetries of the square.
      edge_px: objects that lie entirely this near to a frame's edge are not scored;
        None takes the data set's own.

    Returns:
      What evaluation-SPLIT.json holds.
    """
    chosen = frames_of_split(folder, source, split)
    files.remove_unfinished(folder)
    rules = workdir.read_rules(folder)
    run = load_run(folder, checkpoint, tta, edge_px)
    workdir.warn_of_other_rules(folder, step=run.step, tta=tta)
    measured = []
    gallery = Gallery(SHOWN)
    for frame in run.segment(chosen.frames):
        found = scoring.measure(frame, rules)
        measured.append(found)
        draw = functools.partial(panels, frame, rules)
        gallery.add(frame.key, scoring.rank(scoring.pooled([found])), draw)
    about = {"split": split, "step": run.step, "tta": tta, "rules": rules._asdict()}
    about |= {"frames_are": chosen.origin, "edge_px": run.edge_px}
    result = about | summary(measured)
    with locks.in_turn(folder):  # what is read together is of one evaluation
        gallery.write(folder, split)
        write(folder, split, result, measured)
        page.write(folder)
    return result


def summary(measured: Sequence[scoring.FrameMeasures]) -> dict[str, Any]:
    """Scores of frames together and one by one, with their intervals and curves."""
    scores = scoring.pooled(measured)
    counts = np.sum([frame.histogram for frame in measured], axis=0)
    precision, recall = calibration.precision_recall(counts)
    return {
        "num_frames": len(measured),
        "headline": scoring.headline(scores)[0],
        "scores": scores,
        "intervals": intervals(measured, scoring.pooled),
        "frames": {frame.key: scoring.pooled([frame]) for frame in measured},
        "precision_recall": np.stack([precision, recall], 1).round(5).tolist(),
    }


def write(
    folder: str,
    split: str,
    result: dict[str, Any],
    measured: Sequence[scoring.FrameMeasures],
) -> None:
    """Writes an evaluation's three files; the one that readers look for comes last."""
    base = files.join(folder, f"evaluation-{split}")
    lines = [scoring.as_line(frame) + b"\n" for frame in measured]
    files.write_bytes(f"{base}-frames.jsonl", b"".join(lines))
    if any(frame.every is not None for frame in measured):
        files.write_bytes(f"{base}-objects.csv", _object_table(measured))
    json_files.write(f"{base}.json", result)


def read_measured(folder: str, split: str) -> list[scoring.FrameMeasures]:
    """The frames of an evaluation."""
    path = files.join(folder, f"evaluation-{split}-frames.jsonl")
    return [scoring.from_line(line) for line in files.read_bytes(path).splitlines()]


def _object_table(measured: Sequence[scoring.FrameMeasures]) -> bytes:
    """A row an object of the truth; gold where the frame has any, else all there is."""
    rows = [
        (not_a_formula(frame.key), "all" if frame.exact is None else "exact", *found)
        for frame in measured
        for found in (frame.every if frame.exact is None else frame.exact) or ()
    ]
    header = ("frame", "truth", "label", "size_px", "jaccard", "found_as", "fate")
    return as_csv(header, rows)


def table(result: dict[str, Any]) -> str:
    """The scores for people to read, each with its 95 % interval over frames."""
    lines = [
        f"{result['split']} split, {result['num_frames']} whole frames, "
        f"step {result['step']}{', averaged over symmetries' if result['tta'] else ''}"
    ]
    if "frames_are" in result:
        lines.append(f"frames are {result['frames_are']}")
    if edge_px := result.get("edge_px"):
        lines.append(
            f"without objects that lie within {edge_px} px of the frame's edge"
        )
    for name in names.in_order(result["scores"]):
        value = result["scores"][name]
        if value is None:
            continue
        interval = result["intervals"][name]
        between = f"   {interval[0]:.4f} to {interval[1]:.4f}" if interval else ""
        lines.append(f"{name:>20}  {value:8.4f}{between}")
    return "\n".join(lines)
