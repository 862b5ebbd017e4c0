"""Trains and evaluates a run for each block of frames, so that every frame is tested
once, and reports them together. Resumes where it was stopped.
"""

from absl import flags

from trainer.commands.shared_flags import TTA
from trainer.devices import tensorflow_files
from trainer.devices.startup import starting
from unet_tfrecords.command import cli, cli_flags, signals


def _cross_validate(values: flags.FlagValues, _: list[str]) -> None:
    """Trains and scores every fold."""
    config = cli.config_of(values)
    with starting():  # its folds are processes of their own
        from trainer.evaluation import folds as crossed
        from trainer.evaluation.evaluate_run import table

    config_flags = [f for f in cli.given_flags(values) if f.startswith("--config")]
    result = crossed.cross_validate(
        config,
        config_flags,
        values.input,
        values.workdir,
        folds=values.folds,
        tta=values.tta,
        tune=values.tune,
    )
    print(table(result))
    print(f"report: {values.workdir}/report.html")


COMMAND = cli.Command(
    name="cross_validate",
    summary=__doc__,
    flags=(
        cli_flags.string("input", "the data set's folder, as preprocess takes it"),
        cli_flags.string("workdir", "folder for everything: fold-0/data, fold-0/train"),
        cli_flags.integer(
            "folds", "blocks that each sequence's frames are cut into", 5
        ),
        cli_flags.boolean(
            "tune",
            "each fold finds its post-processing on its validation block",
            True,
        ),
        TTA,
    ),
    run=tensorflow_files.explained(_cross_validate),
    required=("input", "workdir"),
    takes_config=True,
)


def run() -> None:
    """Entry point of `unet-cross-validate`."""
    signals.leave(cli.main(COMMAND))
