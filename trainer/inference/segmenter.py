"""Whole images through the network, as TensorFlow graph code: seams are exact.

normalise -> mirror-pad -> cut tiles at multiples of 2**depth -> network -> stitch.
Shapes: B images, H, W their pixels, C channels, K classes.
"""

import functools
from collections.abc import Callable

import tensorflow as tf

from trainer.inference.symmetry import SYMMETRIES, Symmetry
from unet_tfrecords.dataset import tiling
from unet_tfrecords.dataset.dataset_info import Normalization
from unet_tfrecords.dataset.targets import planes_are

DEFAULT_OUTPUT = 1028  # px: see docs/inference.md on what tiles cost


def mirrored(position: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """`dataset.tiling.mirror_indices`, for positions and sizes of the graph."""
    period = tf.maximum(tf.ones_like(size), 2 * (size - 1))
    position = tf.math.floormod(position, period)
    return tf.minimum(position, period - position)


def apply_symmetry(symmetry: Symmetry, image_BHWC: tf.Tensor) -> tf.Tensor:
    """Images turned or mirrored."""
    if symmetry.transposed:
        image_BHWC = tf.transpose(image_BHWC, [0, 2, 1, 3])
    return tf.reverse(image_BHWC, symmetry.axes) if symmetry.axes else image_BHWC


def undo_symmetry(symmetry: Symmetry, image_BHWC: tf.Tensor) -> tf.Tensor:
    """What `apply_symmetry` has made, as it was."""
    if symmetry.axes:
        image_BHWC = tf.reverse(image_BHWC, symmetry.axes)
    return tf.transpose(image_BHWC, [0, 2, 1, 3]) if symmetry.transposed else image_BHWC


class Segmenter(tf.Module):
    """Segments raw images of any size; what is exported as a SavedModel."""

    def __init__(
        self,
        network: Callable[[tf.Tensor], tf.Tensor],
        *,
        depth: int,
        classes: int,
        planes: int = 0,
        tile: int = 0,
        tiles_per_step: int = 1,
        normalization: Normalization | None = None,
        tta: bool = False,
        threshold: float = 0.5,
    ):
        """Wraps a network.

        Args:
          network: normalised legal tiles to logits, as `build_model` makes it.
          depth: its poolings.
          classes: its classes.
          planes: of its target, beside the classes.
          tile: the largest input tile in px, legal at this depth; smaller ones are
            taken where an image needs no more. 0 takes the one that gives 1028 px.
          tiles_per_step: tiles that the network is given at once.
          normalization: `mean` and `std` of each channel, as `dataset_info.json` has
            them; None normalises each image by its own.
          tta: averages over the eight symmetries of the square (paper, section 4.1:
            over rotated versions of the image).
          threshold: for `classes`, see `instances.InstanceRules`.

        Raises:
          ValueError: an illegal tile.
        """
        super().__init__(name="segmenter")
        self.network = network
        self.depth = depth
        self.classes = classes
        self.planes = planes
        self.channels = classes + planes
        self.normalization = normalization
        self.tta = tta
        self.threshold = threshold
        self.tiles_per_step = tiles_per_step
        self.tile = tile or tiling.legal_input_at_least(DEFAULT_OUTPUT, depth)
        self.largest_output = tiling.output_size(self.tile, depth)
        tiling.inference_grid(1, self.largest_output, depth)  # raises where too small

    def __call__(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """Segments images.

        Args:
          image: float32 [B, H, W, C], raw intensities.

        Returns:
          probabilities float32 [B, H, W, K] and classes uint8 [B, H, W]; planes
          float32 [B, H, W, P], 0 to 1, where the target has any.
        """
        return self.segment(image, self.tta)

    def segment(self, image: tf.Tensor, tta: bool) -> dict[str, tf.Tensor]:
        """The same, averaged over the symmetries or not."""
        normal = self.normalise(image)
        return self.outcome(self.averaged(normal) if tta else self.stitch(normal))

    def activated(self, logits: tf.Tensor) -> tf.Tensor:
        """Probabilities of the classes, then the planes: float32 [..., K + P]."""
        logits = tf.cast(logits, tf.float32)
        probabilities = tf.nn.softmax(logits[..., : self.classes])
        if not self.planes:
            return probabilities
        planes = logits[..., self.classes :]
        if planes_are(self.planes) == "probabilities":
            planes = tf.sigmoid(planes)
        else:
            planes = tf.clip_by_value(planes, 0.0, 1.0)
        return tf.concat([probabilities, planes], axis=-1)

    def outcome(self, outputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """What every signature gives: probabilities, and classes by the threshold.

        As `instances.classes_of` does; and planes, where there are any.
        """
        probabilities = outputs[..., : self.classes]
        foreground = probabilities[..., 1:]
        if self.classes == 2:
            classes = tf.cast(foreground[..., 0] > self.threshold, tf.uint8)
        else:
            best = tf.cast(tf.argmax(foreground, axis=-1) + 1, tf.uint8)
            odds = tf.reduce_max(foreground, axis=-1) * (1 - self.threshold)
            is_foreground = odds > probabilities[..., 0] * self.threshold
            classes = tf.where(is_foreground, best, tf.zeros_like(best))
        named = {"probabilities": probabilities, "classes": classes}
        if self.planes:
            named["planes"] = outputs[..., self.classes :]
        return named

    def normalise(self, image_BHWC: tf.Tensor) -> tf.Tensor:
        """Images as the network was trained on them.

        Raises:
          tf.errors.InvalidArgumentError: NaN or infinite, in the image or by now. The
            network would hide it: a ReLU makes 0 of NaN on processors.
        """
        if self.normalization:
            mean, std = self.normalization.mean, self.normalization.std
            normal = (image_BHWC - mean) / std
        else:
            normal = normalise_images(image_BHWC)
        return tf.debugging.check_numerics(normal, "the image holds NaN or infinity")

    def averaged(self, image_BHWC: tf.Tensor) -> tf.Tensor:
        """Mean probabilities over the eight symmetries, of normalised images."""
        shape = tf.concat([tf.shape(image_BHWC)[:3], [self.channels]], 0)

        def add_one(number, total):
            def each(change, images):
                return tf.switch_case(
                    number,
                    [functools.partial(change, way, images) for way in SYMMETRIES],
                )

            turned = tf.ensure_shape(each(apply_symmetry, image_BHWC), loose)
            total += each(undo_symmetry, self.stitch(turned))
            return number + 1, tf.ensure_shape(total, sums)

        # A loop, so that the network stands in the graph once and not eight times.
        loose = [None, None, None, image_BHWC.shape[3]]
        sums = [None, None, None, self.channels]
        total = tf.ensure_shape(tf.zeros(shape), sums)
        _, total = tf.while_loop(
            lambda number, _: number < len(SYMMETRIES),
            add_one,
            (tf.constant(0), total),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape(sums)),
            parallel_iterations=1,
        )
        return total / len(SYMMETRIES)

    def stitch(self, image_BHWC: tf.Tensor) -> tf.Tensor:
        """Probabilities of normalised images, tile by tile."""
        shape = tf.shape(image_BHWC)
        batch, height, width = shape[0], shape[1], shape[2]
        grid = (self.largest_output, self.depth)
        rows, down = tiling.inference_grid(height, *grid)
        columns, across = tiling.inference_grid(width, *grid)
        around = tiling.border(self.depth) + 4  # see inference_grid on the 4
        pad = tiling.pad(self.depth)
        total = batch * rows * columns
        # Loops and sizes stay on the host; indices of pixels are computed where the
        # pixels are. Counted there too, in int64, since GPUs compute int32 on the host:
        # otherwise each tile would wait for numbers that cross between the two.
        sizes = (height, width, rows, columns, down, across)
        height_, width_, rows_, columns_, down_, across_ = (
            tf.cast(size, tf.int64) for size in sizes
        )
        window_rows, window_columns = (
            tf.cast(tf.range(size + around), tf.int64) - pad for size in (down, across)
        )
        all_rows = tf.reshape(image_BHWC, [batch * height, width, image_BHWC.shape[3]])
        at_once = tf.range(self.tiles_per_step, dtype=tf.int64)

        def windows(numbers):
            """Tiles' inputs, out of the mirrored image that is never made whole."""
            image, place = numbers // (rows_ * columns_), numbers % (rows_ * columns_)
            top, left = place // columns_ * down_, place % columns_ * across_
            ys = mirrored(top[:, None] + window_rows, height_)
            xs = mirrored(left[:, None] + window_columns, width_)
            strips = tf.gather(all_rows, image[:, None] * height_ + ys)
            return tf.gather(strips, xs, axis=2, batch_dims=1)

        def probabilities_from(step, first):
            """Of the tiles of one step, of which the last may have fewer."""
            count = tf.minimum(self.tiles_per_step, total - step * self.tiles_per_step)
            inputs = windows(first + at_once[:count])
            logits = self.network(inputs)[:, :down, :across]
            return self.activated(logits)

        steps = -(-total // self.tiles_per_step)
        pieces = tf.TensorArray(
            tf.float32,
            size=steps,
            infer_shape=False,
            element_shape=[None, None, None, self.channels],
        )
        _, _, pieces = tf.while_loop(
            lambda step, *_: step < steps,
            lambda step, first, done: (
                step + 1,
                first + self.tiles_per_step,
                done.write(step, probabilities_from(step, first)),
            ),
            (0, tf.constant(0, tf.int64), pieces),
            parallel_iterations=1,  # one step's activations in memory at a time
        )
        # Pieces of one size are stacked: to join others the host asks for their sizes.
        outputs = pieces.stack() if self.tiles_per_step == 1 else pieces.concat()
        split = [batch, rows, columns, down, across, self.channels]
        ordered = tf.transpose(tf.reshape(outputs, split), [0, 1, 3, 2, 4, 5])
        whole = [batch, rows * down, columns * across, self.channels]
        return tf.reshape(ordered, whole)[:, :height, :width]


def normalise_images(image_BHWC: tf.Tensor) -> tf.Tensor:
    """Each image's channels to mean 0 and deviation 1; a constant channel to 0."""
    # From the first pixel's value: exact for constant images, and for small contrasts
    # on a large offset, where float32's values are not. The sums are float64: those of
    # float32 over a frame are off by some 1e-5 of the deviation.
    shifted = image_BHWC - image_BHWC[:, :1, :1]
    mean, variance = tf.nn.moments(tf.cast(shifted, tf.float64), [1, 2], keepdims=True)
    mean, std = tf.cast(mean, tf.float32), tf.cast(tf.sqrt(variance), tf.float32)
    return (shifted - mean) / tf.where(std > 0, std, tf.ones_like(std))
