"""Whether config and data fit each other, before a device is touched."""

from typing import Any

import ml_collections

from preprocess.errors import UserError
from preprocess.info import data_config
from preprocess.shards import differences

CHOICES = {
    "optimizer": ("sgd", "adam", "adamw"),
    "schedule": ("constant", "cosine"),
    "class_weights": ("balanced", "none"),
    "precision": ("auto", "float32", "mixed_bfloat16", "mixed_float16"),
}
POSITIVE = (
    "steps",
    "global_batch",
    "learning_rate",
    "shuffle_tiles",
    "steps_per_call",
    "log_every_steps",
    "validate_every_steps",
    "checkpoint_every_steps",
    "keep_checkpoints",
)


def check_train_config(config: ml_collections.ConfigDict) -> None:
    """Checks the config's `train` part.

    Raises:
      UserError: every problem found, a line each.
    """
    train = config.train
    problems = [
        f"config.train.{name}={train[name]!r} is none of {', '.join(choices)}"
        for name, choices in CHOICES.items()
        if train[name] not in choices
    ]
    problems += [
        f"config.train.{name}={train[name]!r} must be above 0"
        for name in POSITIVE
        if train[name] <= 0
    ]
    if not 0 <= config.model.dropout < 1:
        problems.append(f"config.model.dropout={config.model.dropout}: 0 up to below 1")
    if not 0 <= train.warmup_steps < max(1, train.steps):
        problems.append(
            f"config.train.warmup_steps={train.warmup_steps} must be below "
            f"config.train.steps={train.steps}"
        )
    if not 0 <= train.momentum < 1:
        problems.append(f"config.train.momentum={train.momentum}: 0 up to below 1")
    if problems:
        raise UserError(problems)


def check_fit(info: dict[str, Any], config: ml_collections.ConfigDict) -> None:
    """Checks that the config is the one that made the data.

    Evaluation reads truth and splits by the config, so it must not say otherwise. The
    seed may differ, and what was done with bad frames is the data set's to say.

    Raises:
      UserError: every difference, with both values.
    """
    there, here = info["config"], data_config(config)
    here["seed"] = there["seed"]
    here["data"]["on_bad_frame"] = there["data"]["on_bad_frame"]
    if changed := differences(there, here, "config"):
        raise UserError(
            [
                f"{line} (there: the data, here: the config given); use the config "
                "and overrides that made the data, or preprocess again"
                for line in changed
            ]
        )
