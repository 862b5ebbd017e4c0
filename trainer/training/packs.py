"""Gradients as a few long vectors, which are summed over replicas in as many calls."""

import math
from collections.abc import Sequence

import tensorflow as tf

PACK_BYTES = 32 * 2**20  # a pack travels while the gradients of the next are computed
BYTES = 4  # of a float32
# One sum for each vector: TensorFlow would join them again, up to N bytes.
NOT_JOINED = tf.distribute.experimental.CommunicationOptions(bytes_per_pack=1)


class Packs:
    """Packs gradients, with the loss behind them, and takes them apart again.

    TensorFlow sends the last pack first: that of the last layers, whose gradients are
    the first of a backward pass. Packing is part of the function that makes the
    gradients, so that XLA compiles it too: TensorFlow's own packing runs some 300 ops
    per replica and step between the compiled functions.

    >>> packs = Packs([(2, 3), (4,)], most_bytes=24)
    >>> [vector.shape[0] for vector in packs.join(0.5, [tf.ones((2, 3)), tf.ones(4)])]
    [6, 5]
    """

    def __init__(
        self, shapes: Sequence[Sequence[int]], *, most_bytes: int = PACK_BYTES
    ):
        """Deals variables into packs.

        Args:
          shapes: of the gradients.
          most_bytes: of a pack's gradients; one that is larger goes alone.
        """
        self.shapes = [tuple(shape) for shape in shapes]
        self.groups: list[list[int]] = [[]]
        for index in range(len(self.shapes)):
            group = [*self.groups[-1], index]
            if self.groups[-1] and BYTES * sum(map(self._size, group)) > most_bytes:
                self.groups.append([index])
            else:
                self.groups[-1] = group

    def _size(self, index: int) -> int:
        return math.prod(self.shapes[index])

    def join(self, loss: tf.Tensor, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The packs: float32 vectors, the last with the loss as its last value."""
        parts = [[tf.reshape(gradients[i], [-1]) for i in g] for g in self.groups]
        parts[-1].append(tf.reshape(tf.cast(loss, tf.float32), [1]))
        return [tf.concat(part, 0) for part in parts]

    def split(self, packs: Sequence[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """What `join` was given: loss and gradients."""
        flat: list[tf.Tensor] = []
        for pack, group in zip(packs, self.groups, strict=True):
            sizes = [self._size(index) for index in group]
            flat += tf.split(pack[: sum(sizes)], sizes)
        return packs[-1][-1], list(map(tf.reshape, flat, self.shapes))
