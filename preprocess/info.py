"""`dataset_info.json`: what a finished data set says of itself."""

import datetime
import importlib.metadata
import platform
from collections.abc import Iterable
from typing import Any

import ml_collections

from preprocess.inspection import Facts, Source, relative
from unet_tfrecords.dataset import tiling
from unet_tfrecords.dataset.data_settings import data_config
from unet_tfrecords.dataset.records import SCHEMA_VERSION, weight_step
from unet_tfrecords.dataset.shards import Shard, SourcePart
from unet_tfrecords.dataset.splits import SPLITS
from unet_tfrecords.storage import json_files

SOFTWARE = ("unet-tfrecords", "apache-beam", "numpy", "opencv-python-headless")


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
    shards: Iterable[Shard],
    sources: Iterable[dict[str, Any]],
    parts: Iterable[SourcePart],
    skipped: Iterable[dict[str, Any]],
    facts: Facts,
    *,
    unlabelled: int,
    config: ml_collections.ConfigDict,
) -> dict[str, Any]:
    """The content of `dataset_info.json`, independent of the order of its inputs.

    Args:
      shards: all of them.
      sources: what `source_info` says of each good frame; none where they lie in parts.
      parts: the files in which they lie, where they are many.
      skipped: what `skipped_info` says of what was left out.
      facts: of the whole data set.
      unlabelled: images that nobody labelled.
      config: the whole config.
    """
    content = {
        "schema_version": SCHEMA_VERSION,
        "config": data_config(config),
        "geometry": geometry(config, facts.bits),
        "normalization": _normalization_info(facts),
        "splits": {
            split: _split_info(split, shards, facts.frames.get(split, 0))
            for split in SPLITS
        },
        "sources": sorted(sources, key=lambda source: source["frame"]),
        "source_parts": [part._asdict() for part in sorted(parts)],
        # Bad frames with their files, then files that belong to none.
        "skipped": sorted(
            skipped, key=lambda s: (not s["frame"], s["frame"], s["reasons"])
        ),
        "unlabelled_images": unlabelled,
        "software": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in SOFTWARE},
        },
        "times": {"finished": datetime.datetime.now(datetime.timezone.utc).isoformat()},
    }
    return json_files.sealed(json_files.as_read(content))  # of what will be read


def _split_info(split: str, shards: Iterable[Shard], frames: int) -> dict[str, Any]:
    own = sorted((s for s in shards if s.split == split), key=lambda s: s.name)
    classes = [
        sum(column) for column in zip(*(s.class_pixels for s in own), strict=True)
    ]
    return {
        "num_frames": frames,
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


def skipped_info(source: Source, folder: str) -> dict[str, Any]:
    """Why a frame was left out, and its files."""
    return {
        "frame": source.found.frame.key,
        "reasons": [relative(line, folder) for line in source.found.problems],
        "files": _file_infos(source, folder),
    }


def stray_info(problem: str, folder: str) -> dict[str, Any]:
    """The same of a file that belongs to no frame."""
    return {"frame": "", "reasons": [relative(problem, folder)], "files": []}


def source_info(source: Source, folder: str) -> dict[str, Any]:
    """What a good frame is made from."""
    found, frame = source.found, source.found.frame
    return {
        "frame": frame.key,
        "split": frame.split,
        "height": found.height,
        "width": found.width,
        "files": _file_infos(source, folder),
    }


def _file_infos(source: Source, folder: str) -> list[dict[str, Any]]:
    pages = source.found.frame.pages
    return [
        {"path": relative(page.path, folder), "page": page.number, "sha256": digest}
        for page, digest in zip(pages, source.digests, strict=True)
    ]
