"""What tiles need while they go through the network, and the largest that fit."""

from preprocess import tiling

# Arrays of the first level's channels and the tile's size that live at once on the way
# up, where most is needed: the skip, its cropped copy, what comes from below, the two
# laid together, and a convolution's result. Measured: 4 to 6 (docs/inference.md).
ARRAYS = 6
BYTES = 4  # of a float32


def bytes_of_step(size: int, *, width: int, tiles_per_step: int) -> int:
    """Memory for the tiles of one step, of `size` px, in bytes.

    The image and its probabilities come on top: they hang on the image alone.
    """
    return ARRAYS * BYTES * width * size**2 * tiles_per_step


def tile_within(
    memory_mb: int, *, width: int, depth: int, tiles_per_step: int = 1
) -> int:
    """The largest legal input tile whose steps stay within a budget.

    Args:
      memory_mb: the budget in MB (10**6 bytes).
      width, depth: the network's.
      tiles_per_step: tiles at once.

    Returns:
      Its size in px.

    Raises:
      ValueError: not even the smallest fits, naming what it needs.

    >>> tile_within(500, width=16, depth=4)
    1132
    """
    step = 2**depth
    # The smallest whose output gives a whole stride of pixels.
    smallest = tiling.legal_input_at_least(step + 4, depth)

    def needs(size: int) -> int:
        return bytes_of_step(size, width=width, tiles_per_step=tiles_per_step)

    if needs(smallest) > memory_mb * 10**6:
        raise ValueError(
            f"the smallest tile at depth {depth}, {smallest} px, needs "
            f"{-(-needs(smallest) // 10**6)} MB at width {width}"
        )
    size = smallest
    while needs(size + step) <= memory_mb * 10**6:
        size += step
    return size
