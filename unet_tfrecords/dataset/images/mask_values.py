"""What the numbers in a mask mean, and whether they can mean that.

Masks come blurred, resized and compressed: values between the real ones then stand
along edges, and would become classes or cells of their own.
"""

from collections.abc import Collection, Iterator

import cv2
import numpy as np

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.pixel_statistics import STRIP_PIXELS, count_values
from unet_tfrecords.dataset.records import UNLABELLED
from unet_tfrecords.dataset.regions import bounding_boxes

NEARLY_BLACK = 16  # levels of a colour's channels, which come from resizing or JPEG
NEAR = 1 / 8  # of the range: how far from an end a value still counts as that end
LEAST_NEAR = 0.98  # share of a binary mask's pixels that are near either end
BLOCK_PX = 2048  # edge of the parts in which regions are counted
MOST_PIECES_OF_ONE = 8  # of an object that has a mask of its own
MOST_THIN = 3  # classes that have no pixel surrounded by their own
MOST_PIECES = 3  # of an instance that is alone in its mask
LEAST_SPAN = 16  # between the two ends, or there is no room for rims
LEAST_VALUES = 4  # a single one between the ends is a label
JPEG_VALUES = 24  # with that many, those next to an end can fill areas
FLAT = 1 / 64  # of the range: how far from the end
EDGE_PX = 3  # from the other half: where all other pixels of a binary mask are
MOST_RIMS = 0.25  # share of a mask's regions that may be rims around others
LEAST_RIMS = 3  # of them, or it may be chance


def foreground_of(labels: np.ndarray, name: str, notes: list[str]) -> np.ndarray:
    """The foreground of a mask of two values; rims of grey are split halfway.

    Args:
      labels: integer [H, W], as read.
      name: the mask, for the error.
      notes: takes in a line where rims are split.

    Returns:
      bool [H, W].

    Raises:
      UserError: the mask holds more than two values, and they are no rims.
    """
    values = np.flatnonzero(count_values(labels))
    if len(values) <= 2:
        return labels > 0
    low, high = int(values[0]), int(values[-1])
    middle = (low + high) / 2
    foreground = labels > middle
    if not _are_rims(labels, values, foreground):
        raise UserError(
            f"{name}: {len(values)} values from {low} to {high}, where labels=binary "
            "means two; config.data.labels=instance (a number a cell) or class (a "
            "number a class) may be meant, or the mask was blurred: save it again"
        )
    notes.append(
        "grey rims of binary masks (blurred, resized or once a JPEG) are split halfway"
    )
    return foreground


def _are_rims(labels: np.ndarray, values: np.ndarray, foreground: np.ndarray) -> bool:
    """Whether all values but the two ends come from blurring, resizing or JPEG.

    Those far from both ends are few, along edges. Those near an end can be anywhere, as
    JPEG has them. But none fills an area, as labels do; of JPEG those next to an end.
    """
    low, high = int(values[0]), int(values[-1])
    span = high - low
    if span < LEAST_SPAN or len(values) < LEAST_VALUES:
        return False
    near = NEAR * span
    between = (labels > low + near) & (labels < high - near)
    halves = foreground.view(np.uint8)
    square = np.ones((2 * EDGE_PX + 1,) * 2, np.uint8)
    along_edges = cv2.dilate(halves, square) != cv2.erode(halves, square)
    if between.mean() > 1 - LEAST_NEAR or (between & ~along_edges).any():
        return False
    flat = FLAT * span if len(values) >= JPEG_VALUES else 0
    inside = (labels > low + flat) & (labels < high - flat)
    for shift in (-1, 1):
        for axis in (0, 1):
            inside &= np.roll(labels, shift, axis) == labels
    return not inside.any()


COLOURS = (
    "--config.data.labels=binary (any colour but black is foreground), instance (a "
    "colour an object), or a number for each, as "
    "--config.data.mask_values='#000000=0, #ff0000=1'"
)


def check_colours(values: np.ndarray, labels: str, name: str) -> None:
    """Refuses a mask of colours whose meaning nobody has said.

    Args:
      values: integer [H, W], 0xRRGGBB.
      labels: config.data.labels.
      name: the mask, for the error.

    Raises:
      UserError: colours as classes; without black, which is background; or with colours
        so dark that they may be meant as black.
    """
    if labels == "class":
        raise UserError(f"{name}: holds colours; say what they are: {COLOURS}")
    if values.min() > 0:
        raise UserError(
            f"{name}: holds colours and no black, which is background; name that "
            "colour, as --config.data.mask_values='#ffffff=0, #ff0000=1'"
        )
    is_dark = values > 0
    for shift in (0, 8, 16):
        is_dark &= (values >> shift) % 256 < NEARLY_BLACK
    if is_dark.any():
        raise UserError(
            f"{name}: holds #{values[is_dark].max():06x}, which is nearly black, and "
            "black is background; save the mask without smoothing, or give each colour "
            "a number with --config.data.mask_values"
        )


