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
from unet_tfrecords.dataset.images import layouts
from unet_tfrecords.dataset.shards import INFO_NAME
from unet_tfrecords.dataset.splits import SPLITS
from unet_tfrecords.dataset.targets import TARGETS
from unet_tfrecords.storage import files, json_files, templates

OF_OBJECTS = {"seg": "SEG", "det": "DET", "v_rand": "V_rand", "v_info": "V_info"}


def describe(
    folder: str,
    config: ml_collections.ConfigDict,
    segmenter: Segmenter,
    *,
    step: int,
    precision: str,
    rules: InstanceRules,
) -> dict[str, Any]:
    """What model.json holds.

    Args:
      folder: the work directory.
      config: the run's.
      segmenter: what is exported.
      step: of the checkpoint.
      precision: a Keras dtype policy, in which the network computes.
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
        "selected_channels": list(config.data.channels),
        "class_names": class_names(config.model),
        "classes": config.model.classes,
        "depth": config.model.depth,
        "edge_px": layouts.edge_px(config.data),
        "width": config.model.width,
        "normalization": json_files.as_read(
            msgspec.to_builtins(segmenter.normalization)
        ),
        "postprocessing": rules._asdict(),
        "precision": precision,
        "scores": _scores(folder, step, segmenter.tta, rules),
        "step": step,
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


def card(content: dict[str, Any], signatures: dict[str, list[str]]) -> str:
    """The model card, Markdown.

    Args:
      content: of model.json.
      signatures: input tensors of each, in words.
    """
    return templates.find("trainer.export", "model_card.md").render(
        content, signatures=signatures, of_objects=OF_OBJECTS
    )
