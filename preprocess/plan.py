"""The plan: which frame, which augmentation, which shard; from identity alone.

Nothing here depends on a worker, on time or on the order in which things happen, so
every runner makes the same bytes.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import ml_collections
import msgspec

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset import splits
from unet_tfrecords.dataset.images.frames import PAGES, Frame, FrameListing
from unet_tfrecords.dataset.images.layouts import (
    look_at_masks,
    look_for_frames,
    settle_labels,
)
from unet_tfrecords.dataset.images.overview import overview
from unet_tfrecords.dataset.images.pages import Page, stamp_of
from unet_tfrecords.dataset.seeds import identity_seed
from unet_tfrecords.storage import files

PLAN_NAME = files.TEMPORARY + "plan"
PLAN_ENDING = ".jsonl"
FRAMES_A_FILE = 10_000  # some 4 MB: what one worker takes at a time
MOST_TOGETHER = 4  # units of a frame in a row: the trainer's shuffle spreads them


class Unit(NamedTuple):
    """One augmentation of one frame: the smallest piece of work.

    Attributes:
      frame: where the pixels and labels are.
      augmentation: 0 is the frame unchanged.
      shard, num_shards: which of how many shards of the frame's split.

    >>> from unet_tfrecords.dataset.images.pages import Page
    >>> frame = Frame("HeLa", "01", "t012", "ctc", Page("01/t012.tif"), split="train")
    >>> Unit(frame, 3, shard=0, num_shards=4).key
    'HeLa/01/t012/a03'
    """

    frame: Frame
    augmentation: int
    shard: int
    num_shards: int

    @property
    def key(self) -> str:
        return f"{self.frame.key}/a{self.augmentation:02d}"


class PlannedFrame(NamedTuple):
    """A frame and where its units go.

    Attributes:
      frame: with its split.
      augmentations: units of it, the unchanged one included.
      first: the number of its first unit among its split's.
      together: units in a row that one shard is given.
      num_shards: of its split.
    """

    frame: Frame
    augmentations: int
    first: int
    together: int
    num_shards: int

    def units(self) -> Iterator[Unit]:
        for index in range(self.augmentations):
            shard = (self.first + index) // self.together % self.num_shards
            yield Unit(self.frame, index, shard, self.num_shards)


def plan_dataset(
    folder: str,
    config: ml_collections.ConfigDict,
    show: Callable[[str], None] | None = None,
) -> FrameListing:
    """All frames of the data set in a folder, each with its split.

    What the config leaves open of the masks is settled by looking at them.

    Args:
      folder: local or remote.
      config: the whole config, whose `data.labels` is settled.
      show: takes a table of what was found.

    Raises:
      UserError: no frames, or no splits as the config wants them. Files that belong to
        no frame are reported together with what is wrong in the frames.
    """
    found = look_for_frames(config.data, folder)
    if not found.frames:
        raise UserError(found.problems)
    try:
        frames = splits.assign_splits(
            found.frames, config.data.split, grouped=bool(config.data.group)
        )
    except UserError as error:
        raise UserError([*error.problems, *found.problems]) from error
    masks = []
    if config.data.layout == "folder" or show:
        masks = look_at_masks(config.data, frames)
    if show:
        show(overview(found, masks))
    reading = settle_labels(config.data, frames, masks, config.model.classes)
    return found._replace(frames=frames, labels_reason=reading)


def plan_all(
    frames: Iterable[Frame], config: ml_collections.ConfigDict
) -> Iterator[PlannedFrame]:
    """Where the units of all splits go."""
    by_split: dict[str, list[Frame]] = {split: [] for split in splits.SPLITS}
    for frame in frames:
        by_split[frame.split].append(frame)
    for split, own in by_split.items():
        yield from plan_frames(
            own,
            # Only training frames are augmented.
            augmentations=config.data.augmentations if split == "train" else 1,
            num_shards=config.data.num_shards,
            seed=config.seed,
        )


def plan_frames(
    frames: Sequence[Frame], *, augmentations: int, num_shards: int, seed: int
) -> Iterator[PlannedFrame]:
    """Where the units of one split go.

    Frames are ranked by a hash of their identity and their units dealt out in turn:
    mixed like a hash's choice of shard, but even. A shard is given some augmentations
    of a frame at a time, because then the frame is read once for all of them.

    Args:
      frames: the frames of one split.
      augmentations: units per frame, the unchanged one included.
      num_shards: the most shards that the split may have; none is left empty.
      seed: the config's seed.
    """
    ranked = sorted(frames, key=lambda frame: identity_seed(frame.key, seed))
    shards = min(num_shards, len(frames) * augmentations)
    together = units_together(len(frames) * augmentations, shards)
    for rank, frame in enumerate(ranked):
        yield PlannedFrame(frame, augmentations, rank * augmentations, together, shards)


def write_plan(
    output: str, planned: Iterable[PlannedFrame], number: int, parts: int, job: str = ""
) -> list[str]:
    """Writes a plan as files, for any number of workers; returns their paths.

    Args:
      output: the folder where they go, and stay until the job is done.
      planned: frame by frame, as they are made.
      number: how many.
      parts: at least N files, if there are as many frames.
      job: in their names, so that jobs on one bucket leave each other's alone.
    """
    of_each = max(1, min(FRAMES_A_FILE, -(-number // parts)))
    planned, paths = iter(planned), list[str]()
    while chunk := list(itertools.islice(planned, of_each)):
        path = files.join(output, f"{PLAN_NAME}{job}-{len(paths):05d}{PLAN_ENDING}")
        lines = (json.dumps(msgspec.to_builtins(_stamped(each))) for each in chunk)
        content = "".join(f"{line}\n" for line in lines).encode()
        digest = hashlib.sha256(content).hexdigest().encode()
        files.write_bytes(path, digest + b"\n" + content)
        paths.append(path)
    return paths


def read_plan(path: str) -> Iterator[PlannedFrame]:
    """The frames that one of those files holds.

    Raises:
      UserError: it is gone, or not as it was written.
    """
    try:
        content = files.read_bytes(path)
    except FileNotFoundError:
        raise UserError(
            f"{path}: gone, perhaps cleared up by another job; run this again to go on"
        ) from None
    digest, _, content = content.partition(b"\n")
    if digest != hashlib.sha256(content).hexdigest().encode():
        raise UserError(f"{path}: damaged; run this again to go on")
    for line in content.splitlines():
        yield msgspec.convert(json.loads(line), PlannedFrame)


def _stamped(planned: PlannedFrame) -> PlannedFrame:
    frame = planned.frame
    found = ((name, getattr(frame, name)) for name in PAGES)
    pages: dict[str, Any] = {name: _with_stamp(page) for name, page in found if page}
    for name in ("objects", "neighbours"):
        pages[name] = tuple(map(_with_stamp, getattr(frame, name)))
    return planned._replace(frame=dataclasses.replace(frame, **pages))


def _with_stamp(page: Page) -> Page:
    with contextlib.suppress(OSError):  # the job reports what is wrong
        return page._replace(stamp=stamp_of(page.path))
    return page


def units_together(units: int, shards: int) -> int:
    """How many units are dealt at a time: few enough that shards stay even and mixed.

    >>> units_together(240, 8), units_together(20, 8), units_together(10**6, 16)
    (3, 1, 4)
    """
    return min(MOST_TOGETHER, max(1, units // (8 * max(1, shards))))


def in_order(units: Iterable[Unit], seed: int) -> list[Unit]:
    """The order in which the units of one shard stand in it, a frame's in a row.

    Each shard has its own order of frames: shards are read side by side.
    """
    return sorted(
        units,
        key=lambda unit: (
            identity_seed(f"{unit.frame.key}/{unit.shard}", seed),
            identity_seed(unit.key, seed),
        ),
    )