def check_instances(
    labels: np.ndarray, name: str, known: Collection[int | None] = ()
) -> None:
    """Refuses instance masks of two values, or with blurred or interpolated edges.

    Args:
      labels: integer [H, W], a number an instance, 0 is background.
      name: the mask, for the error.
      known: numbers that the config names, which are objects.

    Raises:
      UserError: many regions of one number are no more than rims around others, or
        the only number is in many pieces.
    """
    values = np.flatnonzero(count_values(labels)[1:]) + 1
    if len(values) == 1 and values[0] not in known:
        number = cv2.connectedComponents((labels > 0).view(np.uint8))[0] - 1
        if number > (1 if values[0] == UNLABELLED else MOST_PIECES):
            raise UserError(
                f"{name}: {values[0]} is the only number, in {number} pieces, where "
                "labels=instance means an object each; give each object its own, or, "
                f"if it is a single one, --config.data.mask_values={values[0]}="
                f"{values[0]}"
            )
    check_rims(labels, name)


def check_object(mask: np.ndarray, name: str) -> None:
    """Refuses a mask of a single object that is no such thing.

    Args:
      mask: bool [H, W], the object.
      name: the file, for the error.

    Raises:
      UserError: it is in many pieces, or covers the corners of the frame.
    """
    pieces = cv2.connectedComponents(mask.view(np.uint8))[0] - 1
    if pieces > MOST_PIECES_OF_ONE:
        raise UserError(
            f"{name}: {pieces} pieces, where each object has a mask of its own; save "
            "one mask with a number for each object, or one file per object"
        )
    if (
        mask[:: len(mask) - 1 or 1, :: mask.shape[1] - 1 or 1].all()
        and mask.mean() > 0.5
    ):
        raise UserError(
            f"{name}: the object covers all corners and {mask.mean():.0%} of it; "
            "if its two values are exchanged, invert it"
        )


def check_rims(labels: np.ndarray, name: str) -> None:
    """Refuses masks with a number a region whose edges were blurred or interpolated.

    Raises:
      UserError: many regions of one number are no more than rims around others.
    """
    number = rims = 0
    for top in range(0, labels.shape[0], BLOCK_PX):  # or a large one needs too much
        for left in range(0, labels.shape[1], BLOCK_PX):
            block = labels[top : top + BLOCK_PX, left : left + BLOCK_PX]
            pieces = _numbered_pieces(block)
            counts = count_values(pieces)
            number += len(counts) - 1
            rims += _rims(pieces, counts)
    if rims >= LEAST_RIMS and rims > MOST_RIMS * number:
        raise UserError(
            f"{name}: {rims} of {number} regions of one number are rims around others, "
            "as resizing or blurring makes them; resize masks by nearest neighbour"
        )


def check_classes(labels: np.ndarray, name: str) -> None:
    """Refuses class masks whose edges were blurred or interpolated.

    A class of thin lines is a membrane; several that are thin everywhere are rims.

    Raises:
      UserError: so are MOST_THIN of them or more.
    """
    counts = count_values(labels)
    inside = np.zeros(len(counts), np.int64)
    for own, neighbours in _with_neighbours(labels):
        same = np.logical_and.reduce([other == own for other in neighbours])
        inside += count_values(np.where(same, own, 0), len(counts))
    thin = np.flatnonzero((counts > 0) & (inside == 0))
    thin = thin[thin > 0]
    if len(thin) >= MOST_THIN and inside[1:].any():
        raise UserError(
            f"{name}: {len(thin)} classes ({thin[0]} to {thin[-1]}) are thin lines "
            "everywhere, as resizing or blurring makes them; resize masks by nearest "
            "neighbour"
        )


def _numbered_pieces(labels: np.ndarray) -> np.ndarray:
    """Numbers connected regions of equal value from 1; 0 stays."""
    pieces = np.zeros(labels.shape, np.int32)
    before = 0
    numbers, boxes = bounding_boxes(labels)
    for number, (top, left, bottom, right) in zip(numbers, boxes, strict=True):
        box = np.s_[top:bottom, left:right]
        own = labels[box] == number
        count, parts = cv2.connectedComponents(own.view(np.uint8))
        pieces[box][own] = parts[own] + before
        before += count - 1
    return pieces


def _rims(pieces: np.ndarray, counts: np.ndarray) -> int:
    """How many regions have no inside and lie along others; 0 if none has an inside."""
    inside = np.zeros(len(counts), np.int64)
    along = np.zeros(len(counts), np.int64)
    for own, neighbours in _with_neighbours(pieces):
        same = np.logical_and.reduce([other == own for other in neighbours])
        beside = np.logical_or.reduce([(o > 0) & (o != own) for o in neighbours])
        inside += count_values(np.where(same, own, 0), len(counts))
        along += count_values(np.where(beside, own, 0), len(counts))
    is_thin = (inside == 0) & (2 * along >= counts)
    return int(is_thin[1:].sum()) if inside[1:].any() else 0


def _with_neighbours(
    labels: np.ndarray,
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Strips of a mask, each with those of its neighbours above, below and beside."""
    height, rows = len(labels), max(1, STRIP_PIXELS // labels.shape[1])
    for first in range(0, height, rows):
        last = min(first + rows, height)
        places = np.arange(first - 1, last + 1).clip(0, height - 1)
        block = np.pad(labels[places], ((0, 0), (1, 1)), "edge")
        own = block[1:-1, 1:-1]
        yield (
            own,
            [block[:-2, 1:-1], block[2:, 1:-1], block[1:-1, :-2], block[1:-1, 2:]],
        )
