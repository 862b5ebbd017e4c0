"""Reads files as the product does and says what came of it; a process of its own.

    python -m campaigns.readers KIND FOLDER

A file's name comes in on each line of stdin, an `Outcome` as JSON goes out on stdout.
Whatever kills this process kills the reading of one file only.
"""

import contextlib
import hashlib
import io
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from preprocess import plan
from trainer.devices.startup import load_tensorflow
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset import dataset_info, records, shards
from unet_tfrecords.dataset.images import formats
from unet_tfrecords.dataset.images.pages import Page
from unet_tfrecords.dataset.verify import verify

READ, REFUSED, RAISED = "read", "refused", "raised"


class Outcome(NamedTuple):
    """What came of reading one file.

    Attributes:
      status: READ, REFUSED (in lines for the user) or RAISED (anything else).
      value: digest of all that was read.
      told: the lines, what was said on the way, or the traceback.
      later: whether `verify` notices, whom the trainer does not ask.
    """

    status: str
    value: str = ""
    told: str = ""
    later: bool = False


Read = Callable[[str, str], tuple[str, bool]]


def _digest(*parts) -> str:
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            part = memoryview(np.ascontiguousarray(part)).cast("B")  # no copy
        given = isinstance(part, bytes | memoryview)
        digest.update(part if given else repr(part).encode())
    return digest.hexdigest()[:16]


def read_image_file(folder: str, target: str) -> tuple[str, bool]:
    """All that preprocess, evaluate and predict ask of an image."""
    path = os.path.join(folder, target)
    pages = formats.count_pages(path)
    read: list = [pages]
    for number in sorted({*range(min(pages, 6)), pages - 1}):
        page = Page(path, number)
        read += [formats.header_of(page), formats.pixel_size_um(page)]
        if target.startswith("label"):
            mask = formats.read_mask(page)
            read += [mask.values, mask.has_colours]
        else:
            formats.pixels_of(page)
            read.append(formats.is_spread(page))
            channels = 3 if target.startswith("rgb") else 1
            read.append(formats.read_image(page, channels))
    return _digest(*read), False


def read_shard(folder: str, target: str) -> tuple[str, bool]:
    """A split as the trainer reads it, and `verify` beside it."""
    import tensorflow as tf

    from trainer.input import input_pipeline
    from trainer.input.shard_files import damage, find_shards

    info = dataset_info.read_info(folder)
    found = find_shards(info, folder, target.split("-")[0])
    geometry = info.geometry
    read = []
    try:
        for record in tf.data.TFRecordDataset([shard.path for shard in found]):
            tile = input_pipeline.parse_tile(record, geometry)
            read += [tile[name].numpy() for name in sorted(tile)]
    except tf.errors.OpError:
        if problems := damage(found, info.geometry):
            raise UserError(problems) from None
        raise
    return _digest(*read), _is_noticed(folder)


def _is_noticed(folder: str) -> bool:
    try:
        verify(folder)
    except UserError:
        return True
    return False


def read_info(folder: str, target: str) -> tuple[str, bool]:
    """What a data set says of itself, as train takes it in and checks it."""
    inside = os.path.join(folder, os.path.dirname(target))
    name = os.path.basename(target)
    if "-plan-" in name:
        return _digest(*plan.read_plan(os.path.join(folder, target))), False
    if name.startswith(".unfinished-"):
        return _read_sidecar(inside, name), False
    from trainer.input import whole_frames
    from trainer.input.shard_files import find_shards
    from trainer.training import train_settings

    info = dataset_info.read_info(inside)
    train_settings.check_fit(info, _config(info))
    for split in ("train", "validation"):
        find_shards(info, inside, split)
        sizes = whole_frames.frame_sizes(inside, info, split)
        whole_frames.spread(sorted(sizes), 3)
    sources = list(info.read_sources(inside))
    return _digest(json.dumps(info.content()), sources), _is_noticed(inside)


def _read_sidecar(folder: str, name: str) -> str:
    """Another shard than was noted is no harm: it is made again."""
    shard_name = name.removeprefix(".unfinished-").removesuffix(".json")
    info = dataset_info.read_info(folder)
    [made_from] = {
        shard.made_from
        for content in info.splits.values()
        for shard in content.shards
        if shard.name == shard_name
    }
    shard = shards.kept_shard(folder, shard_name, made_from)
    if shard is None:
        raise UserError(f"{name}: made again")
    return _digest(shard)


def _config(info):
    """The config that made a data set, as it is given to train."""
    from configs import synthetic

    config = synthetic.get_config("smoke")
    config.data.tile_size, config.model.depth = 60, 2
    config.data.augmentations = info.settings.augmentations
    return config


def read_settings(folder: str, target: str) -> tuple[str, bool]:
    """The files beside the weights: of a work directory, and of a model."""
    from trainer.export import artefact_layout
    from trainer.run import workdir

    if target.startswith("model"):
        about = artefact_layout.read_about(
            os.path.join(folder, "model", target.split("/")[1])
        )
        return _digest(json.dumps(about)), False
    run = os.path.join(folder, "run")
    config, info = workdir.read_config(run), workdir.read_info(run)
    rules = workdir.read_rules(run)
    content = config.to_json(sort_keys=True), json.dumps(info.content()), rules
    return _digest(*content), False


def read_checkpoint(folder: str, target: str) -> tuple[str, bool]:
    """The newest checkpoint that is whole, every value of it."""
    import tensorflow as tf

    from trainer.run import checkpoints

    inside = os.path.join(folder, "checkpoints")
    step = checkpoints.newest_whole(inside).step
    path = os.path.join(inside, checkpoints.name_of(step), checkpoints.STATE)
    values = tf.train.load_checkpoint(path)
    names = sorted(values.get_variable_to_shape_map())
    return _digest(step, *(values.get_tensor(name) for name in names)), False


def read_model(folder: str, target: str) -> tuple[str, bool]:
    """A model loaded as predict loads it, and what it makes of an image."""
    from trainer.export import artefact_layout
    from trainer.predict import runtimes

    version = artefact_layout.newest_version(os.path.join(folder, target.split("/")[0]))
    about = artefact_layout.read_about(version)
    runtime = "onnx" if target.endswith(".onnx") else "tensorflow"
    [loaded] = runtimes.load(version, runtime=runtime)
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 1), np.uint8)
    made = loaded.segment(image).probabilities
    # On a busy machine the last bit was another, once in hundreds of reads.
    first = FIRST_MADE.setdefault((version, runtime), made)
    same = first if np.allclose(made, first, rtol=0, atol=1e-6) else made
    return _digest(same, json.dumps(about)), False


FIRST_MADE: dict[tuple[str, str], np.ndarray] = {}  # by each model, in this process


READERS: dict[str, Read] = {
    "tiff": read_image_file,
    "png": read_image_file,
    "tfrecord": read_shard,
    "info": read_info,
    "config": read_settings,
    "checkpoint": read_checkpoint,
    "savedmodel": read_model,
}


def outcome(read: Read, folder: str, target: str) -> Outcome:
    """Reads one file; nothing but the end of the process gets past this."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            value, later = read(folder, target)
        return Outcome(READ, value, said.getvalue(), later)
    except UserError as error:
        return Outcome(REFUSED, told="\n".join(error.problems))
    except OSError as error:  # reported as cli.main does
        return Outcome(REFUSED, told=str(error))
    except BaseException:
        return Outcome(RAISED, told=traceback.format_exc())


def main() -> None:
    kind, folder = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")  # libraries write on the other one
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if kind in ("tfrecord", "info", "checkpoint", "savedmodel"):
        load_tensorflow()  # now, not within the first file's time
    records.example_class()
    for line in sys.stdin:
        result = outcome(READERS[kind], folder, line.rstrip("\n"))
        answers.write(json.dumps(result) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
