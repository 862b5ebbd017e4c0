"""Scores a run on whole frames that it did not train on: IoU, Dice, pixel error.
Prints a table and writes WORKDIR/evaluation-SPLIT.json.
"""

from absl import flags

from trainer.commands.shared_flags import CHECKPOINT, EDGE_PX, TTA, WORKDIR
from trainer.devices import tensorflow_files
from trainer.devices.startup import load_tensorflow
from unet_tfrecords.command import cli, cli_flags, signals
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.splits import SPLITS


def _evaluate(values: flags.FlagValues, _: list[str]) -> None:
    """Scores a run, or with --tune finds its post-processing."""
    load_tensorflow()
    from trainer.evaluation import evaluate_run as evaluation

    if values.tune:
        from trainer.evaluation.tune import tune

        if values["split"].present:
            raise UserError("--tune is on the validation split; leave --split out")
        given = (values.workdir, values.input, values.checkpoint, values.tta)
        print(tune(*given, values.edge_px).table())
        return
    result = evaluation.evaluate(
        values.workdir,
        values.input,
        values.split,
        checkpoint=values.checkpoint,
        tta=values.tta,
        edge_px=values.edge_px,
    )
    print(evaluation.table(result))


COMMAND = cli.Command(
    name="evaluate",
    summary=__doc__,
    flags=(
        WORKDIR,
        cli_flags.string("input", "the data set's folder, as given to preprocess"),
        cli_flags.choice("split", "whose frames", SPLITS, "test"),
        cli_flags.boolean(
            "tune",
            "finds threshold, parting of touching cells, smallest size, "
            "holes and borders on the validation frames, and keeps them for "
            "evaluate, export and predict in WORKDIR/postprocessing.json",
        ),
        TTA,
        EDGE_PX,
        CHECKPOINT,
    ),
    run=tensorflow_files.explained(_evaluate),
    required=("workdir", "input"),
)


def run() -> None:
    """Entry point of `unet-evaluate`."""
    signals.leave(cli.main(COMMAND))
