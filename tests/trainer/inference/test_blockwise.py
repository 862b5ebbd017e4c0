"""Instances block by block are those of the image in one piece."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from trainer.inference import blockwise
from trainer.inference.blockwise import Box, Grid, WindowSource
from trainer.inference.instances import InstanceRules, Outputs, instances_of

RULES = {
    "pieces": InstanceRules(min_size_px=5),
    "cores": InstanceRules(core_threshold=0.7, min_size_px=6),
    "bulges": InstanceRules(split_px=1.0, min_size_px=4),
    "both": InstanceRules(core_threshold=0.6, split_px=0.5),
    "bare": InstanceRules(min_size_px=0, fill_holes=False, border_px=0),
    "wide": InstanceRules(border_px=9, min_size_px=1),
}


def smooth(rng: np.random.Generator, shape, deviation_px: float) -> np.ndarray:
    """0 to 1, half of it above 0.5, in equal steps: so that there are ties."""
    found = ndimage.gaussian_filter(rng.standard_normal(shape), deviation_px)
    order = found.ravel().argsort().argsort().reshape(shape) / found.size
    return np.rint(order * 40).astype(np.float32) / 40


def outputs_of(
    rng: np.random.Generator, shape, deviation_px: float, classes: int, planes: int
) -> Outputs:
    foreground = smooth(rng, shape, deviation_px)
    share = np.clip(smooth(rng, shape, 9.0), 0.2, 0.8)
    of_classes = [foreground * share, foreground * (1 - share)]
    if classes == 2:
        of_classes = [foreground]
    stacked = np.stack([1 - foreground, *of_classes], -1).astype(np.float32)
    made = [smooth(rng, shape, deviation_px) for _ in range(planes)]
    return Outputs(stacked, np.stack(made, -1) if planes else None)


def by_blocks(outputs: Outputs, rules: InstanceRules, block: int, **how) -> np.ndarray:
    """Every step of every block, as a command would take them."""
    height, width = outputs.probabilities.shape[:2]
    grid = Grid(height, width, block)

    def read(box: Box) -> Outputs:
        part = np.s_[box[0] : box[2], box[1] : box[3]]
        planes = None if outputs.planes is None else outputs.planes[part]
        return Outputs(outputs.probabilities[part], planes)

    planes = 0 if outputs.planes is None else outputs.planes.shape[-1]
    source = WindowSource(read, planes)
    blocks = range(grid.rows * grid.columns)
    boxes = [grid.box(n) for n in blocks]
    surveys = [blockwise.survey(grid, n, source, rules) for n in blocks]
    pieces = blockwise.joined(grid, surveys)
    parted = [blockwise.part(grid, n, pieces, source, rules, **how) for n in blocks]
    firsts = blockwise.first_numbers([each.number for each in parted])
    owners = blockwise.contributors(grid, pieces)

    def laid(made) -> np.ndarray:
        whole = np.zeros((height, width), np.int32)
        for box, labels in zip(boxes, made, strict=True):
            whole[box[0] : box[2], box[1] : box[3]] = labels
        return whole

    def read_from(whole: np.ndarray):
        return lambda box: whole[box[0] : box[2], box[1] : box[3]]

    found = laid(
        blockwise.assemble(
            grid, n, pieces, {o: parted[o] for o in owners[n]}, firsts, source, rules
        )
        for n in blocks
    )
    if rules.fill_holes:
        surveyed = [blockwise.holes(grid, n, read_from(found)) for n in blocks]
        fills = blockwise.fillings(grid, surveyed)
        found = laid(
            blockwise.filled(read_from(found)(box), fill)
            for box, fill in zip(boxes, fills, strict=True)
        )
    return laid(blockwise.finish(grid, n, read_from(found), rules) for n in blocks)


def assert_same_objects(found: np.ndarray, expected: np.ndarray) -> None:
    """Pixel for pixel, up to numbers, which have no gaps."""
    pairs = np.unique(np.stack([found.ravel(), expected.ravel()]), axis=1)
    number = int(expected.max())
    assert pairs.shape[1] == len(np.unique(expected)) == len(np.unique(found))
    assert pairs[:, 0].tolist() == [0, 0] or (expected > 0).all()
    assert found.max() == number


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("classes", [2, 3])
def test_blocks_give_what_the_whole_gives(name, classes):
    """Small cells and pieces over many blocks, rings and holes among them."""
    rng = np.random.default_rng(len(name))
    for deviation_px, block in itertools.product((1.0, 2.0, 5.0), (7, 16, 40, 97)):
        outputs = outputs_of(rng, (97, 83), deviation_px, classes, 0)
        expected = instances_of(outputs.probabilities, RULES[name])
        assert_same_objects(by_blocks(outputs, RULES[name], block), expected)


@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("smoothing_px", [0.0, 1.0, 2.5])
def test_blocks_give_what_the_whole_gives_by_planes(planes, classes, smoothing_px):
    rules = InstanceRules(smoothing_px=smoothing_px, seed_threshold=0.4)
    rng = np.random.default_rng(planes)
    for deviation_px, block in itertools.product((1.5, 4.0), (11, 32, 90)):
        outputs = outputs_of(rng, (90, 101), deviation_px, classes, planes)
        expected = instances_of(outputs.probabilities, rules, outputs.planes)
        assert_same_objects(by_blocks(outputs, rules, block), expected)


def of_labels(foreground: np.ndarray) -> Outputs:
    likely = foreground.astype(np.float32)
    return Outputs(np.stack([1 - likely, likely], -1))


def test_cells_on_every_edge_and_corner_of_blocks_are_whole():
    """Squares that begin at each pixel of a block, one for each."""
    block = 12
    image = np.zeros((block * 10, block * 10), bool)
    for number, (down, across) in enumerate(itertools.product(range(9), repeat=2)):
        top, left = down * (block + 1), across * (block + 1)
        image[top : top + 3 + number % 8, left : left + 3 + number % 9] = True
    found = by_blocks(of_labels(image), RULES["bare"], block)
    expected, number = ndimage.label(image)
    assert number == 81
    assert_same_objects(found, expected)


def rings() -> np.ndarray:
    """Rings in rings, the outer ones larger than any block."""
    down, across = np.mgrid[:120, :120] - 60
    return np.rint(np.hypot(down, across)) % 10 < 5


@pytest.mark.parametrize("fill_holes", [True, False])
@pytest.mark.parametrize("border_px", [0, 3, 6])
def test_rings_larger_than_blocks(fill_holes, border_px):
    """A hole that holds other rings is none; one at the image's edge neither."""
    outputs = of_labels(rings())
    rules = InstanceRules(fill_holes=fill_holes, border_px=border_px)
    expected = instances_of(outputs.probabilities, rules)
    for block in (13, 32, 61, 200):
        assert_same_objects(by_blocks(outputs, rules, block), expected)


