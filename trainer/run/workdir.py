"""A work directory: which files a run keeps, and reading them back."""

import csv
import json
import os
import shutil
import tempfile
from typing import Any

import ml_collections

from trainer.devices import tensorflow_files
from trainer.inference.instances import InstanceRules, rules_from
from unet_tfrecords.command.errors import UserError, warn
from unet_tfrecords.dataset import dataset_info, later_settings
from unet_tfrecords.dataset.dataset_info import INFO_NAME, DatasetInfo
from unet_tfrecords.storage import checksums, files, json_files

CONFIG_NAME = "config.json"
COMPUTED_NAME = "computed.json"  # precision and compilation, as resolved
CHECKPOINTS = "checkpoints"
LOGS = "logs"
METRICS_NAME = "metrics.jsonl"
ABOUT_NAME = "about.json"  # how the run was started: for people, compared with nothing
REMOTE_EVERY_S = 30.0  # between two writings of a file that grows, in an object store
OURS = "is it train's own?"
RULES_NAME = "postprocessing.json"  # found by evaluate --tune


def claim(
    workdir: str,
    config: ml_collections.ConfigDict,
    info: DatasetInfo,
    computed: dict[str, Any],
    *,
    write: bool = True,
    extend: bool = False,
) -> None:
    """Makes a work directory for a config and a data set, or finds its own again.

    Args:
      workdir: the folder.
      config: the run's.
      info: the data set's.
      computed: how the run computes on these devices, which "auto" leaves open.
      write: whether to write at all: the chief alone does.
      extend: whether config.train.steps may be more than there.

    Raises:
      UserError: another run lies there, naming what differs.
    """
    tensorflow_files.check_name(f"--workdir={workdir}")
    content = {
        CONFIG_NAME: json.loads(config.to_json()),
        INFO_NAME: info.content(),
        COMPUTED_NAME: computed,
    }
    changed, to_write = [], []
    for name, mine in content.items():
        path = files.join(workdir, name)
        there = json_files.read(path, cure=OURS) if files.exists(path) else None
        if there != mine:
            to_write.append((path, mine))
        if there is None:
            continue
        if name == CONFIG_NAME:
            there = later_settings.filled(there)
        if name == INFO_NAME:
            there.pop(json_files.OWN_DIGEST, None)
        if extend and name == CONFIG_NAME:
            there = _extended(path, there, mine["train"]["steps"])
        for line in json_files.differences(there, mine, name.removesuffix("json")):
            changed.append(f"{path}: {line}; {_advice(line)}")
    if changed:
        raise UserError(changed[:20])
    if write and (to_write or not checksums.fits(workdir, content)):
        # It holds for none in between.
        files.remove([files.join(workdir, checksums.NAME)])
        for path, mine in to_write:
            json_files.write(path, mine)
        checksums.write(workdir, content)


def _advice(line: str) -> str:
    if line.startswith("config.train.steps: "):
        return "--extend_steps=N takes the run to N steps in all"
    return "give another --workdir, or remove this one to start over"


def _extended(path: str, there: dict[str, Any], steps: int) -> dict[str, Any]:
    """A run's config with more steps.

    Raises:
      UserError: it has more than that already.
    """
    train = there.get("train", {})
    if steps < train.get("steps", 0):
        raise UserError(
            f"--extend_steps={steps}: {path} has train.steps={train['steps']}; "
            "steps are the whole run's and only grow"
        )
    return there | {"train": train | {"steps": steps}}


def _read_json(path: str) -> dict[str, Any]:
    """What a file says; empty where there is none."""
    return json_files.read(path, cure=OURS) if files.exists(path) else {}


def settled(workdir: str) -> dict[str, Any]:
    """The train part of the config of the run that is there; empty where none is."""
    there = later_settings.filled(_read_json(files.join(workdir, CONFIG_NAME)))
    return there.get("train", {})


def read_config(workdir: str) -> ml_collections.ConfigDict:
    """The config a run was made with.

    Raises:
      UserError: not a work directory.
    """
    path = files.join(workdir, CONFIG_NAME)
    if not files.exists(path):
        raise UserError(f"{path}: missing; --workdir names the folder that train made")
    checksums.check(workdir, [CONFIG_NAME])
    return ml_collections.ConfigDict(later_settings.filled(_read_json(path)))


def read_info(workdir: str) -> DatasetInfo:
    """Reads what `dataset_info.json` says of the data that the run learns from.

    Raises:
      UserError: it isn't what train has written.
    """
    checksums.check(workdir, [INFO_NAME])
    return dataset_info.read_info(workdir, cure=OURS)


def copy_sources(workdir: str, data: str, info: DatasetInfo) -> None:
    """Keeps with the run what a large data set was made from."""
    for part in info.source_parts:
        path = files.join(workdir, part.name)
        if not files.exists(path):
            files.write_bytes(path, files.read_bytes(files.join(data, part.name)))


def write_about(workdir: str, about: dict[str, Any]) -> None:
    """Notes how a run was started, unless that stands there already."""
    path = files.join(workdir, ABOUT_NAME)
    if not files.exists(path):
        json_files.write(path, about)


