"""What a SavedModel can be asked: its signatures, all over one network.

| signature         | takes                                       | gives, of        |
|-------------------|---------------------------------------------|------------------|
| `serving_default` | `image` float32 [B, H, W, C], raw           | the whole images |
| `image_tta`       | the same; averages over eight symmetries    | the whole images |
| `image_bytes`     | `image_bytes` [B], PNG or JPEG of one size  | the whole images |
| `tile`            | `tile` float32 [B, T, T', C], raw; `mean`   | outputs of tiles |
|                   | and `std` [B, C], of their whole images     |                  |
| `tf_example`      | `examples` [B], our records                 | outputs of tiles |

Each gives `probabilities` float32 [B, ., ., K] and `classes` uint8 [B, ., .], and, by
targets that have any, `planes` float32 [B, ., ., P], 0 to 1. A model
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

# The orientation tag of EXIF in any bytes (EXIF 2.3, 4.6.4), in either byte order.
_ORIENTATION = (
    rb"\C*(?:Exif\x00\x00|eXIf)"
    rb"(?:II\C{2,500}\x12\x01\x03\x00\x01\x00\x00\x00([\x01-\x08])\x00"
    rb"|MM\C{2,500}\x01\x12\x00\x03\x00\x00\x00\x01\x00([\x01-\x08]))\C*"
)


class SignatureSet(tf.Module):
    """A segmenter with all its signatures."""

    def __init__(
        self,
        segmenter: Segmenter,
        geometry: Geometry,
        variables: Sequence[tf.Variable] = (),
        selected: Sequence[int] = (),
        images: int = 1,
    ):
        """Wraps a segmenter.

        Args:
          segmenter: over a network, as a tf.function.
          geometry: of the records that the network learned from.
          variables: what that function reads; none where it holds constants.
          selected: which channels of an encoded image the network takes; () for all.
          images: whose channels it takes: a frame's and its neighbours'.
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
        if channels_in_file(channels, selected, images):
            self.functions["image_bytes"] = bytes_function(whole, channels, selected)


def channels_in_file(
    channels: int, selected: Sequence[int] = (), images: int = 1
) -> int:
    """How many channels of a PNG or JPEG a model takes its own from; 0 if none does.

    A model that takes several images at once takes none in one file.

    >>> channels_in_file(3), channels_in_file(2), channels_in_file(2, (0, 2))
    (3, 0, 3)
    """
    if images > 1:
        return 0
    wanted = max(selected, default=channels - 1) + 1
    if selected:
        wanted = max(wanted, 3)
    return wanted if wanted in (1, 3, 4) else 0


def bytes_function(segment, channels: int, selected: Sequence[int]):
    """Encoded images, all of one size, through `segment`."""
    pixels = tf.TensorSpec([None, None, channels], tf.float32)
    encoded = tf.TensorSpec([None], tf.string, name="image_bytes")

    @graph_function(input_signature=[encoded])
    def from_bytes(image_bytes):
        return segment(
            tf.map_fn(
                lambda one: decode_image(one, channels, selected),
                image_bytes,
                fn_output_signature=pixels,
            )
        )

    return from_bytes


def decode_image(
    encoded: tf.Tensor, channels: int, selected: Sequence[int] = ()
) -> tf.Tensor:
    """A PNG's or JPEG's intensities as stored, by the rules of `images.read_image`.

    Args:
      encoded: string [].
      channels: how many there must be; alpha is dropped, three equal ones are one,
        and grey is three equal ones.
      selected: which of the image's they are; () takes all.

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
    if selected:
        most = max(selected)
        enough = tf.debugging.Assert(
            count > most, [f"this model takes channel {most}, of channels:", count]
        )
        with tf.control_dependencies([enough]):
            return _upright(encoded, tf.gather(pixels, list(selected), axis=2))
    if channels < 4:
        count -= 1 - count % 2  # without alpha
        pixels = pixels[..., :count]
    if channels == 1:
        same = tf.reduce_all(pixels == pixels[..., :1])
        count = tf.where(same, 1, count)
    if channels == 3:
        is_grey = count == 1
        pixels = tf.repeat(pixels, tf.where(is_grey, 3, 1), axis=2)
        count = tf.where(is_grey, 3, count)
    expected = f"an image's channels, where this model takes {channels}:"
    with tf.control_dependencies(
        [tf.debugging.Assert(count == channels, [expected, count])]
    ):
        pixels = tf.ensure_shape(pixels[..., :channels], [None, None, channels])
    return _upright(encoded, pixels)


def _upright(encoded: tf.Tensor, pixels: tf.Tensor) -> tf.Tensor:
    """Turns pixels [H, W, C] as an orientation tag says, like `pages.upright`."""

    def turned() -> tf.Tensor:
        found = tf.strings.regex_replace(encoded, _ORIENTATION, rb"\1\2")
        orientation = tf.cast(tf.io.decode_raw(found, tf.uint8)[0], tf.int32)
        swapped = tf.cond(
            orientation >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels
        )
        for axis, mirrored in ((0, (3, 4, 7, 8)), (1, (2, 3, 6, 7))):
            is_mirrored = tf.reduce_any(orientation == mirrored)
            step = tf.where(is_mirrored, -1, 1)
            ends = [slice(None), slice(None)]
            ends[axis] = slice(None, None, step)
            swapped = swapped[tuple(ends)]
        return swapped

    has_tag = tf.strings.regex_full_match(encoded, _ORIENTATION)
    result = tf.cond(has_tag, turned, lambda: pixels)
    return tf.ensure_shape(result, [None, None, pixels.shape[2]])


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
    return segmenter.outcome(segmenter.activated(logits))


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
