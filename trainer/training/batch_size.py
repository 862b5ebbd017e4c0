"""How many tiles a step takes where the config leaves it open."""

import ml_collections

from trainer.network.flops import layer_sizes
from trainer.training.optimizers import Optimizer
from unet_tfrecords.command.errors import UserError

# NVIDIA's own U-Net of this size trains 2.3 times as many tiles a second at 8 per GPU
# as at 1; more than 8 cost memory and change the learning for little.
MOST_PER_GPU = 8
# Memory of a tile in units of all its activations: kept for the backward pass, their
# gradients, and what convolutions work with. An estimate, checked against one figure:
# 1.8 GB for the paper's network in float32, of which NVIDIA trains 8 on 16 GB.
ACTIVATIONS = 2.5
RESERVED_BYTES = 1.5e9  # CUDA's own, and cuDNN's workspace
USABLE = 0.9  # of a GPU's memory


def activations(model: ml_collections.ConfigDict, tile_size: int) -> int:
    """Values that one tile's layers put out.

    >>> from configs import base
    >>> activations(base.get_config().model, 572) / 1e6
    182.390304
    """
    return sum(layer.values for layer in layer_sizes(model, tile_size))


def parameters(model: ml_collections.ConfigDict) -> int:
    """Weights of the network, without the gains of standardised kernels.

    >>> from configs import base
    >>> parameters(base.get_config().model)
    31030658
    """
    layers = layer_sizes(model, 0)  # of a tile of any size
    return sum((layer.taps * layer.channels + 1) * layer.filters for layer in layers)


def tiles_that_fit(
    config: ml_collections.ConfigDict, precision: str, gpu_bytes: float
) -> int:
    """Tiles that a GPU can take at once, 1 to MOST_PER_GPU, a power of two.

    Args:
      config: the whole config.
      precision: the Keras dtype policy.
      gpu_bytes: the GPU's memory.

    Raises:
      UserError: not even one fits.

    >>> from configs import base
    >>> config = base.get_config()
    >>> [tiles_that_fit(config, "mixed_bfloat16", gb * 1e9) for gb in (8, 80)]
    [4, 8]
    """
    train, model = config.train, config.model
    value = 4 if precision == "float32" else 2
    tile = ACTIVATIONS * value * activations(model, config.data.tile_size)
    # The last 2: gradients, and their sums.
    copies = 1 + len(Optimizer.SLOTS[train.optimizer]) + bool(train.ema) + 2
    free = USABLE * gpu_bytes - RESERVED_BYTES - 4 * copies * parameters(model)
    fitting = [n for n in (1, 2, 4, MOST_PER_GPU) if n * tile <= free]
    if not fitting:
        raise UserError(
            f"a GPU of {gpu_bytes / 1e9:.0f} GB is too small for tiles of "
            f"{config.data.tile_size} px at width {model.width}: one takes some "
            f"{tile / 1e9:.1f} GB of the {max(free, 0) / 1e9:.1f} GB that are left; "
            "make smaller tiles (config.data.tile_size), train a narrower network "
            "(config.model.width), or give config.train.global_batch and try"
        )
    return fitting[-1]


def settle(train: ml_collections.ConfigDict, *, replicas: int, fitting: int) -> None:
    """Writes into the config what it leaves open: the batch and the rule for its rate.

    With as many tiles as fit, gradients are averages over more tiles; the learning
    rate then grows with the square root of their number (docs/decisions.md). A batch
    that is given is taken with the learning rate that is given.

    Args:
      train: the config's `train` part.
      replicas: over all workers.
      fitting: tiles that one takes at once.
    """
    chosen = not train.global_batch
    if chosen:
        parts = -(-fitting // train.accumulate)  # at least one tile in each
        tiles = train.tiles_per_replica or parts * train.accumulate
        train.global_batch = replicas * tiles
    if train.learning_rate_rule == "auto":
        train.learning_rate_rule = "sqrt" if chosen else "fixed"
