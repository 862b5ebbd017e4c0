"""Whole frames put together again from a split's unaugmented tiles.

What preprocess cut, laid side by side: so that the trainer validates on frames, by the
code that users get, with nothing but the data set's shards at hand.
"""

import concurrent.futures
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from unet_tfrecords.dataset.dataset_info import DatasetInfo
from unet_tfrecords.dataset.records import UNLABELLED, Geometry, Tile
from unet_tfrecords.dataset.shards import read_tiles

_KEY = re.compile(r"(.+)/a\d+/r(\d+)c(\d+)$")


class WholeFrame(NamedTuple):
    """A frame as it was before it was cut.

    Attributes:
      key: DATASET/SEQUENCE/FRAME.
      image: uint8 or uint16 [H, W, C].
      label: uint8 [H, W]: class, 255 unlabelled; touching cells are parted.
      mean, std: float32 [C], to normalise by.
    """

    key: str
    image: np.ndarray
    label: np.ndarray
    mean: np.ndarray
    std: np.ndarray


def frame_and_origin(key: str) -> tuple[str, int, int]:
    """A tile's frame, and where its output lies there.

    >>> frame_and_origin("HeLa/01/t012/a00/r0c124")
    ('HeLa/01/t012', 0, 124)
    """
    match = _KEY.match(key)
    if not match:
        raise ValueError(f"not a tile's key: {key}")
    return match[1], int(match[2]), int(match[3])


def frame_sizes(
    folder: str, info: DatasetInfo, split: str
) -> dict[str, tuple[int, int]]:
    """Height and width of each frame of a split of the data set in a folder."""
    return {
        source.frame: (source.height, source.width)
        for source in info.read_sources(folder)
        if source.split == split
    }


def spread(frames: Sequence[str], number: int) -> list[str]:
    """So many frames, evenly over all of them; 0 takes all.

    >>> spread("abcdefgh", 3)
    ['a', 'c', 'f']
    """
    number = min(number or len(frames), len(frames))
    return [frames[i * len(frames) // number] for i in range(number)]


def assemble(tiles: list[Tile], size: tuple[int, int]) -> WholeFrame:
    """One frame from its tiles; what no tile covers stays unlabelled."""
    height, width = size
    channels = tiles[0].image.shape[2]
    image = np.zeros((height, width, channels), tiles[0].image.dtype)
    label = np.full((height, width), UNLABELLED, np.uint8)
    for tile in tiles:
        key, row, column = frame_and_origin(tile.key)
        output = len(tile.label)
        pad = (len(tile.image) - output) // 2
        rows, columns = min(output, height - row), min(output, width - column)
        place = np.s_[row : row + rows, column : column + columns]
        image[place] = tile.image[pad : pad + rows, pad : pad + columns]
        label[place] = tile.label[:rows, :columns]
    return WholeFrame(key, image, label, tiles[0].mean, tiles[0].std)


def read_frames(
    paths: Iterable[str],
    geometry: Geometry,
    sizes: dict[str, tuple[int, int]],
) -> Iterator[WholeFrame]:
    """The frames of some shards, the next one read while the caller works.

    Args:
      paths: the shards; all tiles of a frame lie in a row in one of them.
      geometry: of the data set.
      sizes: height and width of the frames wanted; others are passed over.

    Raises:
      ValueError: a damaged shard.
    """
    tiles = itertools.chain.from_iterable(read_tiles(path, geometry) for path in paths)
    grouped = itertools.groupby(tiles, key=lambda tile: frame_and_origin(tile.key)[0])
    frames = (assemble(list(own), sizes[key]) for key, own in grouped if key in sizes)
    return _ahead(frames)


def _ahead(frames: Iterator[WholeFrame]) -> Iterator[WholeFrame]:
    """The same items, each made in another thread while its forerunner is used."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, frames, None)
        while (frame := coming.result()) is not None:
            coming = pool.submit(next, frames, None)
            yield frame
