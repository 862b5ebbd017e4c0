"""Regions of images that are too large to be frames: each region is a frame.

Rectangles of a table, or those around what masks do not leave unlabelled.
"""

import csv
import io
import os
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from unet_tfrecords.command import bars
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images.formats import header_of
from unet_tfrecords.dataset.images.pages import Page
from unet_tfrecords.dataset.regions import Box
from unet_tfrecords.storage import files

LABELLED = "labelled"  # config.data.regions, instead of a table's path
COLUMNS = ("file", "top_px", "left_px", "bottom_px", "right_px")
CELL_PX = 64  # regions begin and end at multiples of it
BLOCK_PX = 2048  # of a mask, that are looked at together


def regions_in_table(path: str) -> dict[str, list[Box]]:
    """The rectangles of a CSV table by image file; see COLUMNS, other columns may be.

    Raises:
      UserError: what is wrong with it, a line for each row.
    """
    if not files.exists(path):
        raise UserError(f"config.data.regions={path!r}: no such file, nor '{LABELLED}'")
    try:
        text = files.read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: is no text in UTF-8") from None
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num}: {error}") from None
    if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
        raise UserError(
            f"{path}: lacks the columns {', '.join(missing)}, with commas between"
        )
    if not rows:
        raise UserError(f"{path}: lists no region")
    found: dict[str, list[Box]] = {}
    problems = []
    for line, row in rows:
        try:
            top, left, bottom, right = (int(row[name]) for name in COLUMNS[1:])
        except (TypeError, ValueError):
            problems.append(f"{path}: line {line}: not whole numbers of px")
            continue
        if not (0 <= top < bottom and 0 <= left < right):
            problems.append(
                f"{path}: line {line}: no rectangle: rows {top} to "
                f"{bottom}, columns {left} to {right}"
            )
            continue
        found.setdefault(row["file"], []).append((top, left, bottom, right))
    if problems:
        raise UserError(problems)
    return found


def check_inside(page: Page, boxes: list[Box]) -> None:
    """Sees that rectangles lie in an image, and that none lie over each other.

    Pixels of two frames could be trained on and scored.

    Raises:
      UserError: a line for each that does not.
    """
    header = header_of(page)
    problems = [
        f"{page._replace(window=box)}: ends beyond the image, {header.height} x "
        f"{header.width} px"
        for box in boxes
        if box[2] > header.height or box[3] > header.width
    ]
    problems += [
        f"{page}: the regions at row {one[0]}, column {one[1]} and at row {other[0]}, "
        f"column {other[1]} overlap; take one out"
        for one, other in _overlapping(sorted(boxes))
    ]
    if problems:
        raise UserError(problems)


def _overlapping(boxes: list[Box]) -> Iterator[tuple[Box, Box]]:
    """Pairs, of boxes in the order of their tops."""
    for place, one in enumerate(boxes):
        for other in boxes[place + 1 :]:
            if other[0] >= one[2]:
                break
            if _meet(one, other):
                yield one, other


def _meet(one: Box, other: Box) -> bool:
    return max(one[0], other[0]) < min(one[2], other[2]) and max(
        one[1], other[1]
    ) < min(one[3], other[3])


def labelled_regions(
    mask: Page, is_labelled: Callable[[Page], np.ndarray | None]
) -> list[Box]:
    """Rectangles around the labelled parts of a mask, in reading order.

    Args:
      mask: of any size: it is read in parts.
      is_labelled: gives bool [H, W] of a part; None where all of it is.
    """
    header = header_of(mask)
    size = header.height, header.width
    cells = np.zeros([-(-side // CELL_PX) for side in size], np.uint8)
    blocks = [
        (top, left, min(top + BLOCK_PX, size[0]), min(left + BLOCK_PX, size[1]))
        for top in range(0, size[0], BLOCK_PX)
        for left in range(0, size[1], BLOCK_PX)
    ]
    name = os.path.basename(mask.path)
    for box in bars.bar(blocks, desc=f"regions of {name}", unit="block", delay=2):
        found = is_labelled(mask._replace(window=box))
        here = cells[box[0] // CELL_PX :, box[1] // CELL_PX :]
        if found is None:
            here[: BLOCK_PX // CELL_PX, : BLOCK_PX // CELL_PX] = 1
            continue
        rows, columns = (range(0, side, CELL_PX) for side in found.shape)
        some = np.maximum.reduceat(found.view(np.uint8), rows, axis=0)
        some = np.maximum.reduceat(some, columns, axis=1)
        here[: len(rows), : len(columns)] = some
    return sorted(_clipped(box, size) for box in _apart(cells))


def _apart(cells: np.ndarray) -> Iterator[Box]:
    """Boxes of connected cells; those that meet become one."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(cells, connectivity=8)
    boxes = [(y, x, y + h, x + w) for x, y, w, h, _ in stats[1:].tolist()]
    while boxes:
        box = boxes.pop()
        others = [other for other in boxes if _meet(box, other)]
        if not others:
            yield box
            continue
        boxes = [other for other in boxes if other not in others]
        low, high = zip(*((b[:2], b[2:]) for b in (box, *others)), strict=True)
        boxes.append((*np.min(low, axis=0).tolist(), *np.max(high, axis=0).tolist()))


def _clipped(cells: Box, size: tuple[int, int]) -> Box:
    top, left, bottom, right = (CELL_PX * each for each in cells)
    return top, left, min(bottom, size[0]), min(right, size[1])
