"""Arithmetic of the network, in plain integers."""

import ml_collections


def forward_macs(model: ml_collections.ConfigDict, tile_size: int) -> tuple[int, int]:
    """Multiply-adds of one tile through the network, and those of its first layer.

    >>> from configs import base
    >>> forward_macs(base.get_config().model, 572)[0] / 1e9  # of the paper's network
    150.428424448
    """
    size, channels, total, first = tile_size, model.channels, 0, 0
    for level in range(model.depth + 1):
        filters = model.width * 2**level
        for _ in range(2):
            size -= 2
            total += 9 * channels * filters * size**2
            first = first or total
            channels = filters
        if level < model.depth:
            size //= 2
    for level in reversed(range(model.depth)):
        filters = model.width * 2**level
        total += 4 * channels * filters * size**2
        size *= 2
        for channels in (2 * filters, filters):
            size -= 2
            total += 9 * channels * filters * size**2
        channels = filters
    return total + channels * model.classes * size**2, first


def training_flops(model: ml_collections.ConfigDict, tile_size: int) -> int:
    """Floating-point operations of one tile's training step: 2 a multiply-add.

    Forward, gradient of the weights, gradient of the inputs; the image needs none.
    """
    total, first = forward_macs(model, tile_size)
    return 2 * (3 * total - first)
