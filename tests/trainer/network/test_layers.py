"""Our own layers against the stock ones, forward and backward."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.network.layers import UpConvolution2x2, max_pool_2x2


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_pooling_is_tensorflows(compiled, dtype):
    rng = np.random.default_rng(0)
    # Few values, so that many blocks hold their maximum twice; after a ReLU that is
    # the usual case.
    image = tf.cast(rng.integers(0, 4, (2, 12, 18, 5)), dtype)
    upstream = tf.cast(rng.normal(size=(2, 6, 9, 5)), dtype)

    @tf.function(jit_compile=compiled)
    def both(image):
        results = []
        for pool in (max_pool_2x2, lambda x: tf.nn.max_pool2d(x, 2, 2, "VALID")):
            with tf.GradientTape() as tape:
                tape.watch(image)
                made = pool(image)
                loss = tf.reduce_sum(tf.cast(made * upstream, tf.float32))
            results.append((made, tape.gradient(loss, image)))
        return results

    (ours, gradient), (theirs, expected) = both(image)
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(
        tf.cast(gradient, tf.float32), tf.cast(expected, tf.float32)
    )


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    "dtype, tolerance", [("float32", 1e-5), ("mixed_bfloat16", 3e-2)]
)
def test_up_convolution_is_keras(compiled, dtype, tolerance):
    rng = np.random.default_rng(0)
    image = tf.constant(rng.normal(size=(2, 5, 7, 6)), tf.float32)
    upstream = tf.constant(rng.normal(size=(2, 10, 14, 4)), tf.float32)
    ours = UpConvolution2x2(4, dtype=dtype)
    theirs = keras.layers.Conv2DTranspose(
        4, 2, strides=2, activation="relu", dtype=dtype
    )
    for layer in (ours, theirs):
        layer.build(image.shape)
    weights = [rng.normal(size=w.shape).astype(np.float32) for w in ours.get_weights()]
    ours.set_weights(weights)
    theirs.set_weights(weights)

    @tf.function(jit_compile=compiled)
    def both():
        results = []
        for layer in (ours, theirs):
            with tf.GradientTape() as tape:
                tape.watch(image)
                made = layer(image)
                loss = tf.reduce_sum(tf.cast(made, tf.float32) * upstream)
            sources = [image, layer.kernel.value, layer.bias.value]
            results.append([made, *tape.gradient(loss, sources)])
        return results

    for one, other in zip(*both(), strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        one, other = (tf.cast(x, tf.float32).numpy() for x in (one, other))
        np.testing.assert_allclose(
            one, other, rtol=tolerance, atol=tolerance * np.abs(other).max()
        )
