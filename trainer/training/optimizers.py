"""Learning rates by step, and optimisers whose whole update is one function."""

from collections.abc import Callable, Sequence

import keras
import ml_collections
import tensorflow as tf

Rate = Callable[[tf.Tensor], tf.Tensor]

# Keras' own.
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7  # of Adam
FIRST_SCALE, GROWTH_STEPS = 2.0**15, 2000  # of the loss

RULES = {
    "fixed": lambda batches: 1.0,
    "auto": lambda batches: 1.0,  # of a batch that is given; see `batch.settle`
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


class Optimizer(tf.Module):
    """Updates all weights of a device from gradients that are summed over replicas.

    SGD with momentum, Adam and AdamW with Keras' formulas, and dynamic loss scaling for
    float16. Keras' own optimisers update variable by variable through tf.distribute:
    about 400 ops per replica and step for SGD and 1,600 for Adam with a moving average,
    which keeps a fast GPU waiting for its host, and they refuse `stateless_apply` with
    TensorFlow, so XLA cannot compile them. test_optimizers.py compares the two.
    """

    SLOTS = {
        "sgd": ("momentum",),
        "adam": ("mean", "square"),
        "adamw": ("mean", "square"),
    }

    def __init__(
        self,
        train: ml_collections.ConfigDict,
        variables: Sequence[keras.Variable],
        *,
        scaled: bool,
    ):
        """Makes the slots, 0 at first.

        Args:
          train: the config's `train` part.
          variables: what is trained.
          scaled: whether the loss is scaled, for gradients in float16.
        """
        super().__init__(name="optimizer")
        self.train = train
        self.trained = variables
        self.slots = [
            [
                tf.Variable(tf.zeros(v.shape, v.dtype), trainable=False, name=name)
                for name in self.SLOTS[train.optimizer]
            ]
            for v in variables
        ]
        self.updates = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.scaled = scaled
        if scaled:
            self.scale = tf.Variable(FIRST_SCALE, trainable=False)
            self.finite_steps = tf.Variable(0, dtype=tf.int64, trainable=False)

    def state(self) -> list[tf.Variable]:
        """All that steps change here."""
        scale = [self.scale, self.finite_steps] if self.scaled else []
        return [*(slot for slots in self.slots for slot in slots), self.updates, *scale]

    def scale_loss(self, loss: tf.Tensor) -> tf.Tensor:
        """The loss to differentiate: large enough for small gradients in float16."""
        return loss * self.scale if self.scaled else loss

    def apply(self, gradients: Sequence[tf.Tensor], rate: tf.Tensor) -> tf.Tensor:
        """Updates weights, slots and the loss scale.

        With loss scaling, gradients that are not finite change no weight and halve the
        scale; it doubles after GROWTH_STEPS finite steps.

        Args:
          gradients: float32, of the scaled loss, summed over replicas.
          rate: the learning rate, float32 [].

        Returns:
          The norm of the whole gradient before clipping, float32 [].
        """
        factor = 1 / self.scale if self.scaled else 1.0
        norm = tf.linalg.global_norm(gradients) * factor
        if self.train.clip_norm:
            factor *= tf.minimum(1.0, self.train.clip_norm / norm)
        if self.scaled or self.train.clip_norm:
            gradients = [gradient * factor for gradient in gradients]
        finite = tf.math.is_finite(norm) if self.scaled else None
        count = tf.cast(self.updates, tf.float32) + 1
        for variable, slots, gradient in zip(
            self.trained, self.slots, gradients, strict=True
        ):
            variables = [variable.value, *slots]
            old = [tf.convert_to_tensor(v) for v in variables]
            new = self._updated(
                *old,
                gradient=gradient,
                rate=rate,
                count=count,
                decays="bias" not in variable.path,
            )
            for one, before, after in zip(variables, old, new, strict=True):
                one.assign(after if finite is None else tf.where(finite, after, before))
        self.updates.assign_add(1 if finite is None else tf.cast(finite, tf.int64))
        if self.scaled:
            self._rescale(finite)
        return norm

    def _updated(self, weight, *slots, gradient, rate, count, decays):
        """A weight and its slots after one step."""
        if self.train.weight_decay and decays:
            weight -= weight * self.train.weight_decay * rate
        if self.train.optimizer == "sgd":
            [momentum] = slots
            momentum = momentum * self.train.momentum - gradient * rate
            return weight + momentum, momentum
        mean, square = slots
        mean += (gradient - mean) * (1 - BETA_1)
        square += (tf.square(gradient) - square) * (1 - BETA_2)
        unbiased = tf.sqrt(1 - tf.pow(BETA_2, count)) / (1 - tf.pow(BETA_1, count))
        return (
            weight - mean * (rate * unbiased) / (tf.sqrt(square) + EPSILON),
            mean,
            square,
        )

    def _rescale(self, finite: tf.Tensor) -> None:
        steps = (self.finite_steps + 1) * tf.cast(finite, tf.int64)
        grown = steps == GROWTH_STEPS
        factor = tf.where(finite, tf.where(grown, 2.0, 1.0), 0.5)
        self.scale.assign(tf.maximum(self.scale * factor, 1.0))
        self.finite_steps.assign(tf.where(grown, tf.zeros_like(steps), steps))
