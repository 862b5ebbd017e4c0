"""The runs that a model is made of: one, or several that are averaged."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import ml_collections
import msgspec

from trainer.inference.instances import InstanceRules
from trainer.run import workdir
from trainer.run.restore import restore_network
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.dataset_info import DatasetInfo
from unet_tfrecords.storage import files, json_files


class Member(NamedTuple):
    """A run of the model.

    Attributes:
      folder: its work directory.
      config, info: the run's and its data set's.
      rules: how it makes classes and instances of probabilities.
      network: float32 [B, H, W, C] to logits.
      step: of the checkpoint.
    """

    folder: str
    config: ml_collections.ConfigDict
    info: DatasetInfo
    rules: InstanceRules
    network: keras.Model
    step: int


def folders_of(given: str) -> list[str]:
    """The work directories that --workdir names.

    Args:
      given: one or several, with commas between; cross_validate's folder stands for
        the runs of its folds.

    Raises:
      UserError: folds that are not all there yet.
    """
    found = []
    for folder in given.split(","):
        folds = [files.join(folder, "fold-0", "train")]
        is_run = files.exists(files.join(folder, workdir.CONFIG_NAME))
        if is_run or not files.exists(files.join(folds[0], workdir.CONFIG_NAME)):
            found.append(folder)
            continue
        if not files.exists(files.join(folder, "evaluation-test.json")):
            raise UserError(
                f"{folder}: not all of its folds are done; run cross_validate again, "
                "which goes on where it was"
            )
        number = workdir.read_evaluation(folder, "test")["folds"]
        found += [files.join(folder, f"fold-{n}", "train") for n in range(number)]
    return found


def read(folders: Sequence[str], checkpoint: str, precision: str) -> list[Member]:
    """Restores the networks of runs that one model can be made of.

    Args:
      folders: their work directories.
      checkpoint: best, newest or a step, of each.
      precision: a Keras dtype policy.

    Raises:
      UserError: no run there, or runs that take other images or give other outputs.
    """
    if repeated := sorted({f for f in folders if folders.count(f) > 1}):
        raise UserError([f"--workdir={folder}: is named twice" for folder in repeated])
    configs = [workdir.read_config(folder) for folder in folders]
    infos = [workdir.read_info(folder) for folder in folders]
    contracts = [_contract(*pair) for pair in zip(configs, infos, strict=True)]
    if problems := [
        f"{folder}: {line} (there: {folders[0]}); runs of one model must agree in it"
        for folder, contract in zip(folders, contracts, strict=True)
        for line in json_files.differences(contracts[0], contract, "config.")
    ]:
        raise UserError(problems)
    return [
        Member(
            folder,
            config,
            info,
            workdir.read_rules(folder),
            *restore_network(folder, config, checkpoint, precision),
        )
        for folder, config, info in zip(folders, configs, infos, strict=True)
    ]


def _contract(config: ml_collections.ConfigDict, info: DatasetInfo) -> dict[str, Any]:
    """What images a run takes, and what it gives."""
    names = ("depth", "channels", "classes", "class_names")
    data = {
        name: config.data[name]
        for name in ("targets", "channels", "neighbours", "name")
    }
    content = {
        "model": {name: config.model[name] for name in names},
        "data": data | {"normalization": msgspec.to_builtins(info.normalization)},
    }
    return json_files.as_read(content)


def joined_rules(members: Sequence[Member]) -> InstanceRules:
    """The median of each rule, of those values that there are."""
    return InstanceRules(
        *map(statistics.median_low, zip(*(m.rules for m in members), strict=True))
    )
