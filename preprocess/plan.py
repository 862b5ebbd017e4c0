"""The plan: which frame, which augmentation, which shard; from identity alone.

Nothing here depends on a worker, on time or on the order in which things happen, so
every runner makes the same bytes.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from preprocess.sources import Frame

MOST_TOGETHER = 4  # units of a frame in a row: the trainer's shuffle spreads them


class Unit(NamedTuple):
    """One augmentation of one frame: the smallest piece of work.

    Attributes:
      frame: where the pixels and labels are.
      augmentation: 0 is the frame unchanged.
      shard, num_shards: which of how many shards of the frame's split.

    >>> from preprocess.images import Page
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


def identity_seed(identity: str, base_seed: int) -> int:
    """A 64-bit seed from a readable identity and the config's seed.

    >>> identity_seed("HeLa/01/t012/a03", 1) != identity_seed("HeLa/01/t012/a04", 1)
    True
    """
    digest = hashlib.sha256(f"{base_seed}:{identity}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def plan_units(
    frames: Sequence[Frame], *, augmentations: int, num_shards: int, seed: int
) -> list[Unit]:
    """All units of one split.

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
    return [
        Unit(
            frame,
            index,
            (rank * augmentations + index) // together % shards,
            shards,
        )
        for rank, frame in enumerate(ranked)
        for index in range(augmentations)
    ]


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
