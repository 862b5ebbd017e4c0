"""Arithmetic of the network, in plain integers."""

from collections.abc import Iterator
from typing import NamedTuple

import ml_collections


class LayerSize(NamedTuple):
    """A layer's size.

    Attributes:
      taps: of its kernel; 0 of a pooling, which has none.
      channels, filters: in and out.
      edge_px: of the square of places where the kernel is applied.
      values: that the layer puts out for one tile.
    """

    taps: int
    channels: int
    filters: int
    edge_px: int
    values: int


def layer_sizes(
    model: ml_collections.ConfigDict, tile_size: int
) -> Iterator[LayerSize]:
    """Sizes of the network's layers, in their order."""
    size, channels = tile_size, model.channels
    for level in range(model.depth + 1):
        filters = model.width * 2**level
        for inputs in (channels, filters):
            size -= 2
            yield LayerSize(9, inputs, filters, size, filters * size**2)
        channels = filters
        if level < model.depth:
            size //= 2
            yield LayerSize(0, 0, 0, size, filters * size**2)
    for level in reversed(range(model.depth)):
        filters = model.width * 2**level
        # Its own values and, joined with the skip, three times as many.
        yield LayerSize(4, 2 * filters, filters, size, 3 * filters * (2 * size) ** 2)
        size *= 2
        for inputs in (2 * filters, filters):
            size -= 2
            yield LayerSize(9, inputs, filters, size, filters * size**2)
    yield LayerSize(1, model.width, model.classes, size, model.classes * size**2)


def forward_macs(model: ml_collections.ConfigDict, tile_size: int) -> tuple[int, int]:
    """Multiply-adds of one tile through the network, and those of its first layer.

    >>> from configs import base
    >>> forward_macs(base.get_config().model, 572)[0] / 1e9  # of the paper's network
    150.428424448
    """
    layers = layer_sizes(model, tile_size)
    macs = [x.taps * x.channels * x.filters * x.edge_px**2 for x in layers]
    return sum(macs), macs[0]


def training_flops(model: ml_collections.ConfigDict, tile_size: int) -> int:
    """Floating-point operations of one tile's training step: 2 a multiply-add.

    Forward, gradient of the weights, gradient of the inputs; the image needs none.
    """
    total, first = forward_macs(model, tile_size)
    return 2 * (3 * total - first)
