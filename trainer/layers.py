"""The two layers whose stock kernels are slow on a processor, as plain arithmetic.

`benchmarks/against_torch.py --ablate` measures what each gains.
"""

import keras
import tensorflow as tf


@tf.custom_gradient
def max_pool_2x2(image_BHWC: tf.Tensor):
    """The maximum of each 2 x 2 block; the gradient goes to the first that has it.

    The same as `tf.nn.max_pool2d`, whose gradient searches for the maximum anew: under
    XLA on a processor that is a scatter, one value at a time. Here both directions are
    comparisons of whole arrays, which XLA fuses.

    Args:
      image_BHWC: [B, H, W, C], H and W even.

    Returns:
      [B, H / 2, W / 2, C] of the same dtype.
    """
    shape = tf.shape(image_BHWC)
    split = [shape[0], shape[1] // 2, 2, shape[2] // 2, 2, image_BHWC.shape[3]]
    blocks = tf.reshape(image_BHWC, split)
    corners = [blocks[:, :, i, :, j] for i in (0, 1) for j in (0, 1)]
    largest = tf.maximum(
        tf.maximum(corners[0], corners[1]), tf.maximum(corners[2], corners[3])
    )

    def gradient(upstream):
        nothing, open_ = tf.zeros_like(upstream), tf.ones_like(largest, tf.bool)
        parts = []
        for corner in corners:
            takes = (corner == largest) & open_
            open_ &= ~takes
            parts.append(tf.where(takes, upstream, nothing))
        rows = [tf.stack(parts[:2], axis=3), tf.stack(parts[2:], axis=3)]
        return tf.reshape(tf.stack(rows, axis=2), shape)

    return largest, gradient


class MaxPool2x2(keras.layers.Layer):
    """`max_pool_2x2` as a layer."""

    def call(self, image_BHWC):
        return max_pool_2x2(image_BHWC)

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return (batch, height and height // 2, width and width // 2, channels)


class UpConvolution2x2(keras.layers.Conv2DTranspose):
    """Conv2DTranspose of 2 x 2, stride 2, with ReLU, as one matrix product.

    Outputs do not overlap: each input pixel makes its own 2 x 2 block. As a transposed
    convolution XLA would first spread the input over four times the pixels, zeros
    between.
    """

    def __init__(self, filters: int, **named):
        super().__init__(filters, 2, strides=2, activation="relu", **named)

    def call(self, image_BHWC):
        kernel = tf.convert_to_tensor(self.kernel)  # [2, 2, filters, C]
        matrix = tf.reshape(tf.transpose(kernel, [3, 0, 1, 2]), [-1, 4 * self.filters])
        shape = tf.shape(image_BHWC)
        pixels = tf.reshape(image_BHWC, [-1, image_BHWC.shape[3]])
        rows = [shape[0], shape[1], shape[2], 2, 2 * self.filters]
        blocks = tf.reshape(tf.matmul(pixels, matrix), rows)
        blocks = tf.transpose(blocks, [0, 1, 3, 2, 4])
        size = [shape[0], 2 * shape[1], 2 * shape[2], self.filters]
        return tf.nn.relu(tf.reshape(blocks, size) + self.bias)
