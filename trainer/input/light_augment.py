"""Changes that cost little: flips, quarter turns, grey values, blur, noise, by seed.

On top of what preprocess made, so that a tile differs each time that it comes.
"""

import math

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
    made = {name: turned(tile[name]) for name in PICTURES if name in tile}
    if augment.blur_px or augment.gradient or augment.noise:
        own = tf.stack([tf.cast(seed, tf.int64), number])
        made["image"] = seen_worse(made["image"], tile["std"], own, augment)
    return {
        **tile,
        **made,
        "mean": tile["mean"] - brightness * std,
        "std": std,
    }


def seen_worse(
    image_TTC: tf.Tensor,
    std_C: tf.Tensor,
    seed: tf.Tensor,
    augment: ml_collections.ConfigDict,
) -> tf.Tensor:
    """An image as another microscope might see it: less sharp, uneven, noisy.

    Args:
      image_TTC: uint8 or uint16.
      std_C: float32, the frame's deviation.
      seed: int64 [2]; what `change` draws by it is independent of this.
      augment: the config's `train.augment`.

    Returns:
      The same shape and dtype, rounded and clipped.
    """
    parts = [tf.random.experimental.stateless_fold_in(seed, part) for part in (1, 2)]
    drawn = tf.random.stateless_uniform([4], parts[0], alg="philox")
    pixels_TTC = tf.cast(image_TTC, tf.float32)
    if augment.blur_px:
        pixels_TTC = _blurred(pixels_TTC, drawn[0] * augment.blur_px, augment.blur_px)
    if augment.gradient:
        along_T = tf.linspace(-1.0, 1.0, image_TTC.shape[0])
        down, across = tf.unstack((2 * drawn[1:3] - 1) * augment.gradient)
        slope_TT = down * along_T[:, None] + across * along_T
        pixels_TTC += slope_TT[..., None] * std_C
    if augment.noise:
        noise_TTC = tf.random.stateless_normal(image_TTC.shape, parts[1], alg="philox")
        pixels_TTC += noise_TTC * (drawn[3] * augment.noise) * std_C
    top = image_TTC.dtype.max
    return tf.cast(tf.round(tf.clip_by_value(pixels_TTC, 0, top)), image_TTC.dtype)


def _blurred(image_TTC: tf.Tensor, sigma: tf.Tensor, largest: float) -> tf.Tensor:
    """Through a Gaussian filter, mirrored at the edges, one axis after the other.

    A sum of shifted images: the same on every machine, as convolutions need not be.

    Args:
      image_TTC: float32.
      sigma: float32 [], px, at most `largest`.
    """
    reach, size = math.ceil(3 * largest), image_TTC.shape[0]
    offsets = tf.range(-reach, reach + 1, dtype=tf.float32)
    powers = tf.exp(-0.5 * tf.square(offsets / tf.maximum(sigma, 1e-3)))
    shares = tf.unstack(powers / tf.reduce_sum(powers))
    for axis in (0, 1):
        around = [[reach, reach] if a == axis else [0, 0] for a in range(3)]
        padded = tf.pad(image_TTC, around, "REFLECT")
        image_TTC = tf.add_n(
            [
                share * _from(padded, first, size, axis)
                for first, share in enumerate(shares)
            ]
        )
    return image_TTC


def _from(image: tf.Tensor, first: int, size: int, axis: int) -> tf.Tensor:
    """So many rows or columns."""
    if axis == 0:
        return image[first : first + size]
    return image[:, first : first + size]
