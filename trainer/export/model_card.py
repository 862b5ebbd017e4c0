"""What an artefact says of itself: model.json for programs, a card for people."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import msgspec

from trainer.export.members import Member
from trainer.inference.instances import InstanceRules
from trainer.inference.segmenter import Segmenter
from trainer.run import workdir
from trainer.run.provenance import versions
from unet_tfrecords.dataset.data_settings import class_names
from unet_tfrecords.dataset.images import layouts
from unet_tfrecords.dataset.shards import INFO_NAME
from unet_tfrecords.dataset.splits import SPLITS
from unet_tfrecords.dataset.targets import TARGETS
from unet_tfrecords.storage import files, json_files, templates

OF_OBJECTS = {"seg": "SEG", "det": "DET", "v_rand": "V_rand", "v_info": "V_info"}


def describe(
    runs: Sequence[Member],
    segmenter: Segmenter,
    *,
    precision: str,
    rules: InstanceRules,
) -> dict[str, Any]:
    """What model.json holds.

    Args:
      runs: what the model is made of; what only one of them can say is the first's.
      segmenter: what is exported.
      precision: a Keras dtype policy, in which the network computes.
      rules: how classes and instances are made of probabilities.
    """
    config = runs[0].config
    each = [_data_of(run) for run in runs]
    return {
        "data": {"name": config.data.name, **each[0]},
        "channels": config.model.channels,
        "selected_channels": list(config.data.channels),
        "class_names": class_names(config.model),
        "classes": config.model.classes,
        "depth": config.model.depth,
        "edge_px": layouts.edge_px(config.data),
        "width": config.model.width,
        "neighbours": list(config.data.neighbours),
        "level": config.data.level,
        "normalization": json_files.as_read(
            msgspec.to_builtins(segmenter.normalization)
        ),
        "postprocessing": rules._asdict(),
        "precision": precision,
        # An average of several was not measured by any of them.
        "scores": _scores(runs[0], segmenter.tta, rules) if len(runs) == 1 else {},
        "step": runs[0].step,
        "runs": [
            {"step": run.step, **own} for run, own in zip(runs, each, strict=True)
        ],
        "targets": {
            "name": (name := config.data.targets),
            "version": TARGETS[name].VERSION,
            "planes": segmenter.planes,
        },
        "tile": segmenter.tile,
        "tiles_per_step": segmenter.tiles_per_step,
        "tta": segmenter.tta,
        "versions": versions(),
    }


def _data_of(run: Member) -> dict[str, Any]:
    """What a run has learned from."""
    info = files.read_bytes(files.join(run.folder, INFO_NAME))
    return {
        "dataset_info_sha256": hashlib.sha256(info).hexdigest(),
        "training_frames": json.loads(info)["splits"]["train"]["num_frames"],
    }


def _scores(run: Member, tta: bool, rules: InstanceRules) -> dict[str, Any]:
    """Scores that were measured on this very step, by these rules, by split."""
    scores = {}
    for line in workdir.read_metrics(run.folder):
        if line["step"] == run.step and not tta:
            validation = {
                name.removeprefix("val_"): value
                for name, value in line.items()
                if name.startswith("val_")
            }
            if validation:
                scores["validation"] = validation
    for name in SPLITS:
        evaluation = workdir.read_evaluation(run.folder, name)
        made_by = [evaluation.get(key) for key in ("step", "tta", "rules")]
        if made_by == [run.step, tta, rules._asdict()]:
            split = f"{evaluation['split']}, {evaluation['num_frames']} whole frames"
            if origin := evaluation.get("frames_are"):
                split += f" {origin}"
            scores[split] = evaluation["scores"]
    return scores


def card(content: dict[str, Any], signatures: dict[str, list[str]]) -> str:
    """The model card, Markdown.

    Args:
      content: of model.json.
      signatures: input tensors of each, in words.
    """
    return templates.find("trainer.export", "model_card.md").render(
        content, signatures=signatures, of_objects=OF_OBJECTS
    )
