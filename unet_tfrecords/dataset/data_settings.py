"""The settings that a data set depends on, and whether they make sense."""

import math
from typing import Any

import ml_collections

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset import later_settings, tiling
from unet_tfrecords.dataset.images import value_map
from unet_tfrecords.dataset.records import ENCODINGS, UNLABELLED, weight_step
from unet_tfrecords.dataset.targets import TARGETS
from unet_tfrecords.storage import json_files

FURTHEST = 100  # of a neighbour, in frames
ORDERED = ("isbi", "ctc")  # layouts whose frames have neighbours
LARGEST_ZOOM = 1.5  # log of a factor: cells 4.5 times as large or small


def check_data_config(config: ml_collections.ConfigDict) -> None:
    """Checks all that the data depends on.

    Raises:
      UserError: every problem found, a line each with the numbers in question.
    """
    data, model = config.data, config.model
    problems = [
        f"config.{name}={value!r} must be at least {least}"
        + ("" if math.isfinite(value) else ", and finite")
        for name, value, least in (
            ("data.num_shards", data.num_shards, 1),
            ("data.augmentations", data.augmentations, 1),
            ("data.border_weight", data.border_weight, 0),
            ("model.depth", model.depth, 1),
            ("model.width", model.width, 1),
            ("model.channels", model.channels, 1),
            ("model.classes", model.classes, 2),
            ("data.augment.elastic_grid", data.augment.elastic_grid, 2),
            ("data.augment.elastic_sigma_px", data.augment.elastic_sigma_px, 0),
            ("data.augment.rotation_deg", data.augment.rotation_deg, 0),
            ("data.augment.shift_px", data.augment.shift_px, 0),
            ("data.augment.zoom", data.augment.zoom, 0),
            ("data.augment.contrast", data.augment.contrast, 0),
            ("data.augment.brightness", data.augment.brightness, 0),
            ("data.augment.gamma", data.augment.gamma, 0),
            ("data.split.validation", data.split.validation, 0),
            ("data.split.test", data.split.test, 0),
        )
        if not least <= value < math.inf  # NaN is on neither side
    ]
    if model.classes > UNLABELLED:
        problems.append(f"config.model.classes={model.classes}: at most {UNLABELLED}")
    elif model.class_names and len(model.class_names) != model.classes:
        problems.append(
            f"config.model.class_names: {len(model.class_names)} names where "
            f"config.model.classes={model.classes}; name all, or give () to number them"
        )
    images = 1 + len(data.neighbours)
    if (
        not all(
            type(offset) is int and 0 < abs(offset) <= FURTHEST
            for offset in data.neighbours
        )
        or len({*data.neighbours}) != len(data.neighbours)
        or (data.neighbours and data.layout not in ORDERED)
    ):
        problems.append(
            f"config.data.neighbours={tuple(data.neighbours)}: different offsets up to "
            f"{FURTHEST} in a stack or video, such as (-1, 1), of layouts "
            f"{' and '.join(ORDERED)}"
        )
    elif model.channels % images:
        problems.append(
            f"config.model.channels={model.channels}: {images} images of a frame, with "
            f"config.data.neighbours, have {images} channels, or several times as many"
        )
    elif data.channels and (
        not all(isinstance(channel, int) for channel in data.channels)
        or len(set(data.channels)) != model.channels // images
        or min(data.channels) < 0
    ):
        each = " for each image" if data.neighbours else ""
        problems.append(
            f"config.data.channels={tuple(data.channels)}: take as many different "
            f"ones, from 0, as config.model.channels={model.channels} says{each}"
        )
    for name, numbers in (
        ("level", (data.level,)),
        ("times", data.times),
        ("slices", data.slices),
    ):
        are_numbers = all(type(n) is int and n >= 0 for n in numbers)
        if not are_numbers or len({*numbers}) != len(numbers):
            problems.append(
                f"config.data.{name}={data[name]}: whole numbers from 0, none twice"
            )
    if not 0 < data.border_sigma_px < math.inf:
        problems.append(
            f"config.data.border_sigma_px={data.border_sigma_px}: must be above 0 and "
            "finite"
        )
    if not problems:
        try:
            tiling.output_size(data.tile_size, model.depth)
        except ValueError as error:
            problems.append(f"config.data.tile_size: {error}")
    try:
        value_map.parse(data.mask_values)
    except UserError as error:
        problems += error.problems
    if LARGEST_ZOOM < data.augment.zoom < math.inf:
        problems.append(
            f"config.data.augment.zoom={data.augment.zoom}: the log of a factor; "
            f"{LARGEST_ZOOM} at most, which is {math.exp(LARGEST_ZOOM):.1f} times"
        )
    if data.targets not in TARGETS:
        problems.append(f"config.data.targets={data.targets!r}: {', '.join(TARGETS)}")
    if data.on_bad_frame not in ("fail", "skip"):
        problems.append(f"config.data.on_bad_frame={data.on_bad_frame!r}: fail or skip")
    if data.normalization not in ("frame", "dataset"):
        problems.append(
            f"config.data.normalization={data.normalization!r}: frame or dataset"
        )
    if data.image_encoding not in ENCODINGS:
        known = ", ".join(ENCODINGS)
        problems.append(
            f"config.data.image_encoding={data.image_encoding!r} is none of {known}"
        )
    elif data.image_encoding == "png" and model.channels not in (1, 3, 4):
        problems.append(
            f"config.data.image_encoding='png' cannot hold {model.channels} channels; "
            "use raw"
        )
    if weight_step(data.border_weight) >= 0.05:
        problems.append(
            f"config.data.border_weight={data.border_weight} is stored in steps of "
            f"{weight_step(data.border_weight):.3f}; 12.7 at most keeps them under 0.05"
        )
    if data.split.validation + data.split.test >= 1:
        problems.append(
            f"config.data.split: validation {data.split.validation} and test "
            f"{data.split.test} leave nothing to train on"
        )
    if problems:
        raise UserError(problems)


def data_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The part of a config that the shards depend on, as plain JSON values."""
    model = {name: config.model[name] for name in ("depth", "channels", "classes")}
    content = {"seed": config.seed, "data": config.data.to_dict(), "model": model}
    return later_settings.stripped(json_files.as_read(content))


def class_names(model: ml_collections.ConfigDict) -> list[str]:
    """Names of the classes, background first.

    >>> class_names(ml_collections.ConfigDict({"classes": 3}))
    ['background', 'class 1', 'class 2']
    """
    given = list(model.get("class_names", ()))
    return given or ["background", *(f"class {k}" for k in range(1, model.classes))]
