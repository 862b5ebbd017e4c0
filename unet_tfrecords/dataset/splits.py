"""Which frames are trained on and which are not, decided before anything else.

Neighbouring video frames and tissue slices are near copies, so a split never takes
single frames at random: it takes whole sequences, contiguous blocks of each sequence,
or the frames that the user lists.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import ml_collections

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images.frames import Frame

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
        `test`), "sequence" (whole sequences named in `validation_sequences` and
        `test_sequences`), "list" (single frames named in `validation_frames` and
        `test_frames`) or "fold" (block `fold` of `folds` of each sequence is test, the
        next one validation).

    Raises:
      UserError: an unknown method or sequence, or nothing left to train on.
    """
    if split.method not in METHODS:
        known = ", ".join(METHODS)
        raise UserError(f"config.data.split.method={split.method!r} is none of {known}")
    assigned = METHODS[split.method](frames, split)
    if not any(frame.split == "train" for frame in assigned):
        raise UserError(
            f"{len(frames)} frames leave none to train on; "
            "see config.data.split or add frames"
        )
    return assigned


def _by_block(frames: Sequence[Frame], split) -> list[Frame]:
    fractions = {"validation": split.validation, "test": split.test}

    def splits_of(num_frames: int) -> list[str]:
        sizes = block_sizes(num_frames, fractions)
        return [name for name in SPLITS for _ in range(sizes[name])][-num_frames:]

    return _sequence_by_sequence(frames, splits_of)


def _by_fold(frames: Sequence[Frame], split) -> list[Frame]:
    folds = split.folds
    if not 0 <= split.fold < folds or folds < 3:
        raise UserError(
            f"config.data.split.fold={split.fold} of folds={folds}: at least 3 folds, "
            "counted from 0"
        )

    def splits_of(num_frames: int) -> list[str]:
        if num_frames < folds:
            raise UserError(
                f"config.data.split.folds={folds}: a sequence has {num_frames} frames"
            )
        roles = {split.fold: "test", (split.fold + 1) % folds: "validation"}
        blocks = [index * folds // num_frames for index in range(num_frames)]
        return [roles.get(block, "train") for block in blocks]

    return _sequence_by_sequence(frames, splits_of)


def _sequence_by_sequence(
    frames: Sequence[Frame], splits_of: Callable[[int], list[str]]
) -> list[Frame]:
    """Gives each sequence's frames the splits that its length asks for."""
    assigned = []
    for _, group in itertools.groupby(frames, key=lambda frame: frame.sequence):
        sequence = list(group)
        assigned += [
            dataclasses.replace(frame, split=name)
            for frame, name in zip(sequence, splits_of(len(sequence)), strict=True)
        ]
    return assigned


def _by_sequence(frames: Sequence[Frame], split) -> list[Frame]:
    names = {"validation": split.validation_sequences, "test": split.test_sequences}
    return _by_name(frames, names, "sequence", lambda frame: frame.sequence)


def _by_list(frames: Sequence[Frame], split) -> list[Frame]:
    names = {"validation": split.validation_frames, "test": split.test_frames}
    return _by_name(frames, names, "frame", lambda f: f"{f.sequence}/{f.name}")


def _by_name(
    frames: Sequence[Frame],
    names: dict[str, tuple[str, ...]],
    kind: str,
    name_of: Callable[[Frame], str],
) -> list[Frame]:
    """Puts what is named into its split, and everything else into train."""
    chosen: dict[str, str] = {}
    for split, listed in names.items():
        for name in map(str, listed):
            if chosen.setdefault(name, split) != split:
                raise UserError(f"config.data.split: {kind} {name} is in two splits")
    there = {name_of(frame) for frame in frames}
    if unknown := sorted(chosen.keys() - there):
        some = ", ".join(sorted(there)[:10])
        raise UserError(
            f"config.data.split names {kind} {', '.join(unknown)}; there is {some}"
        )
    return [
        dataclasses.replace(frame, split=chosen.get(name_of(frame), "train"))
        for frame in frames
    ]


METHODS = {
    "block": _by_block,
    "sequence": _by_sequence,
    "list": _by_list,
    "fold": _by_fold,
}
