"""Whole images through the network, as TensorFlow graph code: seams are exact.

normalise -> mirror-pad -> cut tiles at multiples of 2**depth -> network -> stitch.
Shapes: B images, H, W their pixels, C channels, K classes.
"""

import tensorflow as tf

from preprocess import tiling

DEFAULT_OUTPUT = 516  # px: a 512 x 512 image in one pass


def mirror_indices(start, stop, size) -> tf.Tensor:
    """`preprocess.tiling.mirror_indices` for sizes known only in the graph."""
    period = tf.maximum(1, 2 * (size - 1))
    position = tf.math.floormod(tf.range(start, stop), period)
    return tf.minimum(position, period - position)


class Segmenter(tf.Module):
    """Segments raw images of any size; what is exported as a SavedModel."""

    def __init__(
        self,
        network,
        *,
        depth: int,
        classes: int,
        tile: int = 0,
        normalization: dict[str, list[float]] | None = None,
    ):
        """Wraps a network.

        Args:
          network: normalised legal tiles to logits, as `build_model` makes it.
          depth: its poolings.
          classes: its classes.
          tile: the largest input tile in px, legal at this depth; smaller ones are
            taken where an image needs no more. 0 takes the one that gives 516 px.
          normalization: `mean` and `std` of each channel, as `dataset_info.json` has
            them; None normalises each image by its own.
        """
        super().__init__(name="segmenter")
        self.network = network
        self.depth = depth
        self.classes = classes
        self.normalization = normalization
        tile = tile or tiling.legal_input_at_least(DEFAULT_OUTPUT, depth)
        self.largest_output = tiling.output_size(tile, depth)
        tiling.inference_grid(1, self.largest_output, depth)  # raises where too small

    def __call__(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """Segments images.

        Args:
          image: float32 [B, H, W, C], raw intensities.

        Returns:
          probabilities float32 [B, H, W, K] and classes uint8 [B, H, W].
        """
        probabilities = self.stitch(self.normalise(image))
        classes = tf.cast(tf.argmax(probabilities, axis=-1), tf.uint8)
        return {"probabilities": probabilities, "classes": classes}

    def normalise(self, image_BHWC: tf.Tensor) -> tf.Tensor:
        """Images as the network was trained on them."""
        if not self.normalization:
            return normalise_images(image_BHWC)
        return (image_BHWC - self.normalization["mean"]) / self.normalization["std"]

    def stitch(self, image_BHWC: tf.Tensor) -> tf.Tensor:
        """Probabilities of normalised images, tile by tile."""
        shape = tf.shape(image_BHWC)
        batch, height, width = shape[0], shape[1], shape[2]
        grid = (self.largest_output, self.depth)
        rows, down = tiling.inference_grid(height, *grid)
        columns, across = tiling.inference_grid(width, *grid)
        around = tiling.border(self.depth) + 4  # see inference_grid on the 4
        padded = self._mirror(image_BHWC, rows * down, columns * across)

        def probabilities_of_tile(index):
            image, place = index // (rows * columns), index % (rows * columns)
            top, left = place // columns * down, place % columns * across
            window = padded[image, top : top + down + around]
            logits = self.network(window[None, :, left : left + across + around])
            return tf.nn.softmax(tf.cast(logits[0, :down, :across], tf.float32))

        tiles = tf.map_fn(
            probabilities_of_tile,
            tf.range(batch * rows * columns),
            fn_output_signature=tf.TensorSpec([None, None, self.classes], tf.float32),
            parallel_iterations=1,  # one tile's activations in memory at a time
        )
        split = [batch, rows, columns, down, across, self.classes]
        ordered = tf.transpose(tf.reshape(tiles, split), [0, 1, 3, 2, 4, 5])
        whole = [batch, rows * down, columns * across, self.classes]
        return tf.reshape(ordered, whole)[:, :height, :width]

    def _mirror(self, image_BHWC: tf.Tensor, height, width) -> tf.Tensor:
        """The image with all the mirrored surroundings that its tiles see."""
        shape = tf.shape(image_BHWC)
        pad = tiling.pad(self.depth)
        rows = mirror_indices(-pad, height + pad + 4, shape[1])
        columns = mirror_indices(-pad, width + pad + 4, shape[2])
        return tf.gather(tf.gather(image_BHWC, rows, axis=1), columns, axis=2)


def normalise_images(image_BHWC: tf.Tensor) -> tf.Tensor:
    """Each image's channels to mean 0 and deviation 1; a constant channel to 0."""
    # From the first pixel's value: exact for constant images, and for small contrasts
    # on a large offset, where float32's mean of the raw values is not.
    shifted = image_BHWC - image_BHWC[:, :1, :1]
    mean, variance = tf.nn.moments(shifted, axes=[1, 2], keepdims=True)
    std = tf.sqrt(variance)
    return (shifted - mean) / tf.where(std > 0, std, tf.ones_like(std))
