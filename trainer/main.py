"""The trainer's commands, from train to predict: the only home of their flags."""

import signal
import sys

if __name__ == "__main__" and (
    signal.getsignal(signal.SIGINT) is not signal.SIG_IGN  # as in the background
):
    # Ctrl-C before all is imported ends it without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from preprocess import cli, cli_flags
from preprocess.splits import SPLITS
from trainer import commands, stores

CHECKPOINT = cli_flags.string(
    "checkpoint",
    "best (by config.train.best_metric; newest where nothing was validated), newest, "
    "or a step",
    "best",
)
TTA = cli_flags.boolean(
    "tta",
    "averages over the eight turned and mirrored versions of each image, inside the "
    "graph: eight times the work",
)
WORKDIR = cli_flags.string("workdir", "folder of the run: checkpoints, logs, metrics")


# How predict makes instances of probabilities.
ELSE = "; by default as the model has it, from evaluate --tune"
RULES = (
    cli_flags.number(
        "threshold", f"probability above which a pixel is foreground, 0 to 1{ELSE}"
    ),
    cli_flags.number(
        "core_threshold",
        "above --threshold: instances grow from cores more probable than this, so that "
        f"cells part at bridges of doubt{ELSE}",
    ),
    cli_flags.number(
        "split_px",
        "parts cells where a bridge is narrower than both sides by so many px "
        f"(half-widths); 0 parts nothing{ELSE}",
    ),
    cli_flags.integer(
        "min_size_px", f"instances of fewer pixels are dropped{ELSE}", None
    ),
    cli_flags.boolean(
        "fill_holes", f"fills what a single instance encloses{ELSE}", None
    ),
    cli_flags.integer(
        "border_px",
        f"gaps between instances of up to so many px are given back to them{ELSE}",
        None,
    ),
)


