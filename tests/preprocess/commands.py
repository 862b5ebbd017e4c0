"""What these tests type, read and change."""

import tifffile

from preprocess.main import COMMAND
from unet_tfrecords.command.cli import main
from unet_tfrecords.dataset import shards

DRAWN = "--config=configs/synthetic.py:smoke"


SMALL = (
    "--config.data.tile_size=60",
    "--config.model.depth=2",
    "--config.data.augmentations=3",
)


def preprocess(source, output, *more, config="synthetic.py:smoke") -> int:
    arguments = [f"--config=configs/{config}", *SMALL, f"--input={source}"]
    return main(COMMAND, [*arguments, f"--output={output}", *more])


def read_tiles(folder, info, split):
    for shard in info.splits[split].shards:
        yield from shards.read_tiles(str(folder / shard.name), info.geometry)


def changed(path, change):
    """Writes an image anew with other pixels."""
    tifffile.imwrite(path, change(tifffile.imread(path)))
