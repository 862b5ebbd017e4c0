"""What is known of a data set: inspections before, `dataset_info.json` after."""

import datetime
import importlib.metadata
import json
import platform
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from preprocess import tiling
from preprocess.errors import UserError
from preprocess.records import SCHEMA_VERSION, UNLABELLED, weight_step
from preprocess.shards import Shard, fingerprint
from preprocess.sources import Frame, check_frame, look_for_frames
from preprocess.splits import SPLITS
from preprocess.statistics import Moments, count_values, moments, pooled

SOFTWARE = ("unet-tfrecords", "apache-beam", "numpy", "opencv-python-headless")


class Inspection(NamedTuple):
    """What reading a frame once has shown.

    Attributes:
      frame: which.
      height, width: in px.
      bits: 8 or 16.
      classes: which occur among the labelled pixels.
      moments: of its pixels.
      problems: why it can't be used; empty where it can.
    """

    frame: Frame
    height: int = 0
    width: int = 0
    bits: int = 8
    classes: tuple[int, ...] = ()
    moments: Moments | None = None
    problems: tuple[str, ...] = ()


class Facts(NamedTuple):
    """What every shard must know of the whole data set.

    Attributes:
      bits: bits of a pixel, the most that any frame has.
      problems: why nothing can be made, of all frames.
      skipped: keys of frames that are left out because they can't be read.
      moments: of the training frames' pixels, to normalise all frames by; None where
        each frame has its own.
      digest: of config and source files; a shard of another digest is another shard.
    """

    bits: int
    problems: tuple[str, ...]
    skipped: frozenset[str]
    moments: Moments | None
    digest: str


def inspect(frame: Frame, config: ml_collections.ConfigDict) -> Inspection:
    """Reads a frame and its truth to the end and says what it found."""
    model = config.model
    try:
        image, truth = check_frame(
            frame, config.data, channels=model.channels, classes=model.classes
        )
    except UserError as error:
        return Inspection(frame, problems=tuple(error.problems))
    height, width = image.shape[:2]
    counts = count_values(truth.classes, UNLABELLED)[:UNLABELLED]
    return Inspection(
        frame,
        height,
        width,
        image.dtype.itemsize * 8,
        tuple(np.flatnonzero(counts).tolist()),
        moments(image),
    )


def data_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The part of a config that the shards depend on, as plain JSON values."""
    model = {name: config.model[name] for name in ("depth", "channels", "classes")}
    content = {"seed": config.seed, "data": config.data.to_dict(), "model": model}
    return json.loads(json.dumps(content))  # tuples to lists, as they will be read


def gather_facts(
    inspections: list[Inspection],
    digests: list[tuple[str, str]],
    strays: list[str],
    config: ml_collections.ConfigDict,
    *,
    folder: str,
) -> Facts:
    """Sums up all inspections, independent of their order.

    Args:
      inspections: of all frames.
      digests: (path, sha256) of all source files.
      strays: what is wrong with files that belong to no frame, a line each.
      config: the whole config.
      folder: the data set's: where it lies changes no shard.
    """
    good = [found for found in inspections if not found.problems]
    problems = {line for found in inspections for line in found.problems}
    problems |= set(strays)
    if config.data.on_bad_frame == "skip":
        problems = set()
    if not problems:
        problems |= set(_one_class(good))
    problems |= {*_same_images(good, dict(digests)), *_mixed_bits(good, config)}
    return Facts(
        max((found.bits for found in good), default=8),
        tuple(sorted(problems)),
        frozenset(found.frame.key for found in inspections if found.problems),
        _moments_to_normalise_by(good, config),
        fingerprint(
            [
                data_config(config),
                sorted((_relative(path, folder), digest) for path, digest in digests),
            ]
        ),
    )


def _moments_to_normalise_by(
    good: list[Inspection], config: ml_collections.ConfigDict
) -> Moments | None:
    """The whole data set's, if asked for; of training frames, so that none leaks."""
    train = [f.moments for f in good if f.frame.split == "train" and f.moments]
    return pooled(train) if train and config.data.normalization == "dataset" else None


def tiles_expected(
    inspections: list[Inspection], config: ml_collections.ConfigDict
) -> int:
    """How many tiles the good frames make."""
    data = config.data
    output = tiling.output_size(data.tile_size, config.model.depth)
    return sum(
        (data.augmentations if found.frame.split == "train" else 1)
        * len(tiling.tile_origins(found.height, output))
        * len(tiling.tile_origins(found.width, output))
        for found in inspections
        if not found.problems
    )


def _same_images(
    inspections: list[Inspection], digests: dict[str, str]
) -> Iterator[str]:
    """Images that lie in two splits under different names."""
    seen: dict[tuple[str, int], Frame] = {}
    for found in sorted(inspections, key=lambda found: found.frame.key):
        frame = found.frame
        first = seen.setdefault((digests[frame.image.path], frame.image.number), frame)
        if first.split != frame.split:
            yield (
                f"{frame.image} ({frame.split}) is a copy of {first.image} "
                f"({first.split}); remove one of them"
            )


