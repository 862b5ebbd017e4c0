"""Dropout whose mask is a function of a seed for each tile."""

import keras
import tensorflow as tf

PHILOX = 1  # tf.random.Algorithm.PHILOX: the same numbers on processors and GPUs
AT_ONCE = 4  # numbers that it draws from one value of its counter


class TileSeeds:
    """Seed of the first tile of the batch that is being traced: int64 [].

    The next tiles have the next seeds. Set by the training step before it calls the
    network, read by its dropout layers.
    """

    first: tf.Tensor | None = None


class TileDropout(keras.layers.Layer):
    """Inverted dropout without a state of its own.

    Keras' Dropout keeps a random state that tf.train.Checkpoint does not save, and that
    all replicas share. Here a resumed run draws the masks of the uninterrupted one, two
    replicas those of one device with the same global batch, and a batch taken in parts
    those of the whole.

    A layer has one endless sequence of random numbers, and each tile its own stretch of
    it, by its seed. So one call draws for all tiles of a batch.
    """

    def __init__(self, rate: float, *, seed: int, seeds: TileSeeds, **named):
        """Args: rate, the share of values set to 0; seed, of this layer."""
        super().__init__(**named)
        self.rate = rate
        self.seed = seed
        self.seeds = seeds

    def call(self, x_BHWC, training=False):
        if not training:
            return x_BHWC
        shape = tf.shape(x_BHWC)
        stretch = -(-tf.reduce_prod(shape[1:]) // AT_ONCE)  # values of the counter
        first = tf.cast(self.seeds.first, tf.uint64) * tf.cast(stretch, tf.uint64)
        drawn = tf.raw_ops.StatelessRandomUniformV2(
            shape=[shape[0], stretch * AT_ONCE],
            key=tf.constant([self.seed], tf.uint64),
            counter=tf.stack([first, tf.zeros_like(first)]),
            alg=PHILOX,
        )
        drawn = tf.reshape(drawn[:, : tf.reduce_prod(shape[1:])], shape)
        kept = tf.cast(drawn >= self.rate, x_BHWC.dtype)
        return x_BHWC * kept / tf.cast(1 - self.rate, x_BHWC.dtype)
