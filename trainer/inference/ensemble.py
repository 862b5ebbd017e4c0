"""Several networks as one: their mean probabilities, as logits.

The logarithm of a mean probability is a logit of it: softmax gives the mean back. So
an ensemble is a network like any other to all that takes one.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from unet_tfrecords.dataset.dataset_info import Normalization
from unet_tfrecords.dataset.targets import planes_are

Network = Callable[[tf.Tensor], tf.Tensor]


class Scaling(NamedTuple):
    """From an image as it is normalised to one as a network learned: x * by + plus.

    Attributes:
      by, plus: float32 [C].
    """

    by: np.ndarray
    plus: np.ndarray


def scaling_of(
    own: Normalization | None, given: Normalization | None
) -> Scaling | None:
    """What turns one normalisation into another; None where they are the same.

    Args:
      own: by which the network learned; None is each image's own.
      given: by which images are normalised; None only where `own` is.
    """
    if own is None or given is None or own == given:
        return None
    mean, std = np.array(own.mean), np.array(own.std)
    by, plus = np.array(given.std) / std, (np.array(given.mean) - mean) / std
    return Scaling(by.astype(np.float32), plus.astype(np.float32))


def scaled(network: Network, scaling: Scaling | None) -> Network:
    """The network, on images normalised otherwise."""
    if scaling is None:
        return network
    return lambda image: network(image * scaling.by + scaling.plus)


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