def _mixed_bits(
    inspections: list[Inspection], config: ml_collections.ConfigDict
) -> Iterator[str]:
    """Frames whose intensities can't be pooled, because their scales differ."""
    depths = {found.bits: found.frame for found in inspections}
    if config.data.normalization == "dataset" and len(depths) > 1:
        yield (
            f"{depths[8].image} has 8 bits, {depths[16].image} 16: convert them, or "
            "use config.data.normalization='frame'"
        )


def _one_class(inspections: list[Inspection]) -> Iterator[str]:
    """Training frames from which nothing can be learned."""
    train = [found for found in inspections if found.frame.split == "train"]
    classes = {number for found in train for number in found.classes}
    if len(classes) < 2:
        there = ", ".join(map(str, sorted(classes))) or "none"
        yield (
            f"the {len(train)} training frames hold no two classes (only: {there}); "
            "see config.data.labels, or give frames with both"
        )


def geometry(config: ml_collections.ConfigDict, bits: int) -> dict[str, Any]:
    """What a reader must know to parse the records and to build a fitting model."""
    data, model = config.data, config.model
    return {
        "tile_size": data.tile_size,
        "output_size": tiling.output_size(data.tile_size, model.depth),
        "depth": model.depth,
        "channels": model.channels,
        "classes": model.classes,
        "bits": bits,
        "image_encoding": data.image_encoding,
        "weight_step": weight_step(data.border_weight),
    }


def dataset_info(
    shards: list[Shard],
    inspections: list[Inspection],
    digests: dict[str, str],
    facts: Facts,
    *,
    folder: str,
    config: ml_collections.ConfigDict,
) -> dict[str, Any]:
    """The content of `dataset_info.json`, independent of the order of its inputs."""
    found = look_for_frames(config.data, folder)
    skipped = _skipped_info(inspections, found.problems, digests, folder=folder)
    inspections = [found for found in inspections if not found.problems]
    inspections.sort(key=lambda found: found.frame.key)
    return {
        "schema_version": SCHEMA_VERSION,
        "config": data_config(config),
        "geometry": geometry(config, facts.bits),
        "normalization": _normalization_info(facts),
        "splits": {split: _split_info(split, shards, inspections) for split in SPLITS},
        "sources": [_source_info(found, digests, folder) for found in inspections],
        "skipped": skipped,
        "unlabelled_images": found.unlabelled,
        "software": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in SOFTWARE},
        },
        "times": {"finished": datetime.datetime.now(datetime.timezone.utc).isoformat()},
    }


def _split_info(
    split: str, shards: list[Shard], inspections: list[Inspection]
) -> dict[str, Any]:
    own = sorted((s for s in shards if s.split == split), key=lambda s: s.name)
    classes = [
        sum(column) for column in zip(*(s.class_pixels for s in own), strict=True)
    ]
    return {
        "frames": [f.frame.key for f in inspections if f.frame.split == split],
        "num_tiles": sum(shard.records for shard in own),
        "num_bytes": sum(shard.bytes for shard in own),
        "class_pixels": classes,
        "shards": [
            {key: value for key, value in shard._asdict().items() if key != "split"}
            for shard in own
        ],
    }


def _normalization_info(facts: Facts) -> dict[str, Any] | None:
    """Mean and deviation of each channel over the data set, if they are what is used.

    Attributes in raw intensities of `geometry.bits` bits.
    """
    if not facts.moments:
        return None
    return {"mean": facts.moments.mean.tolist(), "std": facts.moments.std.tolist()}


def _skipped_info(
    inspections: list[Inspection],
    strays: list[str],
    digests: dict[str, str],
    *,
    folder: str,
) -> list[dict[str, Any]]:
    """What was left out and why: bad frames with their files, then stray files."""
    bad = sorted((f for f in inspections if f.problems), key=lambda f: f.frame.key)
    entries = [
        {
            "frame": found.frame.key,
            "reasons": [_relative(line, folder) for line in found.problems],
            "files": _file_infos(found.frame, digests, folder),
        }
        for found in bad
    ]
    reasons = sorted(_relative(line, folder) for line in strays)
    return entries + [{"frame": "", "reasons": [r], "files": []} for r in reasons]


def _relative(text: str, folder: str) -> str:
    """A text without the way to the data set: the same wherever that lies."""
    return text.replace(folder.rstrip("/") + "/", "")


def _file_infos(
    frame: Frame, digests: dict[str, str], folder: str
) -> list[dict[str, Any]]:
    return [
        {
            "path": _relative(page.path, folder),
            "page": page.number,
            "sha256": digests.get(page.path, ""),  # "": a bad frame's, unreadable
        }
        for page in frame.pages
    ]


def _source_info(
    found: Inspection, digests: dict[str, str], folder: str
) -> dict[str, Any]:
    frame = found.frame
    return {
        "frame": frame.key,
        "split": frame.split,
        "height": found.height,
        "width": found.width,
        "files": _file_infos(frame, digests, folder),
    }
