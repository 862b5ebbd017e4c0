"""The eight ways to lay a square upon itself, for test-time augmentation."""

from typing import NamedTuple


class Symmetry(NamedTuple):
    """Transposed, then mirrored.

    Attributes:
      transposed: whether rows and columns change places, first.
      axes: of [B, H, W, C], those that are then reversed.
    """

    transposed: bool
    axes: tuple[int, ...]


SYMMETRIES = tuple(
    Symmetry(transposed, axes)
    for transposed in (False, True)
    for axes in ((), (1,), (2,), (1, 2))
)
