"""Dropout: a tile's mask is a function of its seed, whatever it is drawn with."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.network.dropout import TileDropout, TileSeeds

SHAPE = (5, 7, 3)  # 105 values: the random numbers come in fours


def dropped(
    first: int, tiles: int, *, compiled: bool, layer=4, rate=0.3, dtype="float32"
):
    """Ones through the layer: 0, or 1 / (1 - rate)."""
    seeds = TileSeeds()
    dropout = TileDropout(rate, seed=layer, seeds=seeds, dtype=dtype)

    @tf.function(jit_compile=compiled)
    def run(seed):
        seeds.first = seed
        return dropout(tf.ones([tiles, *SHAPE], dtype), training=True)

    return run(tf.constant(first, tf.int64)).numpy()


@pytest.mark.parametrize("compiled", (False, True))
def test_a_mask_depends_on_its_tiles_seed_alone(compiled):
    """Eight tiles at once are the same as in parts and one by one."""
    start = 123 * 2**20 + 16  # as at step 123
    together = dropped(start, 8, compiled=compiled)
    parts = [dropped(start + n, 2, compiled=compiled) for n in (0, 2, 4, 6)]
    np.testing.assert_array_equal(np.concatenate(parts), together)
    for index in (0, 3, 7):
        alone = dropped(start + index, 1, compiled=compiled)
        np.testing.assert_array_equal(alone[0], together[index])
    assert len({tile.tobytes() for tile in together}) == 8


@pytest.mark.parametrize("dtype", ("float32", "bfloat16", "float16"))
def test_the_rate_and_the_scale(dtype):
    values = dropped(0, 200, compiled=False, rate=0.25, dtype=dtype).astype(np.float64)
    zeros = (values == 0).mean()
    assert zeros == pytest.approx(0.25, abs=0.01)  # 21,000 values: deviation 0.003
    kept = values[values > 0]
    np.testing.assert_allclose(kept, 4 / 3, rtol=0.01)


def test_layers_and_steps_draw_other_masks():
    first = dropped(0, 1, compiled=False)
    for other in (
        dropped(0, 1, compiled=False, layer=5),
        dropped(2**20, 1, compiled=False),
    ):
        same = (first == other).mean()
        assert same == pytest.approx(0.7**2 + 0.3**2, abs=0.15)


def test_nothing_is_dropped_when_not_training():
    layer = TileDropout(0.5, seed=1, seeds=TileSeeds())
    np.testing.assert_array_equal(layer(np.ones((1, *SHAPE))), np.ones((1, *SHAPE)))
