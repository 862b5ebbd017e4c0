"""What a SavedModel can be asked: its signatures, all over one network.

| signature         | takes                                       | gives, of        |
|-------------------|---------------------------------------------|------------------|
| `serving_default` | `image` float32 [B, H, W, C], raw           | the whole images |
| `image_tta`       | the same; averages over eight symmetries    | the whole images |
| `image_bytes`     | `image_bytes` [B], PNG or JPEG of one size  | the whole images |
| `tile`            | `tile` float32 [B, T, T', C], raw; `mean`   | outputs of tiles |
|                   | and `std` [B, C], of their whole images     |                  |
| `tf_example`      | `examples` [B], our records                 | outputs of tiles |

Each gives `probabilities` float32 [B, ., ., K] and `classes` uint8 [B, ., .]. A model
that normalises by its data set knows mean and deviation: `tile` then takes neither.
"""

import functools
from collections.abc import Sequence
from typing import Any

import msgspec
import tensorflow as tf

from trainer.devices.graphs import graph_function
from trainer.inference.segmenter import Segmenter
from trainer.input.input_pipeline import decode_pixels
from unet_tfrecords.dataset import tiling
from unet_tfrecords.dataset.records import Geometry

BYTES_CHANNELS = (1, 3, 4)  # what PNG and JPEG can hold


class SignatureSet(tf.Module):
    """A segmenter with all its signatures."""

    def __init__(
        self,
        segmenter: Segmenter,
        geometry: Geometry,
        variables: Sequence[tf.Variable] = (),
    ):
        """Wraps a segmenter.

        Args:
          segmenter: over a network, as a tf.function.
          geometry: of the records that the network learned from.
          variables: what that function reads; none where it holds constants.
        """
        super().__init__(name="served")
        self.geometry = geometry
        self.weights = list(variables)
        channels = geometry.channels
        image = tf.TensorSpec([None, None, None, channels], tf.float32, name="image")
        whole, averaged = (
            graph_function(functools.partial(segmenter.segment, tta=tta), [image])
            for tta in (segmenter.tta, True)
        )
        self.functions: dict[str, Any] = {
            "serving_default": whole,
            "image_tta": averaged,
            "tile": tile_function(segmenter, channels),
            "tf_example": example_function(segmenter, geometry),
        }
        if channels in BYTES_CHANNELS:
            self.functions["image_bytes"] = bytes_function(whole, channels)


def bytes_function(segment, channels: int):
    """Encoded images, all of one size, through `segment`."""
    pixels = tf.TensorSpec([None, None, channels], tf.float32)
    encoded = tf.TensorSpec([None], tf.string, name="image_bytes")

    @graph_function(input_signature=[encoded])
    def from_bytes(image_bytes):
        return segment(
            tf.map_fn(
                lambda one: decode_image(one, channels),
                image_bytes,
                fn_output_signature=pixels,
            )
        )

    return from_bytes


def decode_image(encoded: tf.Tensor, channels: int) -> tf.Tensor:
    """A PNG's or JPEG's intensities as stored, by the rules of `images.read_image`.

    Args:
      encoded: string [].
      channels: how many there must be; alpha is dropped, and three equal ones are one.

    Returns:
      float32 [H, W, channels].
    """
    header = tf.strings.substr(encoded, 0, 25) + tf.constant(b"\0" * 25)
    is_png = tf.strings.substr(header, 1, 3) == "PNG"
    has_16_bits = is_png & (tf.strings.substr(header, 24, 1) == b"\x10")

    def as_float(decode, **options):
        return lambda: tf.cast(decode(encoded, **options), tf.float32)

    pixels = tf.case(
        [
            (has_16_bits, as_float(tf.io.decode_png, dtype=tf.uint16)),
            (is_png, as_float(tf.io.decode_png)),
        ],
        default=as_float(tf.io.decode_jpeg, dct_method="INTEGER_ACCURATE"),
    )
    count = tf.shape(pixels)[2]
    if channels < 4:
        count -= 1 - count % 2  # without alpha
        pixels = pixels[..., :count]
    if channels == 1:
        same = tf.reduce_all(pixels == pixels[..., :1])
        count = tf.where(same, 1, count)
    expected = f"an image's channels, where this model takes {channels}:"
    with tf.control_dependencies(
        [tf.debugging.Assert(count == channels, [expected, count])]
    ):
        return tf.ensure_shape(pixels[..., :channels], [None, None, channels])


def _tile_outcome(segmenter: Segmenter, tile_BTTC, mean_BC, std_BC):
    """Tiles through the network; deviation 0 counts as 1, as for whole images."""
    depth = segmenter.depth
    for size in tf.unstack(tf.shape(tile_BTTC)[1:3]):
        legal = (size - tiling.border(depth) - 4) % 2**depth == 0
        at_least = size > tiling.border(depth)
        text = f"a tile's edge is not legal (see tile in model.json), depth {depth}:"
        # Two, because GPUs would compute their "and" and have the host wait for it.
        tf.debugging.Assert(legal, [text, size])
        tf.debugging.Assert(at_least, [text, size])
    std_BC = tf.where(std_BC > 0, std_BC, tf.ones_like(std_BC))
    normal = (tile_BTTC - mean_BC[:, None, None]) / std_BC[:, None, None]
    logits = segmenter.network(normal)
    return segmenter.outcome(tf.nn.softmax(tf.cast(logits, tf.float32)))


def tile_function(segmenter: Segmenter, channels: int):
    """Legal tiles, for who tiles by himself."""
    tile = tf.TensorSpec([None, None, None, channels], tf.float32, name="tile")
    if segmenter.normalization:
        known = [list(v) for v in msgspec.structs.astuple(segmenter.normalization)]

        @graph_function(input_signature=[tile])
        def of_tile(tile):
            mean, std = (tf.constant([values], tf.float32) for values in known)
            return _tile_outcome(segmenter, tile, mean, std)

        return of_tile
    mean, std = (
        tf.TensorSpec([None, channels], tf.float32, name=name)
        for name in ("mean", "std")
    )

    @graph_function(input_signature=[tile, mean, std])
    def of_tile_and_moments(tile, mean, std):
        return _tile_outcome(segmenter, tile, mean, std)

    return of_tile_and_moments


def example_function(segmenter: Segmenter, geometry: Geometry):
    """Records of the schema of `dataset.records`, whatever else they hold."""
    dtype = tf.uint16 if geometry.bits == 16 else tf.uint8
    shape = [geometry.tile_size, geometry.tile_size, geometry.channels]
    moments = tf.io.FixedLenFeature([geometry.channels], tf.float32)
    spec = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "mean": moments,
        "std": moments,
    }

    @graph_function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def from_examples(examples):
        features = tf.io.parse_example(examples, spec)
        images = tf.map_fn(
            lambda encoded: decode_pixels(encoded, geometry),
            features["image"],
            fn_output_signature=tf.TensorSpec(shape, dtype),
        )
        tiles = tf.cast(images, tf.float32)
        return _tile_outcome(segmenter, tiles, features["mean"], features["std"])

    return from_examples
