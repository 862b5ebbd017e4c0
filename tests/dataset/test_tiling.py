"""Geometry at every depth, against a simulation layer by layer."""

import numpy as np
import pytest

from unet_tfrecords.dataset import tiling

DEPTHS = range(1, 7)


def simulate(size: int, depth: int) -> tuple[int, list[int]] | None:
    """Output size and skip crops of the network, or None where it does not fit."""
    skips, crops = [], []
    for _ in range(depth):
        size -= 4
        if size <= 0 or size % 2:
            return None
        skips.append(size)
        size //= 2
    size -= 4
    for skip in reversed(skips):
        size *= 2
        crops.append((skip - size) // 2)
        size -= 4
        if size <= 0:
            return None
    return size, crops


@pytest.mark.parametrize("depth", DEPTHS)
def test_legal_sizes_are_those_the_layers_allow(depth):
    for size in range(1, tiling.border(depth) + 200):
        simulated = simulate(size, depth)
        assert tiling.is_legal_input(size, depth) == (simulated is not None), size
        if simulated:
            assert tiling.output_size(size, depth) == simulated[0]
            assert tiling.skip_crops(depth) == simulated[1]


def test_the_papers_numbers():
    assert tiling.output_size(572, 4) == 388
    assert tiling.border(4) == 184
    assert tiling.skip_crops(4) == [4, 16, 40, 88]
    assert tiling.tile_origins(512, 388) == [0, 124]
    assert 512 + 2 * tiling.pad(4) == 696
    assert not tiling.is_legal_input(696, 4)


def test_illegal_size_names_the_nearest():
    with pytest.raises(ValueError, match="696 px is not legal.* 684 or 700"):
        tiling.output_size(696, 4)


@pytest.mark.parametrize("depth", DEPTHS)
def test_smallest_legal_input_is_found(depth):
    for output in range(1, 150):
        size = tiling.legal_input_at_least(output, depth)
        legal = [s for s in range(1, size) if tiling.is_legal_input(s, depth)]
        assert tiling.output_size(size, depth) >= output
        assert not legal or legal[-1] - tiling.border(depth) < output


@pytest.mark.parametrize("output", [4, 20, 388])
def test_tiles_cover_the_frame_and_stay_inside(output):
    for frame in range(1, 1200):
        origins = tiling.tile_origins(frame, output)
        covered = np.zeros(max(frame, output), bool)
        for origin in origins:
            covered[origin : origin + output] = True
        assert covered[:frame].all()
        assert origins[0] == 0
        assert origins[-1] == max(0, frame - output)
        assert len(origins) == -(-frame // output)


@pytest.mark.parametrize("depth", DEPTHS)
def test_inference_grid_is_aligned_and_covers(depth):
    step = 2**depth
    for largest in (4 + step, 4 + 3 * step, 4 + 32 * step):
        for frame in range(1, 700):
            tiles, stride = tiling.inference_grid(frame, largest, depth)
            assert stride % step == 0
            assert stride + 4 <= largest
            assert tiles * stride >= frame > (tiles - 1) * stride
            assert tiling.is_legal_input(stride + 4 + tiling.border(depth), depth)


def test_mirror_indices_are_numpys_reflection():
    for size in (1, 2, 3, 7, 200):
        line = np.arange(size)
        expected = np.pad(line, 92, mode="reflect")
        indices = tiling.mirror_indices(-92, size + 92, size)
        np.testing.assert_array_equal(line[indices], expected)
