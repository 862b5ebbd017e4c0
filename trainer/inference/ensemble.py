"""Several networks as one: their mean probabilities, as logits.

The logarithm of a mean probability is a logit of it: softmax gives the mean back. So
an ensemble is a network like any other to all that takes one.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from unet_tfrecords.dataset.targets import planes_are

Network = Callable[[tf.Tensor], tf.Tensor]


def as_one(networks: Sequence[Network], *, classes: int, planes: int) -> Network:
    """The network whose outputs, activated, are the mean of the networks'.

    Args:
      networks: float32 [B, H, W, C] to logits [B, H', W', K + P], all of one shape.
      classes: K.
      planes: P, of the target.
    """
    if len(networks) == 1:
        return networks[0]

    def logits(image_BHWC: tf.Tensor) -> tf.Tensor:
        each: list[tf.Tensor] = []
        for network in networks:
            # One after the other: the activations of one are in memory at a time.
            with tf.control_dependencies(each[-1:]):
                each.append(tf.cast(network(image_BHWC), tf.float32))
        known = [tf.nn.softmax(one[..., :classes]) for one in each]
        joined = [tf.math.log(_mean(known))]
        if planes:
            joined.append(_mean_planes([one[..., classes:] for one in each]))
        return tf.concat(joined, axis=-1)

    return logits


def _mean_planes(each: list[tf.Tensor]) -> tf.Tensor:
    if planes_are(each[0].shape[-1]) == "probabilities":
        mean = _mean([tf.sigmoid(one) for one in each])
        return tf.math.log(mean) - tf.math.log1p(-mean)
    return _mean([tf.clip_by_value(one, 0.0, 1.0) for one in each])


def _mean(each: list[tf.Tensor]) -> tf.Tensor:
    return tf.add_n(each) / len(each)
