"""What tiles need while they go through the network, and the largest that fit."""

import math
from typing import NamedTuple

from unet_tfrecords.dataset import tiling

# Arrays of the first level's channels and the tile's size that live at once on the way
# up, where most is needed: the skip, its cropped copy, what comes from below, the two
# laid together, and a convolution's result. Measured: 4 to 6 (docs/inference.md).
ARRAYS = 6
# On GPUs nothing fuses a convolution with its bias and ReLU, and cuDNN wants room too:
# an estimate, not measured.
GPU_ARRAYS = 8


class Device(NamedTuple):
    """What a model will run on.

    Attributes:
      kind: cpu or gpu.
      precision: a Keras dtype policy.
    """

    kind: str = "cpu"
    precision: str = "float32"

    @property
    def bytes_per_pixel(self) -> int:
        """Memory of a pixel and first-level channel while a tile is in the network."""
        value = 4 if self.precision == "float32" else 2
        return value * (GPU_ARRAYS if self.kind == "gpu" else ARRAYS)


PROCESSOR = Device()


def bytes_of_step(
    size: int, *, width: int, tiles_per_step: int, device: Device = PROCESSOR
) -> int:
    """Memory for the tiles of one step, of `size` px, in bytes.

    The image and its probabilities come on top, which depend on the image alone; on a
    GPU so do the weights and some 1.5 GB of CUDA's own.
    """
    return device.bytes_per_pixel * width * size**2 * tiles_per_step


def tile_within(
    memory_mb: int,
    *,
    width: int,
    depth: int,
    tiles_per_step: int = 1,
    device: Device = PROCESSOR,
) -> int:
    """The largest legal input tile whose steps stay within a budget.

    Args:
      memory_mb: the budget in MB (10**6 bytes).
      width, depth: the network's.
      tiles_per_step: tiles at once.
      device: what the model will run on.

    Returns:
      Its size in px.

    Raises:
      ValueError: not even the smallest fits, naming what it needs.

    >>> tile_within(500, width=16, depth=4)
    1132
    """
    step, border = 2**depth, tiling.border(depth)
    per_px = bytes_of_step(1, width=width, tiles_per_step=tiles_per_step, device=device)
    # The smallest whose output gives a whole stride of pixels.
    smallest = tiling.legal_input_at_least(step + 4, depth)
    largest = math.isqrt(max(0, memory_mb) * 10**6 // per_px)
    if largest < smallest:
        raise ValueError(
            f"the smallest tile at depth {depth}, {smallest} px, needs "
            f"{-(-per_px * smallest**2 // 10**6)} MB at width {width}"
        )
    return largest - (largest - border - 4) % step
