"""Dropout whose mask is a function of a seed for each tile."""

import keras
import tensorflow as tf


class TileSeeds:
    """The seeds that the step being traced gives its tiles: int64 [B].

    Set by the training step before it calls the network, read by its dropout layers.
    """

    current: tf.Tensor | None = None


class TileDropout(keras.layers.Layer):
    """Inverted dropout without a state of its own.

    Keras' Dropout keeps a random state that tf.train.Checkpoint does not save, and that
    all replicas share. Here a resumed run draws the masks of the uninterrupted one, two
    replicas those of one device with the same global batch, and a batch taken in parts
    those of the whole.
    """

    def __init__(self, rate: float, *, seed: int, seeds: TileSeeds, **named):
        """Args: rate, the share of values set to 0; seed, of this layer."""
        super().__init__(**named)
        self.rate = rate
        self.seed = seed
        self.seeds = seeds

    def call(self, x, training=False):
        if not training:
            return x
        shape = tf.shape(x)[1:]

        def uniform(tile_seed):
            seed = tf.stack([tf.constant(self.seed, tf.int64), tile_seed])
            return tf.random.stateless_uniform(shape, seed, alg="philox")

        drawn = tf.map_fn(
            uniform, self.seeds.current, fn_output_signature=tf.TensorSpec(x.shape[1:])
        )
        kept = tf.cast(drawn >= self.rate, x.dtype)
        return x * kept / tf.cast(1 - self.rate, x.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape
