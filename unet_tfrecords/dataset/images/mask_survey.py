"""What the masks of a whole data set hold: which reading fits, and what contradicts it.

One mask rarely tells whether its numbers are classes or cells; many of them do. At most
MOST_MASKS are looked at, evenly spread; the job then checks each one as it reads it.
"""

import collections
import concurrent.futures
import math
import os
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from unet_tfrecords.command import bars
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images.formats import read_mask
from unet_tfrecords.dataset.images.frames import Frame
from unet_tfrecords.dataset.images.mask_values import COLOURS, foreground_of
from unet_tfrecords.dataset.images.pages import Page
from unet_tfrecords.dataset.images.value_map import ValueMap
from unet_tfrecords.dataset.pixel_statistics import count_values
from unet_tfrecords.dataset.records import UNLABELLED
from unet_tfrecords.dataset.regions import bounding_boxes

MOST_MASKS, A_FEW = 400, 20
LARGEST_PX = 2**22  # that are looked at in full
FEW_CLASSES = 4  # numbers above 0, or they are cells rather than classes
IN_ONE_PIECE = 0.9  # share of numbers that are, if they are cells
MOST_NAMED = 6  # values in a line
MOST_FOREGROUND = 0.9  # of a frame of two values, or it is the background
REVERSED = 0.8  # share that the foreground of a reversed mask covers, at least
LARGE = 0.5  # share of a frame that a region covers, if it is the background
LINE_PX = 2  # half the width of a line between cells, at most
LEAST_OTHERS = 5  # numbers besides the background's, or touching most is chance
MOST_CLASSES = 32  # numbers that can be classes where all masks have the same
LEAST_MASKS = 3  # with the same numbers, or it is chance


class MaskFacts(NamedTuple):
    """What one mask holds.

    Attributes:
      values: its numbers, 0 included.
      pieces: connected regions of each number above 0.
      largest: the number above 0 that covers most, 0 without any.
      share: of the mask that it covers.
      has_rims: whether it is two values with grey rims between them.
      has_colours: whether its values are colours.
      palette: as `Mask` has it.
      stored: its numbers before the config's map.
      name: of the file.
      colours: as `Mask` has them.
      touched: share of its other numbers that the largest touches, where 0 is nothing
        but lines between them, or is not there; else 0.
    """

    values: tuple[int, ...]
    pieces: tuple[int, ...]
    largest: int
    share: float
    has_rims: bool = False
    has_colours: bool = False
    palette: str = ""
    stored: tuple[int, ...] = ()
    name: str = ""
    colours: dict[int, int] = {}
    touched: float = 0.0

    @property
    def objects(self) -> tuple[int, ...]:
        """Numbers above 0."""
        return tuple(value for value in self.values if value)


class Reading(NamedTuple):
    """How masks are to be read, and why.

    Attributes:
      labels: binary, class or instance.
      reason: for people.
    """

    labels: str
    reason: str


def look_at(labels: np.ndarray, name: str = "") -> MaskFacts:
    """Looks at one mask, integer [H, W]."""
    counts = count_values(labels)
    values = np.flatnonzero(counts)
    step = max(1, math.isqrt(labels.size // LARGEST_PX))
    labels = labels[::step, ::step]  # of a large one: it is the memory that counts
    has_rims = False
    if len(values) > 2:
        try:
            foreground_of(labels, name, [])
        except UserError:
            pass
        else:
            has_rims = True
    above = values[values > 0]
    largest = int(above[np.argmax(counts[above])]) if len(above) else 0
    pieces = () if has_rims else tuple(_pieces(labels))
    share = float(counts[largest] / counts.sum()) if largest else 0.0
    touched = 0.0 if has_rims else _touched(labels, largest)
    return MaskFacts(
        tuple(values.tolist()), pieces, largest, share, has_rims, touched=touched
    )


def _touched(labels: np.ndarray, number: int) -> float:
    """The share of other numbers that one touches, where all between them is lines."""
    others = np.setdiff1d(labels, [0, number])
    square = np.ones((2 * LINE_PX + 1,) * 2, np.uint8)
    if (
        len(others) < LEAST_OTHERS
        or cv2.erode((labels == 0).view(np.uint8), square).any()
    ):
        return 0.0
    own = labels == number
    if not all(edge.any() for edge in (own[0], own[-1], own[:, 0], own[:, -1])):
        return 0.0  # a cell among others; the background reaches all four edges
    near = cv2.dilate(own.view(np.uint8), square) > 0
    return len(np.intersect1d(labels[near], others)) / len(others)


def _pieces(labels: np.ndarray) -> Iterable[int]:
    """Connected regions of each number; touching diagonally is connected."""
    numbers, boxes = bounding_boxes(labels)
    for number, (top, left, bottom, right) in zip(numbers, boxes, strict=True):
        box = labels[top:bottom, left:right] == number
        yield cv2.connectedComponents(box.view(np.uint8))[0] - 1


def survey(
    frames: Sequence[Frame], value_map: ValueMap, most: int, labels: str = "auto"
) -> list[MaskFacts]:
    """Looks at masks of a data set; those that cannot be read are left to the job.

    Args:
      frames: of the data set.
      value_map: what the config says of values.
      most: masks that are looked at, evenly spread.
      labels: config.data.labels.
    """
    masks = [frame.label for frame in frames if frame.label]
    chosen = masks[:: max(1, -(-len(masks) // most))]
    found = _look_at_all(chosen, value_map, labels in ("class", "instance"))
    if labels in ("auto", "class") and any(facts.colours for facts in found):
        chosen = masks  # as each can have another palette
        found = _look_at_all(masks, value_map, labels == "class")
    kinds = {facts.palette for facts in found}
    if labels == "auto" and {"mixed", "colours"} <= kinds:
        # Masks without the colours have the same palette, and so the same numbers.
        found = _look_at_all(chosen, value_map, whole_palette=True)
    return found


def _look_at_all(
    masks: Sequence[Page], value_map: ValueMap, whole_palette: bool
) -> list[MaskFacts]:
    def look(page: Page) -> MaskFacts | None:
        try:
            mask = read_mask(
                page,
                exact=False,
                as_colours=value_map.of_colours,
                whole_palette=whole_palette,
            )
            labels, _ = value_map.applied(mask, str(page))
        except UserError:
            return None
        facts = look_at(labels, str(page))
        return facts._replace(
            has_colours=mask.has_colours and not value_map.of_colours,
            palette=mask.palette,
            stored=tuple(np.flatnonzero(count_values(mask.values)).tolist()),
            name=str(page),
            colours=mask.colours,
        )

    if not masks:
        return []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = bars.bar(
            pool.map(look, masks), total=len(masks), desc="masks", unit="mask", delay=2
        )
        return [facts for facts in found if facts]


def reading_of(
    masks: Sequence[MaskFacts], labels: str, known: Collection[int | None] = ()
) -> Reading:
    """Decides how masks are to be read, or checks what the config says.

    Args:
      masks: of the data set.
      labels: config.data.labels: auto, binary, class or instance.
      known: numbers that config.data.mask_values gives.

    Raises:
      UserError: no reading fits, or several do, or not the one that is given.
    """
    fits = {name: reason for name, rule in RULES.items() if (reason := rule(masks))}
    shown = named({value for mask in masks for value in mask.values})
    if any(mask.has_colours for mask in masks) and labels == "auto":
        raise UserError(f"the masks hold colours; say what they are: {COLOURS}")
    if not masks:
        return Reading(
            "binary" if labels == "auto" else labels, "no mask could be read"
        )
    if labels == "auto":
        if len(fits) == 1:
            return Reading(*next(iter(fits.items())))
        if fits:
            if "instance" in fits:
                check_background(masks, "instance", known)
            ways = "; or ".join(f"{name}: {reason}" for name, reason in fits.items())
            raise UserError(
                f"the masks hold {shown}, which can be read as {ways}; say which with "
                f"--config.data.labels={' or '.join(fits)}"
            )
        raise UserError(
            f"the masks hold {shown}, which is neither binary (two values), class (up "
            f"to {FEW_CLASSES} and 255) nor instance (a number a cell, in one piece); "
            "blurred, resized or JPEG masks must be saved again; else say what they "
            "are with --config.data.labels"
        )
    if labels == "class" and {v for m in masks for v in m.values} <= {0, UNLABELLED}:
        raise UserError(
            "the masks hold 0 and 255; of labels=class 255 means unlabelled: use "
            "--config.data.labels=binary"
        )
    doubt = ""
    if labels == "instance":
        doubt = _check_pieces(masks, fits, shown, known)
    return Reading(labels, f"as config.data.labels says{doubt}")


def _check_pieces(
    masks: Sequence[MaskFacts],
    fits: Mapping[str, str],
    shown: str,
    known: Collection[int | None],
) -> str:
    """Refuses masks of few numbers that are no objects, as most are in pieces.

    Returns:
      What is in doubt where there are many numbers: ids that wrap, colours that recur,
      or cells that others cut into pieces.
    """
    numbers = {value for mask in masks for value in mask.objects}
    pieces = [number for mask in masks for number in mask.pieces]
    whole = sum(number == 1 for number in pieces)
    if numbers <= set(known) or not pieces or max(pieces) == 1:
        return ""
    if list(fits) == ["binary"]:
        raise UserError(
            f"the masks hold {shown}: as instances that is one object in up to "
            f"{max(pieces)} pieces; use --config.data.labels=binary"
        )
    in_pieces = [
        m for m in masks if m.pieces and 2 * m.pieces.count(1) <= len(m.pieces)
    ]
    if "instance" in fits or 2 * len(in_pieces) <= len(masks):
        return ""  # the job names each mask
    if len(numbers) <= FEW_CLASSES:
        other = f"; they can be read as {' or '.join(fits)}" if fits else ""
        raise UserError(
            f"the masks hold {shown}: as instances, {len(pieces) - whole} of "
            f"{len(pieces)} objects are in pieces, one in {max(pieces)}{other}"
        )
    return (
        f", though {len(pieces) - whole} of {len(pieces)} numbers are in several "
        "pieces, each number taken for one object"
    )


def _foregrounds(masks: Sequence[MaskFacts]) -> set[int] | None:
    """Numbers of the foreground where each mask has two values; None where one has not.

    Masks with grey rims count as two values, whose number is not exact.
    """
    if any(not mask.has_rims and len(mask.values) > 2 for mask in masks):
        return None
    return {m.objects[-1] for m in masks if m.objects and not m.has_rims}


def _binary(masks: Sequence[MaskFacts]) -> str:
    numbers = _foregrounds(masks)
    if numbers is not None and len(numbers) <= 1:
        return "two values, foreground and background"
    return "two values in each mask" if numbers == {1, UNLABELLED} else ""


def _has_numbers(masks: Sequence[MaskFacts]) -> bool:
    """Whether there are more numbers than those of one foreground."""
    numbers = _foregrounds(masks)
    is_one = numbers is not None and len(numbers) <= 1
    return not is_one and not any(mask.has_rims for mask in masks)


def _class(masks: Sequence[MaskFacts]) -> str:
    numbers = {value for mask in masks for value in mask.objects} - {UNLABELLED}
    if not _has_numbers(masks) or not 1 <= len(numbers) <= _most_classes(masks):
        return ""
    if max(numbers) > UNLABELLED:
        return ""
    return f"{len(numbers) + 1} numbers in all, a class each"


def _most_classes(masks: Sequence[MaskFacts]) -> int:
    """How many numbers can be classes: cells are hardly as many in each mask."""
    is_same = len({mask.objects for mask in masks}) == 1 and len(masks) >= LEAST_MASKS
    return MOST_CLASSES if is_same else FEW_CLASSES


def _instance(masks: Sequence[MaskFacts]) -> str:
    pieces = [number for mask in masks for number in mask.pieces]
    whole = sum(number == 1 for number in pieces)
    if not pieces or not _has_numbers(masks) or whole < IN_ONE_PIECE * len(pieces):
        return ""
    return f"{whole} of {len(pieces)} numbers are in one piece, a cell each"


RULES = {"binary": _binary, "class": _class, "instance": _instance}


def check_background(
    masks: Sequence[MaskFacts], labels: str, known: Collection[int | None] = ()
) -> None:
    """Refuses masks in which the background has a number of its own.

    Args:
      masks: of the data set.
      labels: how they are read.
      known: numbers that config.data.mask_values gives.

    Raises:
      UserError: one region covers most of most frames, or no class mask has a 0.
    """
    values = {value for mask in masks for value in mask.values}
    if labels == "class" and values and 0 not in values and not values & set(known):
        ordered = sorted(values - {UNLABELLED})
        mapped = ",".join(f"{value}={n}" for n, value in enumerate(ordered[:9]))
        raise UserError(
            f"the masks hold {named(values)} and no 0, which is background: if "
            f"{ordered[0] if ordered else UNLABELLED} is, give "
            f"--config.data.mask_values={mapped}"
        )
    has_colours = any(mask.has_colours for mask in masks)
    is_binary = labels == "binary" and 0 in values and not has_colours
    least = MOST_FOREGROUND if is_binary else LARGE
    covered = [
        mask
        for mask in masks
        if mask.largest not in known and (mask.share > least or mask.touched > LARGE)
    ]
    if labels == "class" or 2 * len(covered) <= len(masks):
        return
    number, times = collections.Counter(m.largest for m in covered).most_common(1)[0]
    if 2 * times <= len(masks):
        return
    share = statistics.median(m.share for m in covered if m.largest == number)
    if has_colours:
        raise UserError(
            f"colour #{number:06x} covers {share:.0%} of most masks: give every "
            f"colour a number, as --config.data.mask_values='#{number:06x}=0, ...'"
        )
    zero = ",0=1" if is_binary else ""
    touches = " and touches most others" if share <= least else ""
    raise UserError(
        f"number {number} covers {share:.0%} of most masks{touches}: if it is the "
        f"background, give --config.data.mask_values={number}=0{zero}; if an object, "
        f"--config.data.mask_values={number}={1 if number == UNLABELLED else number}"
    )


def check_number_of_classes(
    masks: Sequence[MaskFacts], labels: str, classes: int
) -> None:
    """Compares config.model.classes with what masks hold.

    Raises:
      UserError: there are more, or fewer than masks of two values can ever give.
    """
    if labels != "class":
        if classes != 2:
            raise UserError(
                f"config.model.classes={classes}, but labels={labels} gives 2, "
                "background and objects; use --config.model.classes=2, or "
                "--config.data.labels=class if the masks' numbers are classes"
            )
        return
    highest = max({v for m in masks for v in m.values} - {UNLABELLED}, default=0)
    beyond = [m for m in masks if max({*m.values} - {UNLABELLED}, default=0) >= classes]
    has_colours = any(mask.has_colours for mask in masks)
    if 2 * len(beyond) > len(masks) and not has_colours:  # else the job names each mask
        raise UserError(
            f"the masks hold class {highest}, but config.model.classes={classes} means "
            f"0 to {classes - 1}; use --config.model.classes={highest + 1}, or "
            "config.data.mask_values to give the classes other numbers"
        )


def check_reversed(masks: Sequence[MaskFacts]) -> None:
    """Refuses binary masks of which some have foreground and background exchanged.

    Raises:
      UserError: in a line each, masks whose foreground is one piece that covers nearly
        all, where it covers less than half of most others.
    """
    covered = [m for m in masks if REVERSED < m.share < 1 and m.pieces == (1,)]
    sparse = [m for m in masks if m.share < LARGE]
    if covered and len(sparse) > len(covered):
        raise UserError(
            [
                f"{mask.name}: its foreground is one piece over {mask.share:.0%}, and "
                "most masks have little: exchange its two values"
                for mask in covered
            ]
        )


def check_palettes(masks: Sequence[MaskFacts]) -> None:
    """Refuses class masks whose palettes give a number or a colour two meanings.

    Raises:
      UserError: naming both files.
    """
    of_number: dict[int, tuple[int, str]] = {}
    of_colour: dict[int, tuple[int, str]] = {}
    for mask in masks:
        for number, colour in mask.colours.items():
            first, file = of_number.setdefault(number, (colour, mask.name))
            other, place = of_colour.setdefault(colour, (number, mask.name))
            # A file may fill its palette up with a colour that it has already.
            if first == colour and (other == number or place == mask.name):
                continue
            says = f"number {number} is #{first:06x} in {file}"
            if first == colour:
                says = f"#{colour:06x} is number {other} in {place}"
            raise UserError(
                f"{mask.name}: number {number} of its palette is #{colour:06x}, but "
                f"{says}; give each colour a number, as "
                f"--config.data.mask_values='#000000=0, #{colour:06x}=1'"
            )


def check_named(masks: Sequence[MaskFacts], value_map: ValueMap) -> None:
    """Refuses a map of values that no mask has; `masks` must be all there are.

    Raises:
      UserError: naming them.
    """
    stored = {value for mask in masks for value in mask.stored}
    if masks and (missing := sorted(value_map.numbers.keys() - stored)):
        shown = [f"#{v:06x}" if value_map.of_colours else str(v) for v in missing]
        there = "" if value_map.of_colours else f"; they hold {named(stored)}"
        raise UserError(
            f"config.data.mask_values names {', '.join(shown)}, which no mask "
            f"has{there}"
        )


def named(values: Iterable[int]) -> str:
    """Values for people.

    >>> named({0, 255}), named(range(100))
    ('0 and 255', '100 values from 0 to 99')
    """
    known = sorted(values)
    if len(known) > MOST_NAMED:
        return f"{len(known)} values from {known[0]} to {known[-1]}"
    texts = [str(value) for value in known]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if texts[1:] else texts)
