"""The U-Net of Ronneberger et al. 2015 (arXiv 1505.04597, fig. 1), the only builder."""

from collections.abc import Callable

import keras
import ml_collections
import tensorflow as tf
from keras import layers

from preprocess import tiling
from trainer.dropout import StepDropout


def build_model(
    model: ml_collections.ConfigDict,
    *,
    size: int | None = None,
    precision: str = "float32",
    seed: int = 0,
    step: Callable[[], tf.Tensor] = lambda: tf.constant(0),
) -> keras.Model:
    """Builds the network: valid convolutions, cropped skips, logits out.

    Args:
      model: the config's `model` part (width, depth, channels, classes, dropout).
      size: the input's edge in px, for a summary that shows sizes; None takes every
        legal size.
      precision: a Keras dtype policy for all layers but the last.
      seed: of the initial weights and of dropout.
      step: reads the step that training is at, of which dropout's masks are a function.

    Returns:
      From float32 [B, H, W, channels] to float32 logits
      [B, H - border, W - border, classes].

    Raises:
      ValueError: a size that is not legal at this depth.
    """
    if size is not None:
        tiling.output_size(size, model.depth)
    build = _Builder(precision, seed, step)
    bottom = model.depth + 1
    x = inputs = keras.Input((size, size, model.channels), name="image")
    skips = []
    for level in range(1, bottom):
        x = build.two_convolutions(x, level, model.width * 2 ** (level - 1))
        if level == model.depth:
            x = build.dropout(x, level, model.dropout)
        skips.append(x)
        x = layers.MaxPooling2D(name=f"maxpooling_{level}", dtype=precision)(x)
    x = build.two_convolutions(x, bottom, model.width * 2**model.depth)
    x = build.dropout(x, bottom, model.dropout)
    for up, crop in enumerate(tiling.skip_crops(model.depth), start=1):
        level = bottom - up
        filters = model.width * 2 ** (level - 1)
        x = build.up_convolution(x, up, filters)
        name = f"cropped_conv{level}_2"
        skip = layers.Cropping2D(crop, name=name, dtype=precision)(skips[level - 1])
        name = f"skip_connection{up}"
        x = layers.Concatenate(name=name, dtype=precision)([skip, x])
        x = build.two_convolutions(x, bottom + up, filters)
    logits = build.logits(x, bottom + model.depth + 1, model.classes)
    return keras.Model(inputs, logits, name="unet")


class _Builder:
    """Makes the network's layers, each with its name, precision and own seed."""

    def __init__(self, precision: str, seed: int, step: Callable[[], tf.Tensor]):
        self.precision = precision
        self.seed = seed
        self.step = step

    def _he(self, salt: int) -> keras.initializers.Initializer:
        """Normal with deviation sqrt(2 / N), N incoming nodes (section 3)."""
        return keras.initializers.HeNormal(seed=self.seed * 1000 + salt)

    def two_convolutions(self, x, level: int, filters: int):
        for index in (1, 2):
            x = layers.Conv2D(
                filters,
                3,
                activation="relu",
                kernel_initializer=self._he(10 * level + index),
                name=f"conv{level}_{index}",
                dtype=self.precision,
            )(x)
        return x

    def up_convolution(self, x, up: int, filters: int):
        # The authors' published network has a ReLU here, as after every convolution.
        return layers.Conv2DTranspose(
            filters,
            2,
            strides=2,
            activation="relu",
            kernel_initializer=self._he(500 + up),
            name=f"upsampling{up}",
            dtype=self.precision,
        )(x)

    def dropout(self, x, level: int, rate: float):
        if not rate:
            return x
        return StepDropout(
            rate,
            seed=self.seed * 1000 + level,
            step=self.step,
            name=f"dropout{level}",
            dtype=self.precision,
        )(x)

    def logits(self, x, level: int, classes: int):
        # float32 whatever the rest: the softmax of half-precision logits overflows.
        return layers.Conv2D(
            classes,
            1,
            kernel_initializer=self._he(10 * level),
            name=f"conv{level}",
            dtype="float32",
        )(x)
