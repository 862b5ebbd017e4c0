"""Changes that cost next to nothing: flips, quarter turns, grey values, by seed.

On top of what preprocess made, so that a tile differs each time that it comes.
"""

import ml_collections
import tensorflow as tf

PICTURES = ("image", "label", "weight", "planes")


def change(
    tile: dict[str, tf.Tensor],
    number: tf.Tensor,
    *,
    augment: ml_collections.ConfigDict,
    seed: int,
) -> dict[str, tf.Tensor]:
    """A tile changed at random.

    Args:
      tile: as `input_pipeline.parse_tile` makes it.
      number: int64, the tile's number since training began: with the seed it decides.
      augment: the config's `train.augment`.
      seed: the config's.
    """
    drawn = tf.random.stateless_uniform(
        [5], tf.stack([tf.cast(seed, tf.int64), number]), alg="philox"
    )
    # Every flip and turn of the square is a transposition, or none, then mirroring.
    quarters = (
        tf.cast(4 * drawn[0], tf.int32) if augment.quarter_turns else tf.constant(0)
    )
    rows, columns = tf.unstack(drawn[1:3] < 0.5 if augment.flip else [False, False])
    rows = tf.math.logical_xor(rows, tf.logical_and(quarters > 0, quarters < 3))
    columns = tf.math.logical_xor(columns, quarters >= 2)
    odd = tf.equal(quarters % 2, 1)

    def turned(array):
        """The label lies in the middle of the image, so both turn alike."""
        # Flat where it can be: of one channel TensorFlow mirrors each pixel by itself.
        made = array[..., 0] if array.shape[2:] == [1] else array
        axes = [1, 0, *range(2, made.shape.rank)]
        made = tf.cond(odd, lambda: tf.transpose(made, axes), lambda: made)
        made = tf.cond(rows, lambda: tf.reverse(made, [0]), lambda: made)
        made = tf.cond(columns, lambda: tf.reverse(made, [1]), lambda: made)
        return tf.reshape(made, array.shape)

    # (x - mean) / std * contrast + brightness is another mean and deviation: no pixel
    # is touched.
    contrast = tf.exp((2 * drawn[3] - 1) * augment.contrast)
    brightness = (2 * drawn[4] - 1) * augment.brightness
    std = tile["std"] / contrast
    return {
        **tile,
        **{name: turned(tile[name]) for name in PICTURES if name in tile},
        "mean": tile["mean"] - brightness * std,
        "std": std,
    }