def read_about(workdir: str) -> dict[str, Any]:
    """How a run was started: command, versions, device; empty where nothing says so."""
    return _read_json(files.join(workdir, ABOUT_NAME))


def read_evaluation(workdir: str, split: str) -> dict[str, Any]:
    """What `evaluate` found on a split; empty where it has not been there.

    Raises:
      UserError: it says that it is of another one.
    """
    path = files.join(workdir, f"evaluation-{split}.json")
    found = _read_json(path)
    scores = found.get("scores", {})
    if not isinstance(scores, dict) or not all(map(_is_score, scores.values())):
        raise UserError(f"{path}: broken (its scores); evaluate again")
    if found.get("split", split) != split:
        raise UserError(f"{path}: broken (of split {found['split']!r}); evaluate again")
    return found


def _is_score(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]  # of each class
    return all(each is None or isinstance(each, (int, float)) for each in values)


def warn_of_other_rules(workdir: str, *, step: int, tta: bool) -> None:
    """Says on stderr that the rules were found for other probabilities."""
    found = read_rules_file(workdir)
    for name, mine in (("step", step), ("tta", tta)):
        if name in found and found[name] != mine:
            warn(
                f"{files.join(workdir, RULES_NAME)}: was tuned with {name} "
                f"{found[name]}, and this is {name} {mine}; evaluate --tune again"
            )


def read_objects(workdir: str, split: str) -> list[dict[str, str]]:
    """The rows of an evaluation's table of objects; none where there is none."""
    path = files.join(workdir, f"evaluation-{split}-objects.csv")
    if not files.exists(path):
        return []
    return list(csv.DictReader(files.read_bytes(path).decode().splitlines()))


def read_rules(workdir: str) -> InstanceRules:
    """How classes and instances are made of probabilities: as tuned, or by default."""
    path = files.join(workdir, RULES_NAME)
    return rules_from(read_rules_file(workdir).get("rules", {}), path)


def read_rules_file(workdir: str) -> dict[str, Any]:
    """The rules with how they were found; empty where nothing was tuned."""
    return _read_json(files.join(workdir, RULES_NAME))


def write_rules(workdir: str, rules: InstanceRules, found: dict[str, Any]) -> None:
    """Keeps rules, and how they were found, for evaluate, export and predict."""
    content = {"rules": rules._asdict(), **found}
    json_files.write(files.join(workdir, RULES_NAME), json_files.sealed(content))


def read_metrics(workdir: str) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl; none where there is no such file."""
    path = files.join(workdir, METRICS_NAME)
    if not files.exists(path):
        return []
    lines = []
    for line in files.read_bytes(path).splitlines():
        try:
            content = json_files.parse(line)
        except ValueError:  # cut off by a kill
            continue
        if isinstance(content, dict):
            lines.append(content)
    return lines


def trim_metrics(workdir: str, step: int) -> None:
    """Takes out of metrics.jsonl what lies beyond a step, or was cut off by a kill."""
    path = files.join(workdir, METRICS_NAME)
    if files.exists(path):
        lines = [x for x in read_metrics(workdir) if isinstance(x.get("step"), int)]
        kept = [_as_line(line) for line in lines if line["step"] <= step]
        files.write_bytes(path, b"".join(kept))


def _as_line(content: dict[str, Any]) -> bytes:
    return (json.dumps(content) + "\n").encode()


class LogFolder:
    """TensorBoard's logs of a run, which TensorFlow writes to this machine's disk.

    Attributes:
      near: the folder that TensorFlow writes to.
    """

    def __init__(self, workdir: str):
        self.there = files.join(workdir, LOGS)
        self.near = self.there
        self.sent: dict[str, int] = {}  # bytes of each file when it was sent last
        if files.is_remote(workdir):
            self.near = tempfile.mkdtemp(prefix=f"{files.TEMPORARY}logs-")

    def send(self) -> None:
        """Copies to the store what has grown since; an object can't grow."""
        if self.near == self.there:
            return
        for name in files.list_below(self.near):
            path = os.path.join(self.near, name)
            if self.sent.get(name) != (size := os.path.getsize(path)):
                files.copy(path, files.join(self.there, name))
                self.sent[name] = size

    def close(self) -> None:
        """Sends the rest."""
        self.send()
        if self.near != self.there:
            shutil.rmtree(self.near, ignore_errors=True)


class MetricsLog:
    """metrics.jsonl, opened to add lines to.

    On disk a line is there at once. An object can't grow: there `flush` writes the
    whole.
    """

    def __init__(self, workdir: str):
        self.path = files.join(workdir, METRICS_NAME)
        self.remote = files.is_remote(workdir)
        self.content, self.changed = b"", False
        if self.remote and files.exists(self.path):
            self.content = files.read_bytes(self.path)

    def add(self, line: dict[str, Any]) -> None:
        """Adds a line."""
        if self.remote:
            self.content += _as_line(line)
            self.changed = True
        else:
            with files.naming(self.path), open(self.path, "ab") as file:
                file.write(_as_line(line))

    def flush(self) -> None:
        """Has all lines be there; before each checkpoint, which goes on from them."""
        if self.changed:
            files.write_bytes(self.path, self.content)
            self.changed = False
