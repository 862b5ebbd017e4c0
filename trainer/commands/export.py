"""Writes OUTPUT/<version>/saved_model.pb: raw images of any size in, seams exact.
Beside it, in assets.extra/: config, scores, model card, warm-up requests.
"""

from absl import flags

from trainer.commands.shared_flags import CHECKPOINT, TTA
from trainer.devices import tensorflow_files
from trainer.devices.startup import load_tensorflow
from unet_tfrecords.command import cli, cli_flags, signals
from unet_tfrecords.command.errors import UserError


def _export(values: flags.FlagValues, _: list[str]) -> None:
    """Writes a SavedModel."""
    destinations = [path for path in (values.output, values.publish) if path]
    if not destinations:
        raise UserError("--output or --publish must be given; see --help")
    load_tensorflow()
    from trainer.export import artefact, members

    named = {name: getattr(values, name) for name in artefact.ExportOptions._fields}
    options = artefact.ExportOptions(**named)
    folders = members.folders_of(values.workdir)
    for version in artefact.export(folders, destinations, options):
        print(f"{version}/saved_model.pb")


COMMAND = cli.Command(
    name="export",
    summary=__doc__,
    flags=(
        cli_flags.string(
            "workdir",
            "folder of the run; several with commas between, or cross_validate's, "
            "become one model that averages their probabilities, by the medians of "
            "their rules",
        ),
        cli_flags.string("output", "the model's folder; versions lie inside"),
        cli_flags.string(
            "publish",
            "folder, local or in a bucket, that TensorFlow Serving polls: the "
            "next version appears there whole, saved_model.pb last; with "
            "--output or alone",
        ),
        cli_flags.integer(
            "tile",
            "largest input tile, px; smaller images take smaller ones; 0 takes "
            "the one that gives 1028 px (docs/inference.md: what tiles cost)",
        ),
        cli_flags.integer("tiles_per_step", "tiles at once; more fill large GPUs", 1),
        cli_flags.integer(
            "memory_mb",
            "takes the largest tile whose steps need no more memory than this, "
            "MB, the image and its probabilities apart; 0 sets no limit. "
            "Measured with oneDNN on processors; for GPUs an estimate, the "
            "weights and CUDA's own 1.5 GB apart",
        ),
        cli_flags.choice(
            "device",
            "what the model will run on, which decides --weights=auto and "
            "--memory_mb; auto: gpu where this machine has one or --precision "
            "is a mixed one",
            ("auto", "cpu", "gpu"),
            "auto",
        ),
        TTA,
        cli_flags.choice(
            "precision",
            "float32, or mixed_bfloat16, mixed_float16 for GPUs that compute "
            "in them; outputs are float32 in any case",
            ("float32", "mixed_bfloat16", "mixed_float16"),
            "float32",
        ),
        cli_flags.choice(
            "weights",
            "constants: of the graph, far faster on a processor; "
            "variables: far less memory; auto: constants for a processor, up "
            "to 200 MB of weights, variables for GPUs",
            ("auto", "constants", "variables"),
            "auto",
        ),
        cli_flags.boolean(
            "onnx",
            "writes assets.extra/tile.onnx too, for predict --runtime=onnx "
            "(extra onnx)",
        ),
        cli_flags.boolean(
            "bioimageio",
            "writes assets.extra/bioimageio.zip too, for bioimage.io, ilastik, "
            "deepImageJ (extra bioimageio)",
        ),
        CHECKPOINT,
    ),
    run=tensorflow_files.explained(_export),
    required=("workdir",),
)


def run() -> None:
    """Entry point of `unet-export`."""
    signals.leave(cli.main(COMMAND))
