"""What every shard must know of the whole data set, added up frame by frame.

Totals take frames in any order, on any number of workers, and give the same result.
"""

import collections
import dataclasses
import hashlib
import heapq
import json
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import ml_collections
import numpy as np

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset import tiling
from unet_tfrecords.dataset.data_settings import data_config
from unet_tfrecords.dataset.images.frames import Frame
from unet_tfrecords.dataset.images.layouts import check_frame
from unet_tfrecords.dataset.pixel_statistics import (
    Moments,
    count_values,
    moments,
    pooled,
)
from unet_tfrecords.dataset.records import UNLABELLED
from unet_tfrecords.storage import json_files

MOST_PROBLEMS = 1000  # that are listed; nobody reads on


class Inspection(NamedTuple):
    """What reading a frame once has shown.

    Attributes:
      frame: which.
      height, width: in px.
      bits: 8 or 16.
      classes: which occur among the labelled pixels.
      moments: of its pixels.
      problems: why it can't be used; empty where it can.
      digests: sha256 of each of its files.
      notes: what its owner should look at.
      pixels: sha256 of the image's, whatever file they are in.
    """

    frame: Frame
    height: int = 0
    width: int = 0
    bits: int = 8
    classes: tuple[int, ...] = ()
    moments: Moments | None = None
    problems: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    pixels: str = ""


class DatasetSummary(NamedTuple):
    """What every shard must know of the whole data set.

    Attributes:
      bits: bits of a pixel, the most that any frame has.
      problems: why nothing can be made, of all frames.
      skipped: keys of frames that are left out because they can't be read.
      moments: of the training frames' pixels, to normalise all frames by; None where
        each frame has its own.
      digest: of config and source files; a shard of another digest is another shard.
      frames: how many good ones each split has.
      tiles: how many they make.
      notes: what their owner should look at: of how many frames, and a file of one.
    """

    bits: int
    problems: tuple[str, ...]
    skipped: frozenset[str]
    moments: Moments | None
    digest: str
    frames: dict[str, int]
    tiles: int
    notes: dict[str, tuple[int, str]]


