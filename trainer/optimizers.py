"""Learning rates by step, and optimisers that take gradients summed already."""

from collections.abc import Callable

import keras
import ml_collections
import tensorflow as tf

Rate = Callable[[tf.Tensor], tf.Tensor]

RULES = {
    "fixed": lambda batches: 1.0,
    "linear": lambda batches: batches,
    "sqrt": lambda batches: batches**0.5,
}


def highest_rate(train: ml_collections.ConfigDict) -> float:
    """The learning rate after the warm-up, by the config's rule for its global batch.

    >>> from configs import base
    >>> train = base.get_config().train
    >>> train.update({"learning_rate_rule": "linear", "global_batch": 8})
    >>> highest_rate(train)
    0.008
    """
    batches = train.global_batch / train.reference_batch
    return train.learning_rate * RULES[train.learning_rate_rule](batches)


def make_schedule(train: ml_collections.ConfigDict) -> Rate:
    """The learning rate as a function of the number of steps made before."""
    highest, warmup = highest_rate(train), train.warmup_steps
    decay_steps = max(1, train.steps - warmup)
    schedules = keras.optimizers.schedules
    after_warmup: Rate = {
        "constant": lambda step: tf.constant(highest),
        "cosine": schedules.CosineDecay(
            highest, decay_steps, alpha=train.final_learning_rate
        ),
        "polynomial": schedules.PolynomialDecay(
            highest,
            decay_steps,
            end_learning_rate=highest * train.final_learning_rate,
            power=train.decay_power,
        ),
    }[train.schedule]

    def rate(step):
        step = tf.cast(step, tf.float32)
        decayed = tf.cast(after_warmup(tf.maximum(step - warmup, 0.0)), tf.float32)
        rising = highest * (step + 1.0) / max(1, warmup)
        return tf.where(step < warmup, rising, decayed)

    return rate


class _TakesSums:
    """Leaves out Keras' sum over replicas, which comes before clipping here.

    Keras clips and looks for infinities first, on each replica's own gradients: the
    result then hangs on how tiles are spread over replicas, and one replica's overflow
    in half precision reaches all weights.
    """

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return list(grads_and_vars)


class SGD(_TakesSums, keras.optimizers.SGD):
    pass


class Adam(_TakesSums, keras.optimizers.Adam):
    pass


class AdamW(_TakesSums, keras.optimizers.AdamW):
    pass


def make_optimizer(
    train: ml_collections.ConfigDict, precision: str, step: tf.Variable
) -> keras.optimizers.Optimizer:
    """The config's optimiser; with dynamic loss scaling in mixed_float16.

    Its `apply` wants gradients summed over replicas. The learning rate is that of
    `step`, also where loss scaling has left steps out.
    """
    schedule = make_schedule(train)
    settings = {
        "learning_rate": lambda: schedule(step),
        "weight_decay": train.weight_decay or None,
    }
    if train.optimizer == "sgd":
        optimizer: keras.optimizers.Optimizer = SGD(momentum=train.momentum, **settings)
    else:
        optimizer = {"adam": Adam, "adamw": AdamW}[train.optimizer](**settings)
    if train.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    if precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer
