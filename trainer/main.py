"""The trainer's commands: train, evaluate, export, predict, summary.

The only home of their flags; each loads TensorFlow when it runs, not before.
"""

import os
import sys
import tempfile

from absl import flags

from preprocess import cli
from preprocess.check import check_data_config


def _string(name: str, text: str, default: str | None = None):
    return lambda values: flags.DEFINE_string(name, default, text, flag_values=values)


WORKDIR = _string("workdir", "folder of the run: checkpoints, logs, metrics")


def _flags(*definitions):
    def define(values: flags.FlagValues) -> None:
        for definition in definitions:
            definition(values)

    return define


def _load_tensorflow() -> None:
    """TensorFlow with oneDNN's fast kernels, and without what it says at the start.

    Its C++ part writes a few lines to stderr before it reads any log level; they are
    taken out, everything else passes.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # leave room for others
    chatter = (
        b"oneDNN custom operations",
        b"absl::InitializeLog",
        b"cpu_feature_guard",
    )
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_logical_devices("CPU")  # the runtime's start says it again
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            caught.seek(0)
            for line in caught:
                if not any(words in line for words in chatter):
                    os.write(2, line)


def _train(values: flags.FlagValues, _: list[str]) -> None:
    _load_tensorflow()
    from trainer.train import train

    train(cli.config_of(values), values.data, values.workdir)


def _evaluate(values: flags.FlagValues, _: list[str]) -> None:
    _load_tensorflow()
    from trainer.evaluate import evaluate, table

    print(table(evaluate(values.workdir, values.input, values.split)))


def _export(values: flags.FlagValues, _: list[str]) -> None:
    _load_tensorflow()
    from trainer.export import export

    print(f"{export(values.workdir, values.output, values.tile)}/saved_model.pb")


def _predict(values: flags.FlagValues, _: list[str]) -> None:
    _load_tensorflow()
    from trainer.predict import predict

    count = predict(values.model, values.input, values.output)
    print(f"{count} images: {values.output}/*_mask.png, *_overlay.png")


def _summary(values: flags.FlagValues, _: list[str]) -> None:
    _load_tensorflow()
    from trainer.model import build_model

    config = cli.config_of(values)
    check_data_config(config)
    network = build_model(config.model, size=config.data.tile_size)
    os.environ.setdefault("COLUMNS", "110")  # or the table is cut where there's no tty
    network.summary(line_length=108)


COMMANDS = {
    command.name: command
    for command in (
        cli.Command(
            "train",
            "Trains on a data set's shards, on all GPUs or else the processor, and "
            "goes on\nwhere an earlier run of the same command stopped.",
            _flags(_string("data", "folder that preprocess made"), WORKDIR),
            _train,
            required=("data", "workdir"),
            takes_config=True,
        ),
        cli.Command(
            "evaluate",
            "Scores a run on whole frames that it did not train on: IoU, Dice, pixel "
            "error.\nPrints a table and writes WORKDIR/evaluation-SPLIT.json.",
            _flags(
                WORKDIR,
                _string("input", "the data set's folder, as given to preprocess"),
                _string("split", "train, validation or test", "test"),
            ),
            _evaluate,
            required=("workdir", "input"),
        ),
        cli.Command(
            "export",
            "Writes OUTPUT/<version>/saved_model.pb: raw images of any size in.",
            _flags(
                WORKDIR,
                _string("output", "the model's folder; versions lie inside"),
                lambda values: flags.DEFINE_integer(
                    "tile",
                    0,
                    "largest input tile, px; 0 takes the one that gives 516 px",
                    flag_values=values,
                ),
            ),
            _export,
            required=("workdir", "output"),
        ),
        cli.Command(
            "predict",
            "Segments images with a SavedModel: NAME_mask.png holds class numbers (0 "
            "is\nbackground, so it looks black), NAME_overlay.png is for looking at.",
            _flags(
                _string("model", "folder that export made, or one version in it"),
                _string("input", "folder or glob of TIFF, PNG or JPEG images"),
                _string("output", "folder for masks and overlays"),
            ),
            _predict,
            required=("model", "input", "output"),
        ),
        cli.Command(
            "summary",
            "Prints the network's layers for the config's tile size.",
            _flags(),
            _summary,
            takes_config=True,
        ),
    )
}


def _run(name: str) -> None:
    sys.exit(cli.main(COMMANDS[name]))


def train() -> None:
    """Entry point of `unet-train`."""
    _run("train")


def evaluate() -> None:
    """Entry point of `unet-evaluate`."""
    _run("evaluate")


def export() -> None:
    """Entry point of `unet-export`."""
    _run("export")


def predict() -> None:
    """Entry point of `unet-predict`."""
    _run("predict")


def run() -> None:
    """`python -m trainer.main COMMAND --flag=value ...`."""
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        print(
            f"usage: python -m trainer.main {'|'.join(COMMANDS)} ...", file=sys.stderr
        )
        sys.exit(2)
    _run(name)


if __name__ == "__main__":
    run()
