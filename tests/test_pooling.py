"""Max pooling against TensorFlow's, forward and backward."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.pooling import max_pool_2x2


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_same_as_tensorflows(compiled, dtype):
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
