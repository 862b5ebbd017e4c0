"""Instances of images that no memory holds: block by block, and whole across blocks.

The same instances as `instances.instances_of` makes of the image in one piece, up to
their numbers. What an instance depends on decides how:

1. `survey`: a piece, all connected pixels of a class, may lie in many blocks. Each
   block lists its parts of pieces; `joined` puts parts together over blocks' edges.
2. `part`: a piece becomes instances by itself. It belongs to the first block that has a
   part of it, which reads as far beyond its edges as its pieces reach.
3. `assemble`: a block gets its pixels from all blocks whose pieces reach into it.
4. `holes`: background is a hole if all of its parts meet the same single instance.
5. `finish`: holes are filled, and gaps given back, which takes a few pixels around.

Each step of a block needs only the results of earlier steps, of any blocks.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from trainer.inference import instances
from trainer.inference.instances import InstanceRules, Outputs
from unet_tfrecords.dataset import regions
from unet_tfrecords.dataset.regions import Box

# Side of the squares that pieces are parted in: scikit-image sorts all of a window's
# pixels, background too, which takes 2048 px twice as long as 16 times 512 px.
PARTED_PX = 512
MOST_PX = 2**26  # that are parted at once: some 2 GB while they are


class Grid(NamedTuple):
    """An image in blocks, numbered in reading order.

    Attributes:
      height, width: of the image, px.
      block: side of a block, px; those at the end are smaller.
    """

    height: int
    width: int
    block: int

    @property
    def rows(self) -> int:
        return math.ceil(self.height / self.block)

    @property
    def columns(self) -> int:
        return math.ceil(self.width / self.block)

    def box(self, number: int) -> Box:
        """The pixels of a block."""
        row, column = divmod(number, self.columns)
        top, left = row * self.block, column * self.block
        end = min(top + self.block, self.height), min(left + self.block, self.width)
        return top, left, *end

    def widened(self, box: Box, px: int) -> Box:
        """A box with some pixels around it, as far as the image has them."""
        top, left, bottom, right = box
        end = min(bottom + px, self.height), min(right + px, self.width)
        return max(0, top - px), max(0, left - px), *end

    def pairs(self) -> Iterator[tuple[int, int, int, int]]:
        """Blocks that meet, the first one before the other: and how, by rows, columns.

        Over an edge to the right (0, 1) or below (1, 0), over a corner (1, 1), (1, -1).
        """
        for row, column in itertools.product(range(self.rows), range(self.columns)):
            for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
                if row + down < self.rows and 0 <= column + right < self.columns:
                    here = row * self.columns + column
                    yield here, here + down * self.columns + right, down, right


def _inside(box: Box, outer: Box) -> tuple[slice, slice]:
    """Where a box is in an array that holds an outer one."""
    top, left = outer[:2]
    return slice(box[0] - top, box[2] - top), slice(box[1] - left, box[3] - left)


def _common(box: Box, other: Box) -> Box:
    return (
        *(max(a, b) for a, b in zip(box[:2], other[:2], strict=True)),
        *(min(a, b) for a, b in zip(box[2:], other[2:], strict=True)),
    )  # type: ignore[return-value]  # two and two


class WindowSource(NamedTuple):
    """The network's outputs of an image.

    Attributes:
      read: gives those of a window.
      planes: how many its target has.
    """

    read: Callable[[Box], Outputs]
    planes: int = 0


ReadLabels = Callable[[Box], np.ndarray]


class Parts(NamedTuple):
    """Connected pixels of one value in a block, as far as the block goes.

    Attributes:
      values: [N], the class of each.
      sizes: int64 [N], px.
      boxes: int64 [N, 4], in the image.
      firsts: int64 [N, 2], the first pixel of each in reading order, in the image.
      edges: numbers, from 1, along the block's first and last row and column.
    """

    values: np.ndarray
    sizes: np.ndarray
    boxes: np.ndarray
    firsts: np.ndarray
    edges: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class Survey(NamedTuple):
    """What a block knows before any other is looked at.

    Attributes:
      pieces: its parts of pieces.
      seeds: its parts of seeds; None where instances don't grow from any.
    """

    pieces: Parts
    seeds: Parts | None


class Pieces(NamedTuple):
    """All pieces of the image.

    Attributes:
      of_part: for each block, the piece of each of its parts.
      values, sizes, boxes, firsts: as in `Parts`, of the whole pieces.
      owners: the first block that has a part of it.
      least_seed_px: how large a seed must be, by class.
    """

    of_part: list[np.ndarray]
    values: np.ndarray
    sizes: np.ndarray
    boxes: np.ndarray
    firsts: np.ndarray
    owners: np.ndarray
    least_seed_px: dict[int, float] | None = None

    def are_too_large(self, most_px: int) -> np.ndarray:
        """Which ones cannot be parted within memory, bool [N]."""
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        return sides.prod(axis=1) > most_px


def survey(
    grid: Grid, number: int, source: WindowSource, rules: InstanceRules
) -> Survey:
    """Lists the parts of pieces in a block.

    Args:
      grid, number: the block.
      source: the network's outputs.
      rules: as in `instances_of`.
    """
    box = grid.box(number)
    window = grid.widened(box, instances.reach_px(rules, source.planes))
    probabilities, planes = source.read(window)
    own = _inside(box, window)
    classes = instances.classes_of(probabilities[own], rules.threshold)
    pieces = _parts(regions.connected_instances(classes), classes, box)
    if planes is None:
        return Survey(pieces, None)
    begins, _ = instances.seeds_of(probabilities, planes, rules)
    seeds = np.where(begins[own], classes, 0).astype(np.uint8)
    return Survey(pieces, _parts(regions.connected_instances(seeds), seeds, box))


def _parts(numbers: np.ndarray, values: np.ndarray, box: Box) -> Parts:
    """Parts by their numbers in a block."""
    numbers = numbers.astype(np.int32)
    _, boxes = regions.bounding_boxes(numbers)
    flat = numbers.ravel()
    present, firsts = np.unique(flat, return_index=True)
    firsts = firsts[present > 0]
    origin = np.array(box[:2])
    places = np.stack(np.divmod(firsts, numbers.shape[1]), axis=1)
    return Parts(
        values.ravel()[firsts],
        np.bincount(flat, minlength=len(firsts) + 1)[1:],
        boxes + np.tile(origin, 2),
        places + origin,
        (numbers[0], numbers[-1], numbers[:, 0].copy(), numbers[:, -1].copy()),
    )


def joined(grid: Grid, surveys: Sequence[Survey]) -> Pieces:
    """Puts the parts of all blocks together."""
    pieces = _joined(grid, [each.pieces for each in surveys])
    seeds = [each.seeds for each in surveys if each.seeds is not None]
    if not seeds:
        return pieces
    whole = _joined(grid, seeds)
    least: dict[int, float] = {}
    for value in np.unique(pieces.values).tolist():
        sizes = whole.sizes[whole.values == value]
        least[value] = instances.least_seed_px(int(sizes.sum()), len(sizes))
    return pieces._replace(least_seed_px=least)


def _joined(
    grid: Grid, parts: Sequence[Parts], *, over_corners: bool = False
) -> Pieces:
    starts = np.concatenate([[0], np.cumsum([len(each.values) for each in parts])])
    values = np.concatenate([each.values for each in parts])
    pairs = [np.zeros((2, 0), np.int64)]
    for first, second, down, right in grid.pairs():
        if down and right and not over_corners:
            continue
        for a, b in _meeting(parts[first], parts[second], down, right, over_corners):
            both = (a > 0) & (b > 0)
            there = np.stack([a[both] + starts[first], b[both] + starts[second]]) - 1
            pairs.append(there[:, values[there[0]] == values[there[1]]])
    piece_of = _connected(np.concatenate(pairs, axis=1), len(values))
    number = int(piece_of.max(initial=-1)) + 1
    # Parts come in the order of blocks, and pieces in that of their first parts.
    _, first_parts = np.unique(piece_of, return_index=True)
    sizes = np.zeros(number, np.int64)
    np.add.at(sizes, piece_of, np.concatenate([each.sizes for each in parts]))
    boxes = np.concatenate([each.boxes for each in parts])
    low = np.full((number, 2), np.iinfo(np.int64).max)
    high = np.zeros((number, 2), np.int64)
    np.minimum.at(low, piece_of, boxes[:, :2])
    np.maximum.at(high, piece_of, boxes[:, 2:])
    return Pieces(
        np.split(piece_of, starts[1:-1]),
        values[first_parts],
        sizes,
        np.concatenate([low, high], axis=1),
        np.concatenate([each.firsts for each in parts])[first_parts],
        np.searchsorted(starts, first_parts, side="right") - 1,
    )


def _meeting(
    first: Parts, second: Parts, down: int, right: int, over_corners: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers of parts on either side of an edge, pixel by pixel, or of a corner."""
    first_row, last_row, first_column, last_column = range(4)
    if down and right:
        here, there = (-1, 0) if right > 0 else (0, -1)
        yield first.edges[last_row][[here]], second.edges[first_row][[there]]
        return
    a = first.edges[last_row] if down else first.edges[last_column]
    b = second.edges[first_row] if down else second.edges[first_column]
    yield a, b
    if over_corners:
        yield a[1:], b[:-1]
        yield a[:-1], b[1:]


