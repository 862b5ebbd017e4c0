"""Layers written so that TensorFlow's fast kernels fit them.

Training: two whose stock kernels are slow on a processor are plain arithmetic
(`benchmarks/against_torch.py --ablate` measures what each gains). Inference: see
`freeze`.
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from trainer.devices.graphs import graph_function


@tf.custom_gradient
def max_pool_2x2(image_BHWC: tf.Tensor):
    """The maximum of each 2 x 2 block; the gradient goes to the first that has it.

    The same as `tf.nn.max_pool2d`, whose gradient searches for the maximum again: under
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


class MaxPool2x2(keras.layers.MaxPooling2D):
    """`max_pool_2x2` as a layer."""

    def call(self, image_BHWC, training=False):
        if training:
            return max_pool_2x2(image_BHWC)
        return super().call(image_BHWC)  # faster; no gradient here


class Convolution3x3(keras.layers.Conv2D):
    """A valid 3 x 3 convolution with ReLU.

    Keras adds the bias in four dimensions, which TensorFlow does not fuse with
    convolution and ReLU once weights are constants.
    """

    def __init__(self, filters: int, *, standardized: bool = False, **named):
        """Makes the layer.

        Args:
          filters: channels out.
          standardized: whether each filter is used with mean 0 and deviation
            gain / sqrt(N), N incoming nodes and the gain learned (Brock et al. 2021,
            arXiv 2101.08692, eq. 1): signals keep their scale at every depth, with
            nothing that depends on batch or tile.
          **named: of `keras.layers.Conv2D`.
        """
        super().__init__(filters, 3, activation="relu", **named)
        self.standardized = standardized

    def build(self, input_shape):
        super().build(input_shape)
        if self.standardized:
            # sqrt(2): a ReLU lets half of the power through.
            root = keras.initializers.Constant(2**0.5)
            shape = (self.filters,)
            self.gain = self.add_weight(name="gain", shape=shape, initializer=root)

    def _standardized(self, kernel: tf.Tensor) -> tf.Tensor:
        """The kernel [3, 3, C, filters] as it is used, in float32."""
        kernel = tf.cast(kernel, tf.float32)
        mean, variance = tf.nn.moments(kernel, [0, 1, 2], keepdims=True)
        nodes = 9 * kernel.shape[2]
        scale = tf.cast(tf.convert_to_tensor(self.gain), tf.float32)
        return (kernel - mean) * tf.math.rsqrt(variance * nodes + 1e-6) * scale

    def used_kernel(self) -> tf.Tensor:
        """The kernel [3, 3, C, filters] by which images are convolved, float32."""
        kernel = tf.cast(tf.convert_to_tensor(self.kernel), tf.float32)
        return self._standardized(kernel) if self.standardized else kernel

    def call(self, image_BHWC):
        kernel, bias = (tf.convert_to_tensor(w) for w in (self.kernel, self.bias))
        if self.standardized:
            kernel = tf.cast(self._standardized(kernel), image_BHWC.dtype)
        convolved = tf.nn.conv2d(image_BHWC, kernel, 1, "VALID")
        return tf.nn.relu(tf.nn.bias_add(convolved, bias))


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


def with_variables(network: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """The network as a tf.function that reads its variables.

    Args:
      network: float32 [B, H, W, channels] to logits.
    """
    image = tf.TensorSpec([None, *network.input_shape[1:]], tf.float32)
    return graph_function(
        lambda image: network(image, training=False), input_signature=[image]
    )


def freeze(network: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """The network with its weights as they are now, as constants of the graph.

    oneDNN lays constant kernels out again for its own fast convolutions, once; what
    comes from a variable goes through a matrix product (2.5 times slower on AVX2).

    Args:
      network: float32 [B, H, W, channels] to logits.

    Returns:
      A tf.function that does the same and holds no variables.
    """
    trainable, rest = (
        [weight.numpy() for weight in weights]
        for weights in (network.trainable_variables, network.non_trainable_variables)
    )
    image = tf.TensorSpec([None, *network.input_shape[1:]], tf.float32)

    @graph_function(input_signature=[image])
    def logits(image):
        constants = [[tf.constant(w) for w in weights] for weights in (trainable, rest)]
        return network.stateless_call(*constants, image, training=False)[0]

    return logits
