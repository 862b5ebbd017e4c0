"""The runs that a model is made of: one, or several that are averaged."""

import collections
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import ml_collections

from trainer.inference import ensemble
from trainer.inference.instances import InstanceRules
from trainer.run import workdir
from trainer.run.restore import restore_network
from unet_tfrecords.command.errors import UserError, warn
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
      scaling: of images that the first run's data set normalises.
    """

    folder: str
    config: ml_collections.ConfigDict
    info: DatasetInfo
    rules: InstanceRules
    network: keras.Model
    step: int
    scaling: ensemble.Scaling | None


def folders_of(given: str) -> list[str]:
    """The work directories that --workdir names.

    Args:
      given: one or several, with commas between; cross_validate's folder stands for
        the runs of its folds.

    Raises:
      UserError: folds that are not all there yet.
    """
    if files.exists(files.join(given, workdir.CONFIG_NAME)):
        return [given]  # whatever its name holds
    found = []
    for folder in filter(None, given.split(",")):
        folds = [files.join(folder, "fold-0", "train")]
        is_run = files.exists(files.join(folder, workdir.CONFIG_NAME))
        if is_run or not files.exists(files.join(folds[0], workdir.CONFIG_NAME)):
            found.append(folder)
            continue
        if not files.exists(files.join(folder, "evaluation-test.json")):
            raise UserError(
                f"{folder}: not all of its folds are done; run cross_validate again, "
                "which resumes"
            )
        number = workdir.read_evaluation(folder, "test")["folds"]
        found += [files.join(folder, f"fold-{n}", "train") for n in range(number)]
    return found or [given]


def read(folders: Sequence[str], checkpoint: str, precision: str) -> list[Member]:
    """Restores the networks of runs that one model can be made of.

    Args:
      folders: their work directories.
      checkpoint: best, newest or a step, of each.
      precision: a Keras dtype policy.

    Raises:
      UserError: no run there, or runs that take other images or give other outputs.
    """
    counts = collections.Counter(folder.rstrip("/") for folder in folders)
    if repeated := [folder for folder, count in counts.items() if count > 1]:
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
            ensemble.scaling_of(info.normalization, infos[0].normalization),
        )
        for folder, config, info in zip(folders, configs, infos, strict=True)
    ]


def _contract(config: ml_collections.ConfigDict, info: DatasetInfo) -> dict[str, Any]:
    """What images a run takes, and what it gives."""
    names = ("depth", "channels", "classes", "class_names")
    of_data = (
        *("name", "layout", "labels", "mask_values"),
        *("channels", "neighbours", "targets"),
    )
    data = {name: config.data[name] for name in of_data}
    kind = "dataset" if info.normalization else "frame"  # mean and deviation may differ
    content = {
        "model": {name: config.model[name] for name in names},
        "data": data | {"normalization": kind},
    }
    return json_files.as_read(content)


def joined_rules(members: Sequence[Member]) -> InstanceRules:
    """The median of each rule, of those values that there are, the lower of two."""
    tuned = [bool(workdir.read_rules_file(member.folder)) for member in members]
    for member, is_tuned in zip(members, tuned, strict=True):
        if any(tuned) and not is_tuned:
            warn(
                f"{member.folder}: has no rules of its own, where others have; "
                "evaluate --tune finds them"
            )
    return InstanceRules(
        *map(statistics.median_low, zip(*(m.rules for m in members), strict=True))
    )