def _connected(pairs: np.ndarray, number: int) -> np.ndarray:
    """The piece of each of `number` parts, numbered in the order of first parts."""
    from scipy import sparse

    ones = np.ones(pairs.shape[1], bool)
    graph = sparse.coo_matrix((ones, tuple(pairs)), (number, number))
    _, found = sparse.csgraph.connected_components(graph, directed=False)
    _, firsts, numbers = np.unique(found, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(firsts))[numbers]


class Parted(NamedTuple):
    """The instances of the pieces that a block owns.

    Attributes:
      number: how many they are, numbered from 1.
      windows: a box of the image, and the numbers there, for each.
      whole: pieces that are one instance as they are, and its number.
      too_large: those of `whole` that might have been several.
    """

    number: int
    windows: list[tuple[Box, np.ndarray]]
    whole: dict[int, int]
    too_large: list[int]


def part(
    grid: Grid,
    number: int,
    pieces: Pieces,
    source: WindowSource,
    rules: InstanceRules,
    *,
    most_px: int = MOST_PX,
) -> Parted:
    """Makes instances of the pieces that a block owns.

    Args:
      grid, number: the block.
      pieces: of the image.
      source, rules: as in `survey`.
      most_px: larger pieces, by their box, are kept as one instance and reported.
    """
    own = np.flatnonzero(pieces.owners == number)
    are_large = pieces.are_too_large(most_px)[own]
    is_parted = instances.are_parted(rules, source.planes)
    is_kept = pieces.sizes[own] >= rules.min_size_px
    whole = own[are_large & is_kept] if is_parted else own[is_kept]
    number_of = {int(piece): i + 1 for i, piece in enumerate(whole)}
    highest = len(whole)
    windows = []
    for group in _grouped(own[~are_large], pieces, most_px) if is_parted else ():
        box = _around(pieces.boxes[group])
        found = _parted_window(grid, box, group, pieces, source, rules)
        windows.append((box, np.where(found > 0, found + highest, 0).astype(np.int32)))
        highest = max(highest, int(windows[-1][1].max(initial=0)))
    return Parted(
        highest,
        windows,
        number_of,
        whole.tolist() if is_parted else [],
    )


def _grouped(own: np.ndarray, pieces: Pieces, most_px: int) -> Iterator[np.ndarray]:
    """Pieces to be parted together: those that begin near each other, in one window."""
    _, cells = np.unique(pieces.firsts[own] // PARTED_PX, axis=0, return_inverse=True)
    for cell in range(cells.max(initial=-1) + 1):
        group: list[int] = []
        for piece in own[cells == cell].tolist():
            box = _around(pieces.boxes[[*group, piece]])
            if group and (box[2] - box[0]) * (box[3] - box[1]) > most_px:
                yield np.array(group)
                group = []
            group.append(piece)
        yield np.array(group)


def _around(boxes: np.ndarray) -> Box:
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    return (*low.tolist(), *high.tolist())


def _parted_window(
    grid: Grid,
    box: Box,
    group: np.ndarray,
    pieces: Pieces,
    source: WindowSource,
    rules: InstanceRules,
) -> np.ndarray:
    """Instances of some pieces, int32, of the window around them."""
    # A pixel around: the depth of a piece's pixels is their distance to background.
    window = grid.widened(box, max(1, instances.reach_px(rules, source.planes)))
    probabilities, planes = source.read(window)
    classes = instances.classes_of(probabilities, rules.threshold)
    numbers = regions.connected_instances(classes)
    places = pieces.firsts[group] - np.array(window[:2])
    is_wanted = np.zeros(int(numbers.max()) + 1, bool)
    is_wanted[numbers[tuple(places.T)]] = True
    classes[~is_wanted[numbers]] = 0
    found = instances.parted(
        probabilities, classes, rules, planes, pieces.least_seed_px
    )
    found = instances.numbered_without_gaps(found)
    return found[_inside(box, window)]


def first_numbers(counts: Sequence[int]) -> list[int]:
    """What the numbers of each block's instances begin after, by their counts."""
    return [0, *itertools.accumulate(counts)][:-1]


def contributors(grid: Grid, pieces: Pieces) -> list[list[int]]:
    """For each block, those whose pieces reach into it."""
    found: list[set[int]] = [set() for _ in pieces.of_part]
    for block, of_part in enumerate(pieces.of_part):
        found[block] |= set(pieces.owners[of_part].tolist())
    return [sorted(each) for each in found]


def assemble(
    grid: Grid,
    number: int,
    pieces: Pieces,
    parted: Mapping[int, Parted],
    firsts: Sequence[int],
    source: WindowSource,
    rules: InstanceRules,
) -> np.ndarray:
    """The instances in a block, int32 [H, W].

    Args:
      grid, number, pieces, source, rules: as in `part`.
      parted: of all `contributors`.
      firsts: `first_numbers`.
    """
    box = grid.box(number)
    found = np.zeros((box[2] - box[0], box[3] - box[1]), np.int32)
    for owner, each in parted.items():
        for window, numbers in each.windows:
            common = _common(box, window)
            if common[0] < common[2] and common[1] < common[3]:
                there = numbers[_inside(common, window)]
                here = found[_inside(common, box)]
                here[there > 0] = there[there > 0] + firsts[owner]
    whole = {
        piece: firsts[owner] + own
        for owner, each in parted.items()
        for piece, own in each.whole.items()
    }
    of_part = pieces.of_part[number]
    numbers_of_parts = np.array([0, *(whole.get(p, 0) for p in of_part.tolist())])
    if numbers_of_parts.any():
        classes = instances.classes_of(source.read(box).probabilities, rules.threshold)
        local = regions.connected_instances(classes)
        found += numbers_of_parts[local].astype(np.int32)
    return found


class Holes(NamedTuple):
    """Background of a block in connected parts.

    Attributes:
      parts: with edges that may connect over corners.
      least, most: the smallest and largest instance that each meets; where it reaches
        the image's edge, or none, these differ.
    """

    parts: Parts
    least: np.ndarray
    most: np.ndarray


def _background(labels: np.ndarray) -> np.ndarray:
    """Numbers of the parts of background, which connect over corners too."""
    return cv2.connectedComponents((labels == 0).view(np.uint8), connectivity=8)[1]


def holes(grid: Grid, number: int, read_labels: ReadLabels) -> Holes:
    """Lists the parts of background in a block.

    Args:
      grid, number: the block.
      read_labels: gives what `assemble` made, of a window of the image.
    """
    box = grid.box(number)
    window = grid.widened(box, 1)
    around = read_labels(window)
    own = _inside(box, window)
    labels = around[own]
    numbers = np.zeros(around.shape, np.int32)
    numbers[own] = _background(labels)
    count = int(numbers.max(initial=0))
    least = np.full(count + 1, np.iinfo(np.int32).max, np.int32)
    most = np.zeros(count + 1, np.int32)
    for first, second in instances.BESIDE:
        hole, other = numbers[first], around[second]
        meets = (hole > 0) & (other > 0)
        np.minimum.at(least, hole[meets], other[meets])
        np.maximum.at(most, hole[meets], other[meets])
    own_numbers = numbers[own]
    for is_edge, line in zip(
        (box[0] == 0, box[2] == grid.height, box[1] == 0, box[3] == grid.width),
        (own_numbers[0], own_numbers[-1], own_numbers[:, 0], own_numbers[:, -1]),
        strict=True,
    ):
        if is_edge:
            least[line], most[line] = 0, np.iinfo(np.int32).max
    values = np.ones(own_numbers.shape, np.uint8)
    return Holes(_parts(own_numbers, values, box), least[1:], most[1:])


def fillings(grid: Grid, found: Sequence[Holes]) -> list[np.ndarray]:
    """For each block, the instance that fills each part of background; 0 for none."""
    whole = _joined(grid, [each.parts for each in found], over_corners=True)
    least = np.full(len(whole.values), np.iinfo(np.int32).max, np.int32)
    most = np.zeros(len(whole.values), np.int32)
    of_part = np.concatenate(whole.of_part) if whole.of_part else np.zeros(0, int)
    np.minimum.at(least, of_part, np.concatenate([each.least for each in found]))
    np.maximum.at(most, of_part, np.concatenate([each.most for each in found]))
    fills = np.where(least == most, most, 0)
    return [fills[parts] for parts in whole.of_part]


def filled(labels: np.ndarray, fills: np.ndarray) -> np.ndarray:
    """A block's instances with their holes."""
    return labels + np.concatenate([[0], fills])[_background(labels)].astype(np.int32)


def finish(
    grid: Grid, number: int, read_labels: ReadLabels, rules: InstanceRules
) -> np.ndarray:
    """A block's instances, with the gaps between them given back, int32 [H, W].

    Args:
      grid, number: the block.
      read_labels: gives what `filled` made, of a window of the image.
      rules: as in `survey`.
    """
    box = grid.box(number)
    if not rules.border_px:
        return read_labels(box)
    window = grid.widened(box, 2 * (rules.border_px + 2))
    found = instances.give_back_borders(read_labels(window), rules.border_px)
    return found[_inside(box, window)]
