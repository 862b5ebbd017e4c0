"""Dropout whose mask is a function of seed, step and the tile's place in the batch."""

from collections.abc import Callable

import keras
import tensorflow as tf


class StepDropout(keras.layers.Layer):
    """Inverted dropout without a state of its own.

    Keras' Dropout keeps a random state that tf.train.Checkpoint does not save, and that
    all replicas share. Here a resumed run draws the masks of the uninterrupted one, and
    two replicas those of one device with the same global batch.
    """

    def __init__(
        self, rate: float, *, seed: int, step: Callable[[], tf.Tensor], **named
    ):
        """Args: rate, the share of values set to 0; step, reads the current step."""
        super().__init__(**named)
        self.rate = rate
        self.seed = seed
        self.read_step = step

    def call(self, x, training=False):
        if not training:
            return x
        context = tf.distribute.get_replica_context()
        replica = context.replica_id_in_sync_group
        local = tf.shape(x)[0]
        place = tf.cast(replica * local + tf.range(local), tf.int64)
        shape = tf.shape(x)[1:]

        def uniform(index):
            seed = tf.stack([tf.constant(self.seed, tf.int64), index])
            return tf.random.stateless_uniform(shape, seed)

        # Far more than any batch between the seeds of one step and the next.
        step = tf.cast(tf.convert_to_tensor(self.read_step()), tf.int64)
        seeds = step * 2**20 + place
        drawn = tf.map_fn(uniform, seeds, fn_output_signature=tf.float32)
        kept = tf.cast(drawn >= self.rate, x.dtype)
        return x * kept / tf.cast(1 - self.rate, x.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape
