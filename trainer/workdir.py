"""A work directory: which files a run keeps, and reading them back."""

import json
from typing import Any

import ml_collections
import tensorflow as tf

from preprocess import files
from preprocess.errors import UserError
from preprocess.shards import INFO_NAME, as_json, differences

CONFIG_NAME = "config.json"
CHECKPOINTS = "checkpoints"
LOGS = "logs"
METRICS_NAME = "metrics.jsonl"


def claim(
    workdir: str,
    config: ml_collections.ConfigDict,
    info: dict[str, Any],
    *,
    write: bool = True,
    extend: bool = False,
) -> None:
    """Makes a work directory for a config and a data set, or finds its own again.

    Args:
      workdir: the folder.
      config: the run's.
      info: the data set's.
      write: whether to write at all: the chief alone does.
      extend: whether config.train.steps may be more than there.

    Raises:
      UserError: another run lies there, naming what differs.
    """
    if set(workdir) & set("[]*?"):
        raise UserError(
            f"--workdir={workdir}: TensorFlow finds no checkpoints below a name "
            "with [ ] * or ?; give another"
        )
    content = {
        CONFIG_NAME: json.loads(config.to_json()),
        INFO_NAME: {name: value for name, value in info.items() if name != "times"},
    }
    for name, mine in content.items():
        path = files.join(workdir, name)
        there = _read_json(path) if files.exists(path) else None
        allowed = there
        if there is not None and extend and name == CONFIG_NAME:
            allowed = _extended(path, there, mine["train"]["steps"])
        changed = differences(allowed or mine, mine, name.removesuffix(".json"))
        if changed:
            advice = "give another --workdir, or remove this one to start afresh"
            raise UserError([f"{path}: {line}; {advice}" for line in changed[:20]])
        if write and there != mine:
            files.write_bytes(path, as_json(mine))


def _extended(path: str, there: dict[str, Any], steps: int) -> dict[str, Any]:
    """A run's config with more steps.

    Raises:
      UserError: it has more than that already.
    """
    if steps < there["train"]["steps"]:
        raise UserError(
            f"--extend_steps={steps}: {path} has train.steps="
            f"{there['train']['steps']}; steps are the whole run's and only grow"
        )
    return there | {"train": there["train"] | {"steps": steps}}


def _read_json(path: str) -> dict[str, Any]:
    try:
        return json.loads(files.read_bytes(path))
    except ValueError as error:
        raise UserError(f"{path}: broken ({error}); is it train's own?") from None


def read_config(workdir: str) -> ml_collections.ConfigDict:
    """The config a run was made with.

    Raises:
      UserError: not a work directory.
    """
    path = files.join(workdir, CONFIG_NAME)
    if not files.exists(path):
        raise UserError(f"{path}: missing; --workdir names the folder that train made")
    return ml_collections.ConfigDict(_read_json(path))


def read_info(workdir: str) -> dict[str, Any]:
    """What `dataset_info.json` said of the data that the run learns from."""
    return _read_json(files.join(workdir, INFO_NAME))


def trim_metrics(workdir: str, step: int) -> None:
    """Takes out of metrics.jsonl what lies beyond a step, or was cut off by a kill."""
    path = files.join(workdir, METRICS_NAME)
    if not files.exists(path):
        return
    kept = []
    for line in files.read_bytes(path).splitlines(keepends=True):
        try:
            if json.loads(line)["step"] > step:
                break
        except (ValueError, TypeError, KeyError):
            break
        kept.append(line)
    files.write_bytes(path, b"".join(kept))


def append_metrics(workdir: str, line: dict[str, Any]) -> None:
    """Adds a line to metrics.jsonl."""
    path = files.join(workdir, METRICS_NAME)
    with tf.io.gfile.GFile(path, "a") as file:  # appends to remote files too
        file.write(json.dumps(line) + "\n")
