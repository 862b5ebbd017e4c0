"""A run's checkpoint to a SavedModel with all that belongs to it: see `layout`."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import ml_collections
import tensorflow as tf

from trainer.devices import tensorflow_files
from trainer.export import (
    artefact_layout,
    bioimageio,
    members,
    model_card,
    onnx,
    warmup,
)
from trainer.export.publish import check, files_below, publish, staging
from trainer.export.signatures import SignatureSet
from trainer.export.tile_memory import Device, tile_within
from trainer.inference import ensemble
from trainer.inference.segmenter import Segmenter
from trainer.network.layers import freeze, with_variables
from trainer.run import workdir
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.dataset_info import DatasetInfo
from unet_tfrecords.dataset.targets import planes_of
from unet_tfrecords.storage import checksums, files, json_files

# Constants are much faster on processors (see layers.freeze), but TensorFlow copies
# them into all of a model's functions: loaded and called once, the paper's network
# took 28 times its weights (3.5 GB), and with variables 2 times.
MOST_CONSTANT_BYTES = 200 * 10**6


class ExportOptions(NamedTuple):
    """How a model is to be exported.

    Attributes:
      checkpoint: best, newest or a step.
      tile: the largest input tile in px; 0 takes the default, or what memory_mb allows.
      tiles_per_step: tiles that the network is given at once.
      memory_mb: what tiles may need, in MB; 0 sets no limit.
      tta: averages over the eight symmetries of the square.
      precision: a Keras dtype policy.
      device: cpu, gpu, or auto: see `device_of`.
      weights: constants, variables, or auto: by the device and their size.
      onnx: writes tile.onnx too.
      bioimageio: writes bioimageio.zip too.
    """

    checkpoint: str = "best"
    tile: int = 0
    tiles_per_step: int = 1
    memory_mb: int = 0
    tta: bool = False
    precision: str = "float32"
    device: str = "auto"
    weights: str = "auto"
    onnx: bool = False
    bioimageio: bool = False


def export(
    folders: list[str], destinations: list[str], options: ExportOptions
) -> list[str]:
    """Exports a checkpoint of a run, or of several as one model: see `ensemble`.

    Args:
      folders: the work directories.
      destinations: folders or gs:// prefixes of the model; versions lie inside.
      options: how.

    Returns:
      The new version's folder in each.

    Raises:
      UserError: no run or no checkpoint there, runs that don't go together, an illegal
        tile, too little memory, or nothing can be written there.
    """
    for destination in destinations:
        tensorflow_files.check_name(destination)
        check(destination)
    if options.onnx or options.bioimageio:
        onnx.library()
    if options.bioimageio:
        bioimageio.library()
    runs = members.read(folders, options.checkpoint, options.precision)
    config, info, rules = runs[0].config, runs[0].info, members.joined_rules(runs)
    widest = max(run.config.model.width for run in runs)
    tile = _chosen_tile(config.model, widest, options)
    for run in runs:
        workdir.warn_of_other_rules(run.folder, step=run.step, tta=options.tta)
    networks = [run.network for run in runs]
    scalings = [run.scaling for run in runs]
    constant = as_constants(networks, options.weights, device_of(options))
    outputs = {"classes": config.model.classes, "planes": planes_of(config.data)}
    prepared = freeze if constant else with_variables
    try:
        segmenter = Segmenter(
            ensemble.as_one(
                [
                    ensemble.scaled(prepared(network), scaling)
                    for network, scaling in zip(networks, scalings, strict=True)
                ],
                **outputs,
            ),
            depth=config.model.depth,
            **outputs,
            tile=tile,
            tiles_per_step=options.tiles_per_step,
            normalization=info.normalization,
            tta=options.tta,
            threshold=rules.threshold,
        )
    except ValueError as error:
        raise UserError(f"--tile: {error}") from None
    variables = [] if constant else [w.value for n in networks for w in n.weights]
    served = SignatureSet(
        segmenter,
        info.geometry,
        variables,
        tuple(config.data.channels),
        images=1 + len(config.data.neighbours),
    )
    content = model_card.describe(
        runs, segmenter, precision=options.precision, rules=rules
    )
    made = []
    for destination in destinations:
        with staging(destination) as stage:
            save(served, stage)
            extra = os.path.join(stage, artefact_layout.EXTRA)
            write_extras(extra, config, served, content, info)
            if options.onnx:
                path = os.path.join(extra, artefact_layout.ONNX)
                onnx.write_tile(path, networks, segmenter, content, scalings)
            if options.bioimageio:
                bioimageio.package(networks, segmenter, content, extra, scalings)
            checksums.write(stage, files_below(stage), artefact_layout.SUMS)
            made.append(publish(stage, destination))
    return made


def device_of(options: ExportOptions) -> Device:
    """What the model will run on: auto is a GPU where one is here or precision asks.

    No processor gains from half precision here, so who asks for it has a GPU.
    """
    kind = options.device
    if kind == "auto":
        has_gpu = bool(tf.config.list_physical_devices("GPU"))
        kind = "gpu" if has_gpu or options.precision != "float32" else "cpu"
    return Device(kind, options.precision)


def as_constants(networks: Sequence[keras.Model], weights: str, device: Device) -> bool:
    """Whether weights become constants of the graph.

    Only oneDNN gains from that. For a GPU they would lie in every function once more.
    """
    if weights == "auto":
        parameters = sum(network.count_params() for network in networks)
        small = 4 * parameters <= MOST_CONSTANT_BYTES
        return small and device.kind == "cpu"
    return weights == "constants"


def _chosen_tile(
    model: ml_collections.ConfigDict, width: int, options: ExportOptions
) -> int:
    """--tile, or the largest that --memory_mb allows."""
    if (options.onnx or options.bioimageio) and options.precision != "float32":
        flag = "onnx" if options.onnx else "bioimageio"
        raise UserError(f"--{flag} needs --precision=float32: onnxruntime has no other")
    if options.tiles_per_step < 1:
        raise UserError(f"--tiles_per_step={options.tiles_per_step} must be at least 1")
    if not options.memory_mb:
        return options.tile
    if options.tile:
        raise UserError("--tile and --memory_mb: give one of them, not both")
    try:
        return tile_within(
            options.memory_mb,
            width=width,
            depth=model.depth,
            tiles_per_step=options.tiles_per_step,
            device=device_of(options),
        )
    except ValueError as error:
        raise UserError(f"--memory_mb={options.memory_mb}: {error}") from None


def save(served: SignatureSet, path: str) -> None:
    """Writes the SavedModel with its signatures."""
    try:
        tf.saved_model.save(served, path, signatures=served.functions)
    except tf.errors.OpError as error:
        if of_disk := tensorflow_files.disk_error(error):
            raise of_disk from error
        reason = " ".join(error.message.split())[:200]
        raise UserError(f"{path}: not written: {reason}") from error


def write_extras(
    folder: str,
    config: ml_collections.ConfigDict,
    served: SignatureSet,
    content: dict[str, Any],
    info: DatasetInfo,
) -> None:
    """Config, model.json, card and warm-up requests."""
    files.make_folder(folder)
    takes = {
        name: [_shown(spec) for spec in function.input_signature]
        for name, function in served.functions.items()
    }
    height, width = _warmup_size(folder, info, content["tile"])
    written = {
        artefact_layout.CONFIG: json_files.as_json(config.to_dict()),
        artefact_layout.ABOUT: json_files.as_json(content),
        artefact_layout.CARD: model_card.card(content, takes).encode(),
        artefact_layout.WARMUP: warmup.warmup_records(
            height,
            width,
            served.geometry.channels,
            config.data.channels,
            images=1 + len(config.data.neighbours),
        ),
    }
    for name, value in written.items():
        files.write_bytes(os.path.join(folder, name), value)


def _shown(spec: tf.TensorSpec) -> str:
    axes = ", ".join("any" if size is None else str(size) for size in spec.shape)
    return f"`{spec.name}` {spec.dtype.name} [{axes}]"


def _warmup_size(folder: str, info: DatasetInfo, tile: int) -> tuple[int, int]:
    """The first frame's height and width in px, at most a tile's."""
    first = next(info.read_sources(folder))
    return min(first.height, tile), min(first.width, tile)
