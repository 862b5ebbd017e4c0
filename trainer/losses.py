"""The paper's loss: pixel-wise weighted cross-entropy (arXiv 1505.04597, eq. 1 and 2).

Shapes: B batch, H, W output pixels, K classes.
"""

import tensorflow as tf

from preprocess.records import UNLABELLED


def class_weights(class_pixels: list[int], method: str) -> list[float]:
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
      label_BHW: int32; 255 is unlabelled and costs nothing.
      border_BHW: float32, the border term.
      class_weight_K: float32.

    Returns:
      float32 [B]. Divided by all pixels, not by the labelled ones, so that a batch's
      loss is the mean of its tiles' however they are spread over replicas.
    """
    labelled_BHW = label_BHW != UNLABELLED
    safe_BHW = tf.where(labelled_BHW, label_BHW, 0)
    entropy_BHW = tf.nn.sparse_softmax_cross_entropy_with_logits(safe_BHW, logits_BHWK)
    weight_BHW = tf.gather(class_weight_K, safe_BHW) + border_BHW
    weight_BHW *= tf.cast(labelled_BHW, tf.float32)
    return tf.reduce_mean(weight_BHW * entropy_BHW, axis=[1, 2])