@pytest.mark.parametrize("filled", [0.0, 1.0])
def test_empty_and_full_images(filled):
    outputs = of_labels(np.full((30, 50), filled))
    for rules in RULES.values():
        expected = instances_of(outputs.probabilities, rules)
        assert_same_objects(by_blocks(outputs, rules, 16), expected)


def test_numbers_repeat_and_have_no_gaps():
    outputs = outputs_of(np.random.default_rng(1), (60, 60), 2.0, 2, 0)
    once, again = (by_blocks(outputs, RULES["cores"], 20) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert np.unique(once).tolist() == list(range(once.max() + 1))


def test_pieces_beyond_memory_are_kept_whole_and_reported():
    """One piece over the image's width, and cells with bridges below it."""
    likely = np.zeros((60, 90), np.float32)
    likely[5:9] = 0.9
    for left in (5, 30):
        likely[30:40, left : left + 8] = likely[30:40, left + 10 : left + 18] = 0.9
        likely[34:36, left + 8 : left + 10] = 0.6  # a bridge of doubt
    outputs = Outputs(np.stack([1 - likely, likely], -1))
    rules = InstanceRules(core_threshold=0.7, border_px=0)
    grid = Grid(60, 90, 16)
    source = WindowSource(lambda b: Outputs(outputs[0][b[0] : b[2], b[1] : b[3]]))
    surveys = [blockwise.survey(grid, n, source, rules) for n in range(24)]
    pieces = blockwise.joined(grid, surveys)
    assert sorted(pieces.sizes.tolist()) == [164, 164, 360]
    parted = [
        blockwise.part(grid, n, pieces, source, rules, most_px=200) for n in range(24)
    ]
    [too_large] = [piece for each in parted for piece in each.too_large]
    assert pieces.boxes[too_large].tolist() == [5, 0, 9, 90]
    expected = instances_of(outputs.probabilities, rules)
    assert expected.max() == 5
    assert_same_objects(by_blocks(outputs, rules, 16, most_px=200), expected)


def test_parting_reads_no_more_than_its_pieces_reach():
    """A block's memory does not depend on the image's size."""
    image = np.zeros((200, 200), bool)
    image[38:45, 38:45] = image[150:160, 150:160] = True
    read = []

    def window(box: Box) -> Outputs:
        read.append(box)
        return of_labels(image[box[0] : box[2], box[1] : box[3]])

    grid, rules = Grid(200, 200, 40), InstanceRules(split_px=1.0)
    surveys = [
        blockwise.survey(grid, n, WindowSource(window), rules) for n in range(25)
    ]
    pieces = blockwise.joined(grid, surveys)
    assert [(b - t, r - lf) for t, lf, b, r in read] == [(40, 40)] * 25
    read.clear()
    blockwise.part(grid, 0, pieces, WindowSource(window), rules)
    assert read == [(37, 37, 46, 46)]


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_background_connects_over_the_corner_of_blocks(is_mirrored):
    """So what looks like a hole in its block is open to the image's edge."""
    image = np.ones((8, 8), bool)
    image[3, 3] = image[4, 4:] = False
    image = image[:, ::-1] if is_mirrored else image
    outputs = of_labels(image)
    expected = instances_of(outputs.probabilities, InstanceRules())
    assert (expected == 0).any()
    assert_same_objects(by_blocks(outputs, InstanceRules(), 4), expected)
