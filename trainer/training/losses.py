"""Losses of a tile: the paper's weighted cross-entropy (arXiv 1505.04597, eq. 1 and 2),
soft Dice (Milletari et al. 2016, arXiv 1606.04797), and their sum.

Shapes: B batch, H, W output pixels, K classes.
"""

from collections.abc import Sequence

import tensorflow as tf

from unet_tfrecords.dataset.records import UNLABELLED
from unet_tfrecords.dataset.targets import planes_are


def class_weights(class_pixels: Sequence[int], method: str) -> list[float]:
    """Weights w_c that balance the class frequencies of the training tiles.

    Args:
      class_pixels: labelled pixels of each class.
      method: "balanced" (inverse to frequency, 1 on average over pixels) or "none".

    >>> class_weights([75, 25], "balanced")
    [0.6666666666666666, 2.0]
    """
    if method == "none":
        return [1.0] * len(class_pixels)
    present = sum(pixels > 0 for pixels in class_pixels)
    total = sum(class_pixels)
    return [total / (present * pixels) if pixels else 0.0 for pixels in class_pixels]


def weighted_cross_entropy(
    logits_BHWK: tf.Tensor,
    label_BHW: tf.Tensor,
    border_BHW: tf.Tensor,
    class_weight_K: tf.Tensor,
) -> tf.Tensor:
    """Sum over pixels of (w_c + border term) * cross-entropy, per pixel of the tile.

    Args:
      logits_BHWK: float32.
      label_BHW: int64; 255 is unlabelled and costs nothing.
      border_BHW: float32, the border term.
      class_weight_K: float32.

    Returns:
      float32 [B]. Divided by all pixels, not by the labelled ones, so that a batch's
      loss is the mean of its tiles' however they are spread over replicas.
    """
    labelled_BHW = label_BHW != UNLABELLED
    safe_BHW = tf.where(labelled_BHW, label_BHW, tf.zeros_like(label_BHW))
    entropy_BHW = tf.nn.sparse_softmax_cross_entropy_with_logits(safe_BHW, logits_BHWK)
    weight_BHW = tf.gather(class_weight_K, safe_BHW) + border_BHW
    weight_BHW *= tf.cast(labelled_BHW, tf.float32)
    return tf.reduce_mean(weight_BHW * entropy_BHW, axis=[1, 2])


def soft_dice_loss(logits_BHWK: tf.Tensor, label_BHW: tf.Tensor) -> tf.Tensor:
    """1 less the mean over classes of 2 sum(p t) / (sum(p) + sum(t)), of each tile.

    Over the labelled pixels, in float32: sums over 150,000 pixels overflow in float16.
    A class that neither occurs nor is predicted has a Dice of 1.

    Args:
      logits_BHWK: float32.
      label_BHW: int64; 255 is unlabelled and counts nowhere.

    Returns:
      float32 [B].
    """
    labelled_BHW = label_BHW != UNLABELLED
    labelled_BHW1 = tf.cast(labelled_BHW, tf.float32)[..., None]
    safe_BHW = tf.where(labelled_BHW, label_BHW, 0)
    probability_BHWK = tf.nn.softmax(tf.cast(logits_BHWK, tf.float32)) * labelled_BHW1
    truth_BHWK = tf.one_hot(safe_BHW, logits_BHWK.shape[-1]) * labelled_BHW1
    both_BK = tf.reduce_sum(probability_BHWK * truth_BHWK, axis=[1, 2])
    all_BK = tf.reduce_sum(probability_BHWK + truth_BHWK, axis=[1, 2])
    dice_BK = (2 * both_BK + 1) / (all_BK + 1)  # 1 pixel: for classes that don't occur
    return 1 - tf.reduce_mean(dice_BK, axis=-1)


def plane_losses(
    outputs_BHWP: tf.Tensor,
    planes_BHWP: tf.Tensor,
    label_BHW: tf.Tensor,
    weight: float,
) -> tf.Tensor:
    """The loss of a target's planes, weighted and summed over planes.

    Smooth L1 of scalars, cross-entropy of probabilities.

    Args:
      outputs_BHWP: float32, of the network; logits of probabilities.
      planes_BHWP: uint8, 0 to 255 for 0 to 1.
      label_BHW: int64; where 255 nothing counts.
      weight: of the loss, see config.train.plane_weight.

    Returns:
      float32 [B], per pixel of the tile, as of the other losses.
    """
    labelled_BHW1 = tf.cast(label_BHW != UNLABELLED, tf.float32)[..., None]
    truth_BHWP = tf.cast(planes_BHWP, tf.float32) / 255
    if planes_are(outputs_BHWP.shape[-1]) == "probabilities":
        loss_BHWP = tf.nn.sigmoid_cross_entropy_with_logits(truth_BHWP, outputs_BHWP)
    else:
        error_BHWP = tf.abs(outputs_BHWP - truth_BHWP)
        loss_BHWP = tf.where(
            error_BHWP < 1, 0.5 * tf.square(error_BHWP), error_BHWP - 0.5
        )
    means_BP = tf.reduce_mean(loss_BHWP * labelled_BHW1, axis=[1, 2])
    return weight * tf.reduce_sum(means_BP, axis=-1)


def tile_losses(
    kind: str,
    logits_BHWK: tf.Tensor,
    label_BHW: tf.Tensor,
    border_BHW: tf.Tensor,
    class_weight_K: tf.Tensor,
) -> tf.Tensor:
    """The config's loss of each tile, float32 [B]; arguments as above."""
    losses = {
        "cross_entropy": lambda: weighted_cross_entropy(
            logits_BHWK, label_BHW, border_BHW, class_weight_K
        ),
        "dice": lambda: soft_dice_loss(logits_BHWK, label_BHW),
    }
    return tf.add_n([losses[part]() for part in kind.split("+")])