def inspect(frame: Frame, config: ml_collections.ConfigDict) -> Inspection:
    """Reads a frame and its truth to the end and says what it found."""
    model, notes = config.model, list[str]()
    try:
        image, truth = check_frame(
            frame,
            config.data,
            channels=model.channels,
            classes=model.classes,
            notes=notes,
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
        notes=tuple(notes),
        pixels=_pixels_of(image[..., : image.shape[2] // len(frame.images)]),
    )


def _pixels_of(image: np.ndarray) -> str:
    digest = hashlib.sha256(f"{image.shape} {image.dtype}".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


@dataclasses.dataclass
class FrameTotals:
    """What facts are made of; of some frames, or of all.

    Attributes:
      frames: good ones, by split.
      tiles: that they make.
      bits: an example of the frames of 8 and of 16 bits, the first by key.
      classes: that occur in training frames.
      moments: of training frames, where all frames are normalised by them.
      skipped: keys of bad frames, where those are left out.
      problems: of bad frames, the first `MOST_PROBLEMS` or twice as many.
      num_problems: of all of them.
      digest: of the frames' files: a sum, so that their order does not matter.
      notes: the number of frames with each, and a file of the first by key.
    """

    frames: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter
    )
    tiles: int = 0
    bits: dict[int, tuple[str, str]] = dataclasses.field(default_factory=dict)
    classes: set[int] = dataclasses.field(default_factory=set)
    moments: Moments | None = None
    skipped: set[str] = dataclasses.field(default_factory=set)
    problems: set[str] = dataclasses.field(default_factory=set)
    num_problems: int = 0
    digest: int = 0
    notes: dict[str, tuple[int, str]] = dataclasses.field(default_factory=dict)

    def add(self, other: "FrameTotals") -> None:
        """Adds totals of other frames, in any order and grouping."""
        self.frames += other.frames
        self.tiles += other.tiles
        for bits, example in other.bits.items():
            self.bits[bits] = min(self.bits.get(bits, example), example)
        self.classes |= other.classes
        if other.moments:
            known = [self.moments] if self.moments else []
            self.moments = pooled([*known, other.moments])
        self.skipped |= other.skipped
        self.problems |= other.problems
        self.num_problems += other.num_problems
        self.digest = (self.digest + other.digest) % 2**256
        for text, (number, name) in other.notes.items():
            before = self.notes.get(text, (0, name))
            self.notes[text] = before[0] + number, min(before[1], name)
        if len(self.problems) > 2 * MOST_PROBLEMS:
            self.problems = set(heapq.nsmallest(MOST_PROBLEMS, self.problems))


def totals_of(
    source: Inspection, config: ml_collections.ConfigDict, folder: str
) -> FrameTotals:
    """Totals of one frame.

    Args:
      source: the frame.
      config: the whole config.
      folder: the data set's: where it lies changes no shard.
    """
    frame, totals = source.frame, FrameTotals(digest=_digest_of(source, folder))
    if source.problems:
        totals.problems = set(source.problems)
        totals.num_problems = len(totals.problems)
        if config.data.on_bad_frame == "skip":
            totals.skipped = {frame.key}
        return totals
    totals.frames[frame.split] = 1
    totals.tiles = tiles_of(source, config)
    totals.bits = {source.bits: (frame.key, str(frame.image))}
    name = relative(str(frame.image), folder)
    totals.notes = {kind_of_note(text): (1, name) for text in source.notes}
    if frame.split == "train":
        totals.classes = set(source.classes)
        if config.data.normalization == "dataset":
            totals.moments = source.moments
    return totals


def kind_of_note(text: str) -> str:
    """A note without what is one file's own, so that equal ones are counted.

    >>> kind_of_note("outliers are clipped: from 1 to 9")
    'outliers are clipped'
    """
    return text.partition(":")[0]


def _digest_of(source: Inspection, folder: str) -> int:
    pages = source.frame.pages
    content = [
        [relative(page.path, folder), page.number, digest, *(page.window or ())]
        for page, digest in zip(pages, source.digests, strict=True)
    ]
    return int.from_bytes(hashlib.sha256(json.dumps(content).encode()).digest(), "big")


def relative(text: str, folder: str) -> str:
    """A path, or a line with paths, without the way to the data set.

    >>> relative("/a/b.tif: not of /a/c.tif", "/a"), relative("/SEG/1_GT/SEG/x", "/SEG")
    ('b.tif: not of c.tif', '1_GT/SEG/x')
    """
    return re.sub(rf"(?<!\S){re.escape(folder.rstrip('/') + '/')}", "", text)


def tiles_of(found: Inspection, config: ml_collections.ConfigDict) -> int:
    """How many tiles a good frame makes."""
    data = config.data
    output = tiling.output_size(data.tile_size, config.model.depth)
    return (
        (data.augmentations if found.frame.split == "train" else 1)
        * len(tiling.tile_origins(found.height, output))
        * len(tiling.tile_origins(found.width, output))
    )


def copies_in(sources: Iterable[Inspection]) -> Iterator[str]:
    """Images of one content that lie in two splits under different names, a line each.

    Args:
      sources: whose images' pixels have digests that begin alike.
    """
    firsts: dict[str, Frame] = {}
    for source in sorted(sources, key=lambda source: source.frame.key):
        frame = source.frame
        first = firsts.setdefault(source.pixels, frame)
        in_one_file = frame.image.path == first.image.path  # a video may stand still
        if frame.split != first.split and not in_one_file:
            yield (
                f"{frame.image} ({frame.split}) is a copy of {first.image} "
                f"({first.split}); remove one of them"
            )


def conclude(
    sums: FrameTotals,
    copies: Iterable[str],
    strays: Iterable[str],
    config: ml_collections.ConfigDict,
) -> DatasetSummary:
    """The facts.

    Args:
      sums: of all frames.
      copies: images that lie in two splits, a line each.
      strays: what is wrong with files that belong to no frame, a line each.
      config: the whole config.
    """
    problems: set[str] = set()
    more = 0
    if config.data.on_bad_frame != "skip":
        kept = heapq.nsmallest(MOST_PROBLEMS, sums.problems)
        more = sums.num_problems - len(kept) if len(kept) == MOST_PROBLEMS else 0
        problems = {*kept, *strays}
    elif not sums.frames.get("train"):  # nothing is left: this is why
        problems = set(heapq.nsmallest(MOST_PROBLEMS, sums.problems))
    if not problems:
        problems |= set(_one_class(sums))
    problems |= {*copies, *_mixed_bits(sums, config)}
    lines = sorted(problems) + ([f"and up to {more} more like these"] if more else [])
    return DatasetSummary(
        max(sums.bits, default=8),
        tuple(lines),
        frozenset(sums.skipped),
        sums.moments,
        json_files.fingerprint([data_config(config), f"{sums.digest:064x}"]),
        sums.frames,
        sums.tiles,
        sums.notes,
    )


def _mixed_bits(sums: FrameTotals, config: ml_collections.ConfigDict) -> Iterator[str]:
    """Frames whose intensities can't be pooled, because their scales differ."""
    if config.data.normalization == "dataset" and len(sums.bits) > 1:
        yield (
            f"{sums.bits[8][1]} has 8 bits, {sums.bits[16][1]} 16: convert them, or "
            "use config.data.normalization='frame'"
        )


def _one_class(sums: FrameTotals) -> Iterator[str]:
    """Training frames from which nothing can be learned."""
    if len(sums.classes) < 2:
        there = ", ".join(map(str, sorted(sums.classes))) or "none"
        yield (
            f"the {sums.frames.get('train', 0)} training frames hold no two classes "
            f"(only: {there}); see config.data.labels and config.data.mask_values, or "
            "give frames with both"
        )
