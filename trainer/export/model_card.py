"""What an artefact says of itself: model.json for programs, a card for people."""

import hashlib
import json
from typing import Any

import ml_collections
import msgspec

from trainer.inference.instances import InstanceRules
from trainer.inference.segmenter import Segmenter
from trainer.run import workdir
from trainer.run.provenance import versions
from unet_tfrecords.dataset.data_settings import class_names
from unet_tfrecords.dataset.dataset_info import Normalization
from unet_tfrecords.dataset.shards import INFO_NAME
from unet_tfrecords.dataset.splits import SPLITS
from unet_tfrecords.storage import files, json_files

OF_OBJECTS = {"seg": "SEG", "det": "DET", "v_rand": "V_rand", "v_info": "V_info"}


def describe(
    folder: str,
    config: ml_collections.ConfigDict,
    segmenter: Segmenter,
    *,
    step: int,
    precision: str,
    normalization: Normalization | None,
    rules: InstanceRules,
) -> dict[str, Any]:
    """What model.json holds.

    Args:
      folder: the work directory.
      config: the run's.
      segmenter: what is exported.
      step: of the checkpoint.
      precision: a Keras dtype policy, in which the network computes.
      normalization: as `dataset_info.json` has it.
      rules: how classes and instances are made of probabilities.
    """
    info = files.read_bytes(files.join(folder, INFO_NAME))
    return {
        "data": {
            "name": config.data.name,
            "dataset_info_sha256": hashlib.sha256(info).hexdigest(),
            "training_frames": json.loads(info)["splits"]["train"]["num_frames"],
        },
        "channels": config.model.channels,
        "class_names": class_names(config.model),
        "classes": config.model.classes,
        "depth": config.model.depth,
        "width": config.model.width,
        "normalization": json_files.as_read(msgspec.to_builtins(normalization)),
        "postprocessing": rules._asdict(),
        "precision": precision,
        "scores": _scores(folder, step, segmenter.tta, rules),
        "step": step,
        "tile": segmenter.tile,
        "tiles_per_step": segmenter.tiles_per_step,
        "tta": segmenter.tta,
        "versions": versions(),
    }


def _scores(folder: str, step: int, tta: bool, rules: InstanceRules) -> dict[str, Any]:
    """Scores that were measured on this very step, by these rules, by split."""
    scores = {}
    for line in workdir.read_metrics(folder):
        if line["step"] == step and not tta:
            validation = {
                name.removeprefix("val_"): value
                for name, value in line.items()
                if name.startswith("val_")
            }
            if validation:
                scores["validation"] = validation
    for name in SPLITS:
        evaluation = workdir.read_evaluation(folder, name)
        made_by = [evaluation.get(key) for key in ("step", "tta", "rules")]
        if made_by == [step, tta, rules._asdict()]:
            split = f"{evaluation['split']}, {evaluation['num_frames']} whole frames"
            scores[split] = evaluation["scores"]
    return scores


CARD = """# U-Net for {data}

Segments microscopy images into {classes}. The network of Ronneberger et al. 2015
([arXiv 1505.04597](https://arxiv.org/abs/1505.04597)): depth {depth}, {width} channels
at the first level, {channels} in. Trained for {step} steps on {frames} frames of {data}
(`dataset_info.json` {digest}); all settings are in `config.json`.

## Scores

{scores}

They hold for images like those: same microscope, stain, magnification, kind of cell.
Elsewhere, look at overlays first, and measure on frames of your own.

## Input and output

| signature | takes |
|---|---|
{signatures}

Intensities are raw: {normalisation}
Every signature gives `probabilities` float32 [B, H, W, {number}] and `classes` uint8
[B, H, W] ({numbered}). Inside, an image is mirrored outwards and goes through the
network in tiles of at most {tile} px, {tiles_per_step} at once; the result is that of
the whole image at once, without seams.
{averaging}{postprocessing}The network computes in {precision}.

Made with {versions}.
"""


def card(content: dict[str, Any], signatures: dict[str, list[str]]) -> str:
    """The model card, Markdown.

    Args:
      content: of model.json.
      signatures: input tensors of each, in words.
    """
    names = content["class_names"]
    rows = [f"| `{name}` | {', '.join(takes)} |" for name, takes in signatures.items()]
    return CARD.format(
        data=content["data"]["name"] or "own images",
        classes=", ".join(names),
        depth=content["depth"],
        width=content["width"],
        channels=content["channels"],
        step=content["step"],
        frames=content["data"]["training_frames"],
        digest=content["data"]["dataset_info_sha256"][:16],
        scores=_score_table(content["scores"], names),
        signatures="\n".join(rows),
        normalisation=(
            "each channel is normalised by the training frames' mean and deviation."
            if content["normalization"]
            else "each image's channels are normalised by their own mean and deviation."
        ),
        number=content["classes"],
        numbered=", ".join(f"{k} {name}" for k, name in enumerate(names)),
        tile=content["tile"],
        tiles_per_step=content["tiles_per_step"],
        averaging=(
            "Probabilities are averaged over the eight symmetries of the square.\n"
            if content["tta"]
            else ""
        ),
        postprocessing=(
            f"A pixel is foreground above a probability of "
            f"{content['postprocessing']['threshold']}; `predict` makes instances by "
            "the\nrules in `model.json`.\n"
        ),
        precision=content["precision"],
        versions=", ".join(f"{k} {v}" for k, v in content["versions"].items()),
    )


def _score_table(scores: dict[str, Any], names: list[str]) -> str:
    if not scores:
        return (
            "None were measured at this step: run `evaluate`, then export again, and "
            "they stand here."
        )
    lines = [
        "| frames | mean IoU | pixel error | IoU of each class | of objects |",
        "|---|---|---|---|---|",
    ]
    for split, measured in scores.items():
        each = [measured.get(f"iou_{k}") for k in range(len(names))]
        shown = ", ".join(
            f"{name} {_number(value)}" for name, value in zip(names, each, strict=True)
        )
        objects = ", ".join(
            f"{said} {_number(measured[name])}"
            for name, said in OF_OBJECTS.items()
            if measured.get(name) is not None
        )
        lines.append(
            f"| {split} | {_number(measured['mean_iou'])} | "
            f"{_number(measured['pixel_error'])} | {shown} | {objects or '-'} |"
        )
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
