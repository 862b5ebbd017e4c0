"""Overlap-tile geometry of the U-Net, in pure integers (arXiv 1505.04597, fig. 2).

A valid-convolution U-Net of depth d (its number of poolings) sees more than it says:
an input of n pixels gives n - border(d) pixels of output. To label a whole frame, the
frame is mirrored outwards by half the border and cut into overlapping inputs whose
outputs lie side by side:

            pad                     frame                    pad
    d c b | a b c d e f g h i j k l m n o p q r s t u v | u t s     mirrored frame
    [===========[ output of tile 0 ]===========]                    tile 0 (input)
                            [===========[ output of tile 1 ]======  tile 1 (input)

All sizes are edge lengths in pixels of a square, or of one axis of a rectangle.
"""

import numpy as np


def border(depth: int) -> int:
    """Pixels that an input loses, both sides together, at `depth` poolings.

    >>> [border(depth) for depth in range(1, 6)]
    [16, 40, 88, 184, 376]
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, not {depth}")
    return 4 * (3 * 2**depth - 2)


def pad(depth: int) -> int:
    """Pixels of mirrored context on each side of an output.

    >>> pad(4), 512 + 2 * pad(4)
    (92, 696)
    """
    return border(depth) // 2


def is_legal_input(size: int, depth: int) -> bool:
    """Whether every pooling sees an even size and the output is not empty.

    >>> is_legal_input(572, 4), is_legal_input(696, 4), is_legal_input(188, 4)
    (True, False, True)
    """
    return size > border(depth) and (size - border(depth) - 4) % 2**depth == 0


def legal_input_at_least(output: int, depth: int) -> int:
    """The smallest legal input whose output has at least `output` pixels.

    >>> legal_input_at_least(388, 4), legal_input_at_least(512, 4)
    (572, 700)
    """
    step = 2**depth
    smallest = 4 % step or step  # outputs are 4 mod 2**depth
    extra = max(0, output - smallest)
    return smallest + -(-extra // step) * step + border(depth)


def output_size(size: int, depth: int) -> int:
    """The output's size for a legal input.

    Raises:
      ValueError: for an illegal input, naming the legal sizes on either side.

    >>> output_size(572, 4)
    388
    """
    if not is_legal_input(size, depth):
        above = legal_input_at_least(max(1, size - border(depth)), depth)
        below = above - 2**depth
        near = f"{below} or {above}" if below > border(depth) else f"{above}"
        raise ValueError(
            f"tile size {size} px is not legal at depth {depth}: "
            f"poolings need even sizes; the nearest legal is {near}"
        )
    return size - border(depth)


def skip_crops(depth: int) -> list[int]:
    """Pixels cropped from each side of the skip at each level, bottom first.

    They depend on the depth alone, so one network serves every legal size.

    >>> skip_crops(4)
    [4, 16, 40, 88]
    """
    crops = [4]
    while len(crops) < depth:
        crops.append(2 * (crops[-1] + 4))
    return crops


def tile_origins(frame: int, output: int) -> list[int]:
    """Where training tiles start along one axis of a frame.

    The origin of a tile's input in the mirrored frame is also that of its output in
    the frame. As few tiles as cover the frame, spread evenly, the last one flush with
    the frame's end.

    >>> tile_origins(512, 388)
    [0, 124]
    >>> tile_origins(1000, 388), tile_origins(300, 388)
    ([0, 306, 612], [0])
    """
    if frame < 1 or output < 1:
        raise ValueError(
            f"frame ({frame} px) and output ({output} px) must be positive"
        )
    slack = max(0, frame - output)
    last = -(-frame // output) - 1
    return [slack * i // last for i in range(last + 1)] if last else [0]


def inference_grid(frame: int, largest_output: int, depth: int) -> tuple[int, int]:
    """How inference cuts one axis: (number of tiles, stride between them).

    Origins are multiples of 2**depth: otherwise pooling grids shift and neighbouring
    tiles disagree. Each tile contributes its first `stride` output pixels, so the
    stitched outputs are a plain reshape; the tile's input is stride + 4 + border(d).
    Among the strides that need the fewest tiles, the smallest. Plain arithmetic, so
    that `frame` may be an int or an integer tensor in a TensorFlow graph.

    >>> inference_grid(512, 516, 4)
    (1, 512)
    >>> inference_grid(520, 516, 4)  # two tiles of 272, not one of 512 and a sliver
    (2, 272)
    """
    step = 2**depth
    largest_stride = (largest_output - 4) // step * step
    if largest_stride < step:
        raise ValueError(
            f"a tile output of {largest_output} px is too small at depth {depth}: "
            f"at least {step + 4} px are needed"
        )
    tiles = -(-frame // largest_stride)
    stride = -(-frame // (tiles * step)) * step
    return tiles, stride


def mirror_indices(start: int, stop: int, size: int) -> np.ndarray:
    """Source indices for positions start..stop-1 of an axis mirrored without end.

    The edge pixel is not repeated, and a frame smaller than the pad is mirrored as
    often as it takes.

    Returns: int64 [stop - start], each in 0..size-1.

    >>> mirror_indices(-3, 7, 4).tolist()
    [3, 2, 1, 0, 1, 2, 3, 2, 1, 0]
    >>> mirror_indices(-2, 3, 1).tolist()
    [0, 0, 0, 0, 0]
    """
    period = max(1, 2 * (size - 1))
    position = np.arange(start, stop) % period
    return np.minimum(position, period - position)
