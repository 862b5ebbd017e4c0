"""What these tests type, read and change."""

import tifffile

from tests import commands
from tests.commands import run
from unet_tfrecords.dataset import shards

DRAWN = "--config=configs/synthetic.py:smoke"


SMALL = (*commands.SMALL, "--config.data.augmentations=3")


def preprocess(source, output, *more, config="synthetic.py:smoke") -> int:
    given = f"--config=configs/{config}", *SMALL, *more
    return run("preprocess", *given, input=source, output=output)


def read_tiles(folder, info, split):
    for shard in info.splits[split].shards:
        yield from shards.read_tiles(str(folder / shard.name), info.geometry)


def changed(path, change):
    """Writes an image anew with other pixels."""
    tifffile.imwrite(path, change(tifffile.imread(path)))
