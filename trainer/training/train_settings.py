"""Whether config and data fit each other, before a device is touched."""

import math
from typing import Any

import ml_collections

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.data_settings import data_config
from unet_tfrecords.dataset.dataset_info import DatasetInfo
from unet_tfrecords.storage import json_files

CHOICES = {
    "optimizer": ("sgd", "adam", "adamw"),
    "schedule": ("constant", "cosine", "polynomial"),
    "learning_rate_rule": ("auto", "fixed", "linear", "sqrt"),
    "loss": ("cross_entropy", "dice", "cross_entropy+dice"),
    "class_weights": ("balanced", "none"),
    "precision": ("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    "xla": ("auto", "on", "off"),
    "best_metric": ("mean_iou", "pixel_error", "cross_entropy"),
}
POSITIVE = (
    "steps",
    "accumulate",
    "learning_rate",
    "reference_batch",
    "decay_power",
    "shuffle_tiles",
    "steps_per_call",
    "log_every_steps",
    "keep_checkpoints",
)
NOT_NEGATIVE = (
    "global_batch",
    "tiles_per_replica",
    "validate_every_steps",
    "checkpoint_every_steps",
    "weight_decay",
    "plane_weight",
    "clip_norm",
    "warmup_steps",
    "validate_frames",
    "patience",
    "checkpoint_every_minutes",
    "augment.contrast",
    "augment.brightness",
    "augment.gradient",
    "augment.noise",
)
LARGEST_BLUR_PX = 5
SHARES = ("momentum", "ema", "final_learning_rate")


def _misfit(name: str, value: Any) -> str:
    """What a setting's value must be instead; "" where it fits."""
    if name in CHOICES:
        fits, rule = value in CHOICES[name], f"is none of {', '.join(CHOICES[name])}"
    elif name in POSITIVE:
        fits, rule = 0 < value < math.inf, "must be above 0"
    elif name in SHARES:
        fits, rule = 0 <= value < 1, "must be 0 up to below 1"
    elif name == "augment.blur_px":
        fits = 0 <= value <= LARGEST_BLUR_PX  # or the filter is wider than small tiles
        rule = f"must be 0 to {LARGEST_BLUR_PX}"
    elif name in NOT_NEGATIVE:
        fits, rule = 0 <= value < math.inf, "must not be negative"
    else:
        fits, rule = True, ""  # a switch, or a key of the user's own
    return "" if fits else rule


def check_train_config(config: ml_collections.ConfigDict) -> None:
    """Checks the config's `train` part.

    Raises:
      UserError: every problem found, a line each.
    """
    train = config.train
    values = {**train, **{f"augment.{k}": v for k, v in train.augment.items()}}
    del values["augment"]
    problems = [
        f"config.train.{name}={value!r} {misfit}"
        for name, value in values.items()
        if (misfit := _misfit(name, value))
    ]
    if not 0 <= config.seed < 2**31:
        problems.append(f"config.seed={config.seed}: 0 up to below 2**31")
    if not 0 <= config.model.dropout < 1:
        problems.append(f"config.model.dropout={config.model.dropout}: 0 up to below 1")
    if train.warmup_steps >= max(1, train.steps):
        problems.append(
            f"config.train.warmup_steps={train.warmup_steps} must be below "
            f"config.train.steps={train.steps}"
        )
    if not train.global_batch and train.tiles_per_replica % max(1, train.accumulate):
        problems.append(
            f"config.train.tiles_per_replica={train.tiles_per_replica} is not "
            f"divisible by config.train.accumulate={train.accumulate}"
        )
    if not train.checkpoint_every_steps and not train.checkpoint_every_minutes:
        problems.append(
            "config.train.checkpoint_every_steps and checkpoint_every_minutes are both "
            "0: nothing would be saved before the end; set one of them"
        )
    if train.optimizer == "adamw" and not train.weight_decay:
        problems.append(
            "config.train.optimizer='adamw' without config.train.weight_decay is adam; "
            "set one of them (0.004 is Keras' own)"
        )
    if problems:
        raise UserError(problems)


def check_batch(train: ml_collections.ConfigDict, replicas: int) -> None:
    """Checks that the global batch divides among replicas and accumulated parts.

    Raises:
      UserError: it does not, with the numbers.
    """
    parts = replicas * train.accumulate
    if train.global_batch % parts == 0:
        return
    below = train.global_batch // parts * parts
    near = f"{below} or {below + parts}" if below else f"{parts}"
    by = f"{replicas} replica{'s' if replicas > 1 else ''}"
    if train.accumulate > 1:
        by += f" times config.train.accumulate={train.accumulate}"
    raise UserError(
        f"config.train.global_batch={train.global_batch} is not divisible by {by}; "
        f"the nearest that are: {near}"
    )


def check_fit(info: DatasetInfo, config: ml_collections.ConfigDict) -> None:
    """Checks that the config is the one that made the data.

    What labels=auto came to is taken from the data.
    Evaluation reads truth and splits by the config, so it must not say otherwise. The
    seed may differ, and what was done with bad frames is the data set's to say.

    Raises:
      UserError: every difference, with both values.
    """
    if config.data.labels == "auto":
        config.data.labels = info.config["data"]["labels"]
    there, here = info.config, data_config(config)
    here["seed"] = there["seed"]
    here["data"]["on_bad_frame"] = there["data"]["on_bad_frame"]
    if changed := json_files.differences(there, here, "config."):
        raise UserError(
            [
                f"{line} (there: the data, here: the config given); use the config "
                "and overrides that made the data, or preprocess again"
                for line in changed
            ]
        )
