"""Prints the network's layers for the config's tile size."""

import os

from absl import flags

from trainer.devices import tensorflow_files
from trainer.devices.startup import load_tensorflow
from unet_tfrecords.command import cli, signals
from unet_tfrecords.dataset.data_settings import check_data_config
from unet_tfrecords.dataset.targets import planes_of


def _summary(values: flags.FlagValues, _: list[str]) -> None:
    """Prints the network's layers."""
    load_tensorflow()
    from trainer.network.unet import build_model

    config = cli.config_of(values)
    check_data_config(config)
    network = build_model(
        config.model, planes=planes_of(config.data), size=config.data.tile_size
    )
    os.environ.setdefault("COLUMNS", "110")  # or the table is cut where there's no tty
    network.summary(line_length=108)


COMMAND = cli.Command(
    name="summary",
    summary=__doc__,
    flags=(),
    run=tensorflow_files.explained(_summary),
    takes_config=True,
)


def run() -> None:
    """Entry point of `unet-summary`."""
    signals.leave(cli.main(COMMAND))
