"""Describes a finished job: the contents of `dataset_info.json`."""

import datetime
import importlib.metadata
import platform
from collections.abc import Iterable

import ml_collections

from preprocess.inspection import DatasetSummary, Inspection, relative
from unet_tfrecords.dataset import tiling
from unet_tfrecords.dataset.data_settings import data_config
from unet_tfrecords.dataset.dataset_info import (
    DatasetInfo,
    Normalization,
    Note,
    Shard,
    Skipped,
    Source,
    SourceFile,
    SourcePart,
    Split,
)
from unet_tfrecords.dataset.records import Geometry, weight_step
from unet_tfrecords.dataset.splits import SPLITS
from unet_tfrecords.dataset.targets import TARGETS

SOFTWARE = ("unet-tfrecords", "apache-beam", "numpy", "opencv-python-headless")


def describe(
    shards: Iterable[Shard],
    sources: Iterable[Source],
    parts: Iterable[SourcePart],
    skipped: Iterable[Skipped],
    facts: DatasetSummary,
    *,
    unlabelled: int,
    labels_reason: str,
    config: ml_collections.ConfigDict,
) -> DatasetInfo:
    """Describes a data set, independent of the order of its parts.

    Args:
      shards: all of them.
      sources: of each good frame; none where they are in `parts`.
      parts: files with the sources of a large data set.
      skipped: what was left out.
      facts: of the whole data set.
      unlabelled: number of images without labels.
      labels_reason: why masks are read as they are.
      config: the whole config.
    """
    moments, data, model = facts.moments, config.data, config.model
    return DatasetInfo(
        config=data_config(config),
        geometry=Geometry(
            tile_size=data.tile_size,
            output_size=tiling.output_size(data.tile_size, model.depth),
            depth=model.depth,
            channels=model.channels,
            classes=model.classes,
            bits=16 if facts.bits == 16 else 8,
            image_encoding=data.image_encoding,
            weight_step=weight_step(data.border_weight),
            planes=TARGETS[data.targets].PLANES,
        ),
        normalization=Normalization(
            tuple(moments.mean.tolist()), tuple(moments.std.tolist())
        )
        if moments
        else None,
        splits={
            split: _split(
                [shard for shard in shards if shard.split == split],
                facts.frames.get(split, 0),
            )
            for split in SPLITS
        },
        sources=tuple(sorted(sources, key=lambda source: source.frame)),
        source_parts=tuple(sorted(parts)),
        # Bad frames with their files, then files that belong to none.
        skipped=tuple(sorted(skipped, key=lambda s: (not s.frame, s.frame, s.reasons))),
        unlabelled_images=unlabelled,
        labels_reason=labels_reason,
        notes=tuple(Note(text, *of) for text, of in sorted(facts.notes.items())),
        software={
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in SOFTWARE},
        },
        times={"finished": datetime.datetime.now(datetime.UTC).isoformat()},
    )


def _split(shards: list[Shard], frames: int) -> Split:
    columns = zip(*(shard.class_pixels for shard in shards), strict=True)
    return Split(
        num_frames=frames,
        num_tiles=sum(shard.records for shard in shards),
        num_bytes=sum(shard.bytes for shard in shards),
        class_pixels=tuple(sum(column) for column in columns),
        shards=tuple(sorted(shards)),
    )


def source_of(inspected: Inspection, folder: str) -> Source:
    """Returns what a good frame is made from."""
    return Source(
        inspected.frame.key,
        inspected.frame.split,
        inspected.height,
        inspected.width,
        _files_of(inspected, folder),
    )


def skipped_of(inspected: Inspection, folder: str) -> Skipped:
    """Returns why a frame was left out, and its files."""
    reasons = tuple(relative(line, folder) for line in inspected.problems)
    return Skipped(inspected.frame.key, reasons, _files_of(inspected, folder))


def stray_of(problem: str, folder: str) -> Skipped:
    """Returns the same for a file that belongs to no frame."""
    return Skipped("", (relative(problem, folder),), ())


def _files_of(inspected: Inspection, folder: str) -> tuple[SourceFile, ...]:
    pages = inspected.frame.pages
    return tuple(
        SourceFile(relative(page.path, folder), page.number, digest, page.window)
        for page, digest in zip(pages, inspected.digests, strict=True)
    )
