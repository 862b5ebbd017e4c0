"""Changes that cost next to nothing: flips, quarter turns, grey values, by seed.

On top of what preprocess made, so that a tile differs each time that it comes.
"""

import ml_collections
import tensorflow as tf


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
        [6], tf.stack([tf.cast(seed, tf.int64), number]), alg="philox"
    )
    arrays = [tile["image"], tile["label"][..., None], tile["weight"][..., None]]
    # The label lies in the middle of the image, so both turn alike.
    if augment.flip:
        arrays = [
            tf.cond(drawn[0] < 0.5, lambda a=a: a[::-1], lambda a=a: a) for a in arrays
        ]
        arrays = [
            tf.cond(drawn[1] < 0.5, lambda a=a: a[:, ::-1], lambda a=a: a)
            for a in arrays
        ]
    if augment.quarter_turns:
        quarters = tf.cast(drawn[2] * 4, tf.int32)
        arrays = [tf.image.rot90(a, quarters) for a in arrays]
    image, label, weight = arrays
    # (x - mean) / std * contrast + brightness is another mean and deviation: no pixel
    # is touched.
    contrast = tf.exp((2 * drawn[3] - 1) * augment.contrast)
    brightness = (2 * drawn[4] - 1) * augment.brightness
    std = tile["std"] / contrast
    return {
        **tile,
        "image": tf.ensure_shape(image, tile["image"].shape),
        "label": tf.ensure_shape(label[..., 0], tile["label"].shape),
        "weight": tf.ensure_shape(weight[..., 0], tile["weight"].shape),
        "mean": tile["mean"] - brightness * std,
        "std": std,
    }
