"""Which frames are trained on and which are not, decided before anything else.

Neighbouring video frames and tissue slices are near copies, so a split never takes
single frames at random: it takes whole sequences, or one contiguous block at the end
of each sequence.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import ml_collections

from preprocess.errors import UserError
from preprocess.sources import Frame

SPLITS = ("train", "validation", "test")


def block_sizes(num_frames: int, fractions: dict[str, float]) -> dict[str, int]:
    """Frames of each split in a sequence, the held-out ones rounded, at least one.

    >>> block_sizes(20, {"validation": 0.15, "test": 0.25})
    {'train': 12, 'validation': 3, 'test': 5}
    """
    held_out = {
        split: max(1, round(num_frames * fraction)) if fraction else 0
        for split, fraction in fractions.items()
    }
    return {"train": num_frames - sum(held_out.values()), **held_out}


def assign_splits(
    frames: Sequence[Frame], split: ml_collections.ConfigDict
) -> list[Frame]:
    """Gives every frame its split.

    Args:
      frames: in order of sequence and name.
      split: `method` is "block" (the end of each sequence: fractions `validation` and
        `test`) or "sequence" (whole sequences named in `validation_sequences` and
        `test_sequences`).

    Raises:
      UserError: an unknown method or sequence, or nothing left to train on.
    """
    if split.method == "block":
        assigned = _by_block(frames, split)
    elif split.method == "sequence":
        assigned = _by_sequence(frames, split)
    else:
        raise UserError(
            f"config.data.split.method={split.method!r} is none of block, sequence"
        )
    if not any(frame.split == "train" for frame in assigned):
        raise UserError(
            f"{len(frames)} frames leave none to train on; "
            "see config.data.split or add frames"
        )
    return assigned


def _by_block(frames: Sequence[Frame], split) -> list[Frame]:
    fractions = {"validation": split.validation, "test": split.test}
    assigned = []
    for _, group in itertools.groupby(frames, key=lambda frame: frame.sequence):
        sequence = list(group)
        sizes = block_sizes(len(sequence), fractions)
        names = [name for name in SPLITS for _ in range(sizes[name])]
        assigned += [
            dataclasses.replace(frame, split=name)
            for frame, name in zip(sequence, names[-len(sequence) :], strict=True)
        ]
    return assigned


def _by_sequence(frames: Sequence[Frame], split) -> list[Frame]:
    chosen = {str(name): "validation" for name in split.validation_sequences}
    chosen |= {str(name): "test" for name in split.test_sequences}
    there = {frame.sequence for frame in frames}
    if unknown := sorted(chosen.keys() - there):
        raise UserError(
            f"config.data.split names sequences {', '.join(unknown)}; "
            f"there is {', '.join(sorted(there))}"
        )
    return [
        dataclasses.replace(frame, split=chosen.get(frame.sequence, "train"))
        for frame in frames
    ]
