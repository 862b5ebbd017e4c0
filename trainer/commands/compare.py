"""One table of several runs' scores, and a page with their curves over each other:
compare RUN RUN ...
"""

from absl import flags

from trainer.devices import tensorflow_files
from trainer.devices.startup import starting
from unet_tfrecords.command import cli, cli_flags, signals
from unet_tfrecords.dataset.splits import SPLITS


def _compare(values: flags.FlagValues, folders: list[str]) -> None:
    """Puts runs side by side."""
    with starting():
        from trainer.evaluation.report import comparison

    rows = comparison.compare(folders, values.split, values.output)
    print(comparison.table(rows, folders))
    if values.output:
        print(f"page: {values.output}")


COMMAND = cli.Command(
    name="compare",
    summary=__doc__,
    flags=(
        cli_flags.choice("split", "whose evaluations", SPLITS, "test"),
        cli_flags.string("output", "the page; --output= writes none", "compare.html"),
    ),
    run=tensorflow_files.explained(_compare),
    takes_arguments=True,
)


def run() -> None:
    """Entry point of `unet-compare`."""
    signals.leave(cli.main(COMMAND))
