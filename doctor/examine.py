"""Looks at this machine, its packages, GPUs and the given places; names the cures.

Exit code 0: all is fine; 1: something is not; 2: a flag is wrong.
"""

import logging
import sys

from absl import flags

from doctor import devices, host, packages, places
from doctor.finding import show
from unet_tfrecords.command import cli, cli_flags, signals
from unet_tfrecords.command.errors import UserError

WRONG = 1


def examine(input_path: str, output: str) -> int:
    """Prints all findings; returns how many are wrong.

    Args:
      input_path: folder of images; "" for none.
      output: folder to write to, existing or not; "" for none.
    """
    wrong = show(host.look("" if "://" in output else output)) + show(packages.look())
    for finding in places.look(input_path, output):
        wrong += show([finding])
    wrong += show(devices.look())
    print(f"{wrong} to fix" if wrong else "all fine")
    return wrong


def _examine(values: flags.FlagValues, _: list[str]) -> None:
    for name in ("input", "output"):
        if values[name].present and not values[name].value:
            raise UserError(f"--{name} is empty")
    logging.disable(logging.WARNING)  # of clients: what matters is in our lines
    if examine(values.input, values.output):
        sys.exit(WRONG)


COMMAND = cli.Command(
    name="doctor",
    summary=__doc__,
    flags=(
        cli_flags.string("input", "folder of images, local or in a store", ""),
        cli_flags.string("output", "folder to write to, local or in a store", ""),
    ),
    run=_examine,
)


def run() -> None:
    """Runs the command."""
    signals.leave(cli.main(COMMAND))
