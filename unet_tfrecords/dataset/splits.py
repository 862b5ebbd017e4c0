"""Which frames are trained on and which are not, decided before anything else.

Neighbouring video frames and tissue slices are near copies, so a split never takes
single frames at random: it takes whole sequences, contiguous blocks of each sequence,
or the frames that the user lists.
"""

import collections
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
    frames: Sequence[Frame], split: ml_collections.ConfigDict, *, grouped: bool = False
) -> list[Frame]:
    """Gives every frame its split.

    Args:
      frames: in order of sequence and name.
      split: `method` is "block" (the end of each sequence: fractions `validation` and
        `test`), "sequence" (whole sequences, those named in `validation_sequences` and
        `test_sequences`, or the last ones until they have those fractions of all
        frames), "list" (single frames named in `validation_frames` and `test_frames`),
        "fold" (block `fold` of `folds` of each sequence is test, the next one
        validation) or "auto".
      grouped: whether sequences are groups, which must not be divided: auto is then
        "sequence", else "block"; and folds are of whole sequences.

    Raises:
      UserError: an unknown method or sequence, or nothing left to train on.
    """
    method = split.method
    if method == "auto":
        method = "sequence" if grouped else "block"
    if method not in METHODS:
        known = ", ".join(METHODS)
        raise UserError(f"config.data.split.method={method!r} is none of {known}, auto")
    if grouped and method in DIVIDING:
        raise UserError(
            f"config.data.split.method={method!r} would divide the groups of "
            "config.data.group; use sequence, fold or auto"
        )
    if grouped and method == "fold":
        assigned = _by_fold_of_groups(frames, split)
    else:
        assigned = METHODS[method](frames, split)
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
    def splits_of(num_frames: int) -> list[str]:
        return _splits_of_folds(num_frames, split, "a sequence has {} frames")

    return _sequence_by_sequence(frames, splits_of)


def _by_fold_of_groups(frames: Sequence[Frame], split) -> list[Frame]:
    groups = list(dict.fromkeys(frame.sequence for frame in frames))
    splits = _splits_of_folds(len(groups), split, "there are {} groups")
    split_of = dict(zip(groups, splits, strict=True))
    return [dataclasses.replace(f, split=split_of[f.sequence]) for f in frames]


def _splits_of_folds(number: int, split, what: str) -> list[str]:
    """The split of each of a number of things in a row, cut into folds."""
    folds = split.folds
    if not 0 <= split.fold < folds or folds < 3:
        raise UserError(
            f"config.data.split.fold={split.fold} of folds={folds}: at least 3 folds, "
            "counted from 0"
        )
    if number < folds:
        raise UserError(f"config.data.split.folds={folds}: {what.format(number)}")
    roles = {split.fold: "test", (split.fold + 1) % folds: "validation"}
    return [roles.get(i * folds // number, "train") for i in range(number)]


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
    if not any(names.values()):
        names = _last_sequences(frames, split)
    return _by_name(frames, names, "sequence", lambda frame: frame.sequence)


def _last_sequences(frames: Sequence[Frame], split) -> dict[str, tuple[str, ...]]:
    """Whole sequences from the end, until each split has its share of the frames."""
    sizes = collections.Counter(frame.sequence for frame in frames)
    least = 1 + sum(split[name] > 0 for name in ("test", "validation"))
    if len(sizes) < least:
        raise UserError(
            f"{len(sizes)} sequences or groups ({', '.join(sizes)}) where the splits "
            f"need {least}; see config.data.group and config.data.split"
        )
    left = list(sizes)
    names = {}
    for name in ("test", "validation"):
        wanted = split[name] * len(frames)
        taken: list[str] = []
        while wanted and len(left) > 1 and sum(sizes[s] for s in taken) < wanted:
            taken.append(left.pop())
        names[name] = tuple(taken)
    return names


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


DIVIDING = ("block", "list")  # methods that can divide a sequence
METHODS = {
    "block": _by_block,
    "sequence": _by_sequence,
    "list": _by_list,
    "fold": _by_fold,
}