COMMANDS = {
    command.name: command._replace(run=stores.explained(command.run))
    for command in (
        cli.Command(
            "train",
            "Trains on a data set's shards, on all GPUs or else the processor (with "
            "TF_CONFIG, on\nall workers), and goes on where an earlier run of the same "
            "command stopped.",
            (
                cli_flags.string("data", "folder that preprocess made"),
                cli_flags.string(
                    "workdir",
                    "folder of the run: checkpoints, logs, metrics; with --dry_run "
                    "none is needed",
                ),
                cli_flags.integer(
                    "devices",
                    "splits the first GPU, or else the processor, into so many logical "
                    "devices, to try out what many do; 0 takes what there is",
                    least=0,
                ),
                cli_flags.choice(
                    "all_reduce",
                    "how GPUs sum their gradients. auto, nccl: by NCCL, also between "
                    "hosts; ring: by TensorFlow's own copies, far slower, for where "
                    "NCCL fails",
                    ("auto", "nccl", "ring"),
                    "auto",
                ),
                cli_flags.boolean(
                    "allow_cpu",
                    "trains on the processor where there are GPUs that TensorFlow "
                    "cannot use, which is refused otherwise",
                ),
                cli_flags.boolean(
                    "dry_run",
                    "builds everything, makes two steps on real shards and segments "
                    "one validation frame, prints what it costs, writes nothing",
                ),
                cli_flags.choice(
                    "on_bad_record",
                    "fail: stop at a damaged record and name it; skip: leave it out, "
                    "count and report it",
                    ("fail", "skip"),
                    "fail",
                ),
                cli_flags.string(
                    "cache",
                    "reads shards from copies: in memory, or in a folder of this "
                    "machine; for shards on slow or remote disks",
                    "",
                ),
                cli_flags.integer(
                    "extend_steps",
                    "trains the run in --workdir on to so many steps in all, the only "
                    "change of its config that is allowed; its schedule then is that "
                    "of so many steps",
                ),
                cli_flags.number(
                    "wait_minutes",
                    "with TF_CONFIG: gives up, naming the workers that have not come, "
                    "after so many minutes; 0 waits for ever",
                    15.0,
                ),
                cli_flags.integer(
                    "stopped_exit_code",
                    "exit code where SIGTERM, or the end of another worker, has "
                    "stopped the run before its end, for schedulers that start it "
                    "again by the code (75 is customary); 0: 0 and 2",
                ),
                cli_flags.strings(
                    "profile_steps",
                    "profiles from one step to another, as 10,20: see TensorBoard's "
                    "Profile page",
                ),
            ),
            commands.train,
            required=("data",),
            takes_config=True,
        ),
        cli.Command(
            "evaluate",
            "Scores a run on whole frames that it did not train on: IoU, Dice, pixel "
            "error.\nPrints a table and writes WORKDIR/evaluation-SPLIT.json.",
            (
                WORKDIR,
                cli_flags.string(
                    "input", "the data set's folder, as given to preprocess"
                ),
                cli_flags.choice("split", "whose frames", SPLITS, "test"),
                cli_flags.boolean(
                    "tune",
                    "finds threshold, parting of touching cells, smallest size, "
                    "holes and borders on the validation frames, and keeps them for "
                    "evaluate, export and predict in WORKDIR/postprocessing.json",
                ),
                TTA,
                CHECKPOINT,
            ),
            commands.evaluate,
            required=("workdir", "input"),
        ),
        cli.Command(
            "cross_validate",
            "Trains and evaluates a run for each block of frames, so that every frame "
            "is tested\nonce, and reports them together. Goes on where it was stopped.",
            (
                cli_flags.string(
                    "input", "the data set's folder, as preprocess takes it"
                ),
                cli_flags.string(
                    "workdir", "folder for everything: fold-0/data, fold-0/train"
                ),
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
            commands.cross_validate,
            required=("input", "workdir"),
            takes_config=True,
        ),
        cli.Command(
            "compare",
            "One table of several runs' scores, and a page with their curves over each "
            "other:\ncompare RUN RUN ...",
            (
                cli_flags.choice("split", "whose evaluations", SPLITS, "test"),
                cli_flags.string(
                    "output", "the page; --output= writes none", "compare.html"
                ),
            ),
            commands.compare,
            takes_arguments=True,
        ),
        cli.Command(
            "export",
            "Writes OUTPUT/<version>/saved_model.pb: raw images of any size in, seams "
            "exact.\nBeside it, in assets.extra/: config, scores, model card, warm-up "
            "requests.",
            (
                WORKDIR,
                cli_flags.string("output", "the model's folder; versions lie inside"),
                cli_flags.string(
                    "publish",
                    "gs://BUCKET/PREFIX or folder that TensorFlow Serving polls: the "
                    "next version appears there whole, saved_model.pb last; with "
                    "--output or alone",
                ),
                cli_flags.integer(
                    "tile",
                    "largest input tile, px; smaller images take smaller ones; 0 takes "
                    "the one that gives 1028 px (docs/inference.md: what tiles cost)",
                ),
                cli_flags.integer(
                    "tiles_per_step", "tiles at once; more fill large GPUs", 1
                ),
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
            commands.export,
            required=("workdir",),
        ),
        cli.Command(
            "predict",
            "Segments images with a SavedModel: NAME_mask.png holds class numbers (0 "
            "is\nbackground, so it looks black), NAME_overlay.png is for looking at. "
            "Run again, it\ngoes on with what is not done.",
            (
                cli_flags.string(
                    "model", "folder that export made, or one version in it"
                ),
                cli_flags.string(
                    "input",
                    "folder, glob, gs:// prefix or one file: TIFF (stacks by page), "
                    "PNG, JPEG, 8 or 16 bit",
                ),
                cli_flags.string("output", "folder for what is written"),
                cli_flags.choice(
                    "format",
                    "png: NAME_mask.png of class numbers; ctc: maskNNN.tif of "
                    "tNNN.tif, uint16 instances, as the Cell Tracking Challenge takes "
                    "results; isbi: NAME.tif, float32 probability of class 1, a page a "
                    "page",
                    ("png", "ctc", "isbi"),
                    "png",
                ),
                cli_flags.choice(
                    "probabilities",
                    "none; tiff: NAME_probabilities.tif, uint16, 65535 is 1, a page a "
                    "class; npy: NAME_probabilities.npy, float32 [H, W, classes]",
                    ("none", "tiff", "npy"),
                    "none",
                ),
                cli_flags.boolean(
                    "overlays",
                    "NAME_overlay.png to look at; by default with --format=png",
                    None,
                ),
                cli_flags.boolean(
                    "instances", "NAME_instances.tif too: cells numbered from 1"
                ),
                *RULES,
                TTA,
                cli_flags.choice(
                    "runtime",
                    "tensorflow, or onnx: on a processor, of a model exported with "
                    "--onnx",
                    ("tensorflow", "onnx"),
                    "tensorflow",
                ),
                cli_flags.integer(
                    "devices",
                    "splits the first GPU, or else the processor, into so many logical "
                    "devices, to try out how several share the images; 0 takes all "
                    "GPUs",
                    least=0,
                ),
                cli_flags.boolean("overwrite", "segments what is done already again"),
            ),
            commands.predict,
            required=("model", "input", "output"),
        ),
        cli.Command(
            "summary",
            "Prints the network's layers for the config's tile size.",
            (),
            commands.summary,
            takes_config=True,
        ),
    )
}


def _run(name: str) -> None:
    stores.leave(lambda: cli.main(COMMANDS[name]))


def train() -> None:
    """Entry point of `unet-train`."""
    _run("train")


def evaluate() -> None:
    """Entry point of `unet-evaluate`."""
    _run("evaluate")


def cross_validate() -> None:
    """Entry point of `unet-cross-validate`."""
    _run("cross_validate")


def compare() -> None:
    """Entry point of `unet-compare`."""
    _run("compare")


def export() -> None:
    """Entry point of `unet-export`."""
    _run("export")


def predict() -> None:
    """Entry point of `unet-predict`."""
    _run("predict")


def summary() -> None:
    """Entry point of `unet-summary`."""
    _run("summary")


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
