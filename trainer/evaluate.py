"""Scores on the whole frames of a split, through the code that is exported."""

import functools
import sys
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from preprocess import files
from preprocess.errors import UserError
from preprocess.shards import as_json, sha256_of
from preprocess.sources import Frame, check_frame, find_frames
from preprocess.splits import SPLITS, assign_splits
from trainer import workdir
from trainer.inference import Segmenter
from trainer.layers import freeze
from trainer.metrics import confusion_matrix, pixel_scores
from trainer.restore import restore_network


def frames_of_split(
    config, source: str, split: str, info: dict[str, Any]
) -> list[Frame]:
    """The frames of a split, as preprocess made the splits, less those it skipped.

    Raises:
      UserError: the split is empty there.
    """
    frames = assign_splits(find_frames(config.data, source), config.data.split)
    skipped = {entry["frame"] for entry in info["skipped"]}
    chosen = [f for f in frames if f.split == split and f.key not in skipped]
    if not chosen:
        raise UserError(f"{source}: no frame in the {split} split; see --split")
    return chosen


def check_unseen(frames: list[Frame], info: dict[str, Any]) -> None:
    """Checks that no frame to be scored was trained on.

    Raises:
      UserError: naming every image that was, by its content and page.
    """
    trained = {
        (source["files"][0]["sha256"], source["files"][0]["page"])
        for source in info["sources"]
        if source["split"] == "train"
    }
    digest = functools.cache(sha256_of)
    seen = [f for f in frames if (digest(f.image.path), f.image.number) in trained]
    if seen:
        raise UserError(
            [
                f"{frame.image}: was trained on, so its score would mean nothing; "
                "give the --input that preprocess had, or other frames"
                for frame in seen
            ]
        )


def evaluate(
    folder: str,
    source: str,
    split: str,
    checkpoint: str = "best",
    tta: bool = False,
) -> dict[str, Any]:
    """Scores a run on a split and writes evaluation-SPLIT.json into its directory.

    Args:
      folder: the work directory.
      source: the data set's folder, as given to preprocess.
      split: train, validation or test.
      checkpoint: best, newest or a step.
      tta: averages over the eight symmetries of the square.

    Returns:
      What was written.
    """
    if split not in SPLITS:
        raise UserError(f"--split={split} is none of {', '.join(SPLITS)}")
    config = workdir.read_config(folder)
    info = workdir.read_info(folder)
    frames = frames_of_split(config, source, split, info)
    if split != "train":
        check_unseen(frames, info)
    network, step = restore_network(folder, config, checkpoint)
    model = config.model
    segmenter = Segmenter(
        freeze(network),
        depth=model.depth,
        classes=model.classes,
        normalization=info["normalization"],
        tta=tta,
    )
    shape = [None, None, None, model.channels]
    segment = tf.function(
        segmenter, input_signature=[tf.TensorSpec(shape, tf.float32, name="image")]
    )
    whole = np.zeros((model.classes, model.classes), np.int64)
    per_frame = {}
    for frame in tqdm(frames, unit="frame", file=sys.stderr):
        image, truth = check_frame(
            frame, config.data, channels=model.channels, classes=model.classes
        )
        predicted = segment(tf.constant(image[None], tf.float32))["classes"][0].numpy()
        confusion = confusion_matrix(truth.classes, predicted, model.classes)
        per_frame[frame.key] = pixel_scores(confusion)
        whole += confusion
    result = {
        "split": split,
        "step": step,
        "tta": tta,
        "num_frames": len(frames),
        "scores": pixel_scores(whole),
        "frames": per_frame,
    }
    files.write_bytes(files.join(folder, f"evaluation-{split}.json"), as_json(result))
    return result


def table(result: dict[str, Any]) -> str:
    """The scores for people to read."""
    scores = result["scores"]
    lines = [
        f"{result['split']} split, {result['num_frames']} whole frames, "
        f"step {result['step']}{', averaged over symmetries' if result['tta'] else ''}",
        f"{'class':>12}  {'IoU':>7}  {'Dice':>7}",
    ]
    for k, (iou, dice) in enumerate(zip(scores["iou"], scores["dice"], strict=True)):
        lines.append(f"{k:>12}  {_number(iou)}  {_number(dice)}")
    lines.append(f"{'mean IoU':>12}  {_number(scores['mean_iou'])}")
    lines.append(f"{'pixel error':>12}  {_number(scores['pixel_error'])}")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return f"{value:7.4f}" if value is not None else "      -"
