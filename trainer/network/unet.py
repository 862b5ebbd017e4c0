"""The U-Net of Ronneberger et al. 2015 (arXiv 1505.04597, fig. 1), the only builder."""

import keras
import ml_collections
from keras import layers

from trainer.network.dropout import TileDropout, TileSeeds
from trainer.network.layers import Convolution3x3, MaxPool2x2, UpConvolution2x2
from unet_tfrecords.dataset import tiling


def build_model(
    model: ml_collections.ConfigDict,
    *,
    planes: int = 0,
    size: int | None = None,
    precision: str = "float32",
    seed: int = 0,
    tile_seeds: TileSeeds | None = None,
) -> keras.Model:
    """Builds the network: valid convolutions, cropped skips, logits out.

    Args:
      model: the config's `model` part (width, depth, channels, classes, dropout).
      planes: of the target, beside the classes.
      size: the input's edge in px, for a summary that shows sizes; None takes every
        legal size.
      precision: a Keras dtype policy for all layers but the last.
      seed: of the initial weights and of dropout.
      tile_seeds: of which dropout's masks are a function; training needs them.

    Returns:
      From float32 [B, H, W, channels] to float32 logits
      [B, H - border, W - border, classes + planes].

    Raises:
      ValueError: a size that is not legal at this depth.
    """
    if size is not None:
        tiling.output_size(size, model.depth)
    standardized = model.get("standardized_kernels", False)
    seeds = tile_seeds or TileSeeds()

    def he(salt: int) -> keras.initializers.Initializer:
        """Normal with deviation sqrt(2 / N), N incoming nodes (section 3)."""
        return keras.initializers.HeNormal(seed=seed * 1000 + salt)

    def two_convolutions(x, level: int, filters: int):
        for index in (1, 2):
            x = Convolution3x3(
                filters,
                standardized=standardized,
                kernel_initializer=he(10 * level + index),
                name=f"conv{level}_{index}",
                dtype=precision,
            )(x)
        return x

    def dropout(x, level: int):
        if not model.dropout:
            return x
        own = seed * 1000 + level
        name = f"dropout{level}"
        return TileDropout(
            model.dropout, seed=own, seeds=seeds, name=name, dtype=precision
        )(x)

    bottom = model.depth + 1
    x = inputs = keras.Input((size, size, model.channels), name="image")
    skips = []
    for level in range(1, bottom):
        x = two_convolutions(x, level, model.width * 2 ** (level - 1))
        if level == model.depth:
            x = dropout(x, level)
        skips.append(x)
        x = MaxPool2x2(name=f"maxpooling_{level}", dtype=precision)(x)
    x = two_convolutions(x, bottom, model.width * 2**model.depth)
    x = dropout(x, bottom)
    for up, crop in enumerate(tiling.skip_crops(model.depth), start=1):
        level = bottom - up
        filters = model.width * 2 ** (level - 1)
        # The authors' published network has a ReLU here, as after every convolution.
        name = f"upsampling{up}"
        x = UpConvolution2x2(
            filters, kernel_initializer=he(500 + up), name=name, dtype=precision
        )(x)
        name = f"cropped_conv{level}_2"
        skip = layers.Cropping2D(crop, name=name, dtype=precision)(skips[level - 1])
        name = f"skip_connection{up}"
        x = layers.Concatenate(name=name, dtype=precision)([skip, x])
        x = two_convolutions(x, bottom + up, filters)
    last = bottom + model.depth + 1
    # float32 whatever the rest: the softmax of half-precision logits overflows.
    named = {"name": f"conv{last}", "dtype": "float32"}
    outputs = model.classes + planes
    logits = layers.Conv2D(outputs, 1, kernel_initializer=he(10 * last), **named)
    return keras.Model(inputs, logits(x), name="unet")
