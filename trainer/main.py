"""The trainer's commands, from train to predict.

The only home of their flags; each loads TensorFlow when it runs, not before.
"""

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence

if __name__ == "__main__" and (
    signal.getsignal(signal.SIGINT) is not signal.SIG_IGN  # as in the background
):
    # Ctrl-C before all is imported ends it without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from absl import flags

from preprocess import cli
from preprocess.check import check_data_config
from preprocess.errors import UserError
from trainer import stores


def _string(name: str, text: str, default: str | None = None):
    return lambda values: flags.DEFINE_string(name, default, text, flag_values=values)


def _integer(name: str, text: str, default: int | None = 0):
    return lambda values: flags.DEFINE_integer(name, default, text, flag_values=values)


def _float(name: str, text: str, default: float | None = None):
    return lambda values: flags.DEFINE_float(name, default, text, flag_values=values)


def _boolean(name: str, text: str, default: bool | None = False):
    return lambda values: flags.DEFINE_boolean(name, default, text, flag_values=values)


def _list(name: str, text: str):
    return lambda values: flags.DEFINE_list(name, [], text, flag_values=values)


CHECKPOINT = _string(
    "checkpoint",
    "best (by config.train.best_metric; newest where nothing was validated), newest, "
    "or a step",
    "best",
)
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
WEIGHTS = ("auto", "constants", "variables")
TTA = _boolean(
    "tta",
    "averages over the eight turned and mirrored versions of each image, inside the "
    "graph: eight times the work",
)
COPY = "copy --{} to a disk of this machine"
KEEP_NEAR = "keep --{} on a disk of this machine"
WORKDIR = _string("workdir", "folder of the run: checkpoints, logs, metrics")


# Of predict; None leaves the model's own, which `evaluate --tune` has found.
RULES = (
    _float("threshold", "probability above which a pixel is foreground; 0 to 1"),
    _float(
        "core_threshold",
        "above --threshold: instances grow from cores more probable than this, so that "
        "cells part at bridges of doubt",
    ),
    _float(
        "split_px",
        "parts cells where a bridge is narrower than both sides by so many px "
        "(half-widths); 0 parts nothing",
    ),
    _integer("min_size_px", "instances of fewer pixels are dropped", None),
    _boolean("fill_holes", "fills what a single instance encloses", None),
    _integer(
        "border_px",
        "gaps between instances of up to so many px are given back to them",
        None,
    ),
)


def _flags(*definitions):
    def define(values: flags.FlagValues) -> None:
        for definition in definitions:
            definition(values)

    return define


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """TensorFlow's start, with oneDNN's fast kernels and without what it says there.

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
    with tempfile.TemporaryFile() as caught, cli.deaf():
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            caught.seek(0)
            for line in caught:
                if not any(words in line for words in chatter):
                    os.write(2, line)


def _load_tensorflow(devices: int = 0) -> None:
    """Starts TensorFlow; with `devices`, which must be told it before, half-way."""
    with _starting():
        import tensorflow as tf

        if not devices:
            tf.config.list_logical_devices("CPU")  # the runtime's start says it again


def _train(values: flags.FlagValues, _: list[str]) -> None:
    if values.on_bad_record not in ("fail", "skip"):
        raise UserError(f"--on_bad_record={values.on_bad_record}: fail or skip")
    if not (values.workdir or values.dry_run):
        raise UserError("--workdir must be given, or --dry_run; see --help")
    profile_steps = _profile_steps(values.profile_steps)
    config = cli.config_of(values)
    with _starting():
        from trainer import rendezvous, strategy
        from trainer.train import Options, WorkerEnded, built, train

        several = strategy.read_cluster().size > 1
        devices = None if several else strategy.start(values.devices)
    if devices is None:  # it waits for the others, and may have to say so
        worker, size = strategy.read_cluster()
        print(f"worker {worker} of {size}: waiting for the others", flush=True)
        rendezvous.meet(strategy.read_hosts(), worker, values.wait_minutes)
        devices = strategy.start(values.devices)
        # TensorFlow's runtime takes SIGTERM for itself here.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        cli.hear_signals()
    if not values.cache:
        stores.reach(values.data, "give --cache=DIR, for copies on this machine")
    stores.reach(values.workdir, KEEP_NEAR.format("workdir"))
    options = Options(
        values.on_bad_record,
        values.cache,
        values.extend_steps,
        profile_steps,
        tuple(cli.given_flags(values)),
    )
    if values.dry_run:
        from trainer.dry_run import dry_run

        with built(config, values.data, devices, options) as run:
            print(dry_run(run))
        return
    try:
        ended = train(config, values.data, values.workdir, devices, options)
    except WorkerEnded as error:
        error.exit_code = values.stopped_exit_code or error.exit_code
        raise
    if not ended:
        sys.exit(values.stopped_exit_code)


def _profile_steps(given: list[str]) -> tuple[int, ...]:
    try:
        steps = tuple(int(step) for step in given)
    except ValueError:
        steps = (-1,)
    if steps and not (len(steps) == 2 and 0 <= steps[0] < steps[1]):
        raise UserError(
            f"--profile_steps={','.join(given)}: two numbers of steps, as 10,20"
        )
    return steps


def _evaluate(values: flags.FlagValues, _: list[str]) -> None:
    _load_tensorflow()
    stores.reach(values.workdir, COPY.format("workdir"))
    from trainer.evaluate import evaluate, table

    if values.tune:
        from trainer.tune import tune

        if values["split"].present:
            raise UserError("--tune is on the validation split; leave --split out")
        print(tune(values.workdir, values.input, values.checkpoint, values.tta).table())
        return
    result = evaluate(
        values.workdir,
        values.input,
        values.split,
        checkpoint=values.checkpoint,
        tta=values.tta,
    )
    print(table(result))


def _cross_validate(values: flags.FlagValues, _: list[str]) -> None:
    config = cli.config_of(values)
    with _starting():  # its folds are processes of their own
        from trainer.cross_validate import cross_validate
        from trainer.evaluate import table

    config_flags = [f for f in cli.given_flags(values) if f.startswith("--config")]
    result = cross_validate(
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


def _compare(values: flags.FlagValues, folders: list[str]) -> None:
    with _starting():
        from trainer.report.compare import compare, table

    rows = compare(folders, values.split, values.output)
    print(table(rows, folders))
    if values.output:
        print(f"page: {values.output}")


def _export(values: flags.FlagValues, _: list[str]) -> None:
    destinations = [path for path in (values.output, values.publish) if path]
    if not destinations:
        raise UserError("--output or --publish must be given; see --help")
    _check_choice(values, "precision", PRECISIONS)
    _check_choice(values, "weights", WEIGHTS)
    _load_tensorflow()
    stores.reach(values.workdir, COPY.format("workdir"))
    from trainer.export.artefact import Options, export

    options = Options(
        checkpoint=values.checkpoint,
        tile=values.tile,
        tiles_per_step=values.tiles_per_step,
        memory_mb=values.memory_mb,
        tta=values.tta,
        precision=values.precision,
        weights=values.weights,
        onnx=values.onnx,
    )
    for version in export(values.workdir, destinations, options):
        print(f"{version}/saved_model.pb")


def _predict(values: flags.FlagValues, _: list[str]) -> None:
    from trainer.instances import InstanceRules, check_rules
    from trainer.predict.job import predict
    from trainer.predict.outputs import FORMATS, PROBABILITIES, Choice
    from trainer.predict.runtimes import RUNTIMES

    _check_choice(values, "format", FORMATS)
    _check_choice(values, "probabilities", PROBABILITIES)
    _check_choice(values, "runtime", RUNTIMES)
    if values.devices < 0:
        raise UserError(f"--devices={values.devices} must not be negative")
    changes = {
        name: given
        for name in InstanceRules._fields
        if (given := getattr(values, name)) is not None
    }
    if problems := check_rules(InstanceRules()._replace(**changes)):
        raise UserError([f"--{problem}" for problem in problems])
    if values.runtime == "onnx" and values.devices:
        raise UserError("--devices is TensorFlow's; not with --runtime=onnx")
    if values.runtime == "tensorflow":
        _load_tensorflow(values.devices)
        stores.reach(values.model, COPY.format("model"))
    is_png = values.format == "png"
    choice = Choice(
        values.format,
        values.probabilities,
        is_png if values.overlays is None else values.overlays,
        values.instances,
    )
    made, before = predict(
        values.model,
        values.input,
        values.output,
        choice,
        runtime=values.runtime,
        tta=values.tta,
        devices=values.devices,
        overwrite=values.overwrite,
        rules=changes,
    )
    done = f", {before} were there" if before else ""
    print(f"{made} images segmented{done}: {values.output}")


def _check_choice(values: flags.FlagValues, name: str, known: Sequence[str]) -> None:
    if values[name].value not in known:
        raise UserError(f"--{name}={values[name].value}: one of {', '.join(known)}")


def _summary(values: flags.FlagValues, _: list[str]) -> None:
    _load_tensorflow()
    from trainer.model import build_model

    config = cli.config_of(values)
    check_data_config(config)
    network = build_model(config.model, size=config.data.tile_size)
    os.environ.setdefault("COLUMNS", "110")  # or the table is cut where there's no tty
    network.summary(line_length=108)


COMMANDS = {
    command.name: command._replace(run=stores.explained(command.run))
    for command in (
        cli.Command(
            "train",
            "Trains on a data set's shards, on all GPUs or else the processor (with "
            "TF_CONFIG, on\nall workers), and goes on where an earlier run of the same "
            "command stopped.",
            _flags(
                _string("data", "folder that preprocess made"),
                WORKDIR,
                _integer(
                    "devices",
                    "splits the first GPU, or else the processor, into so many logical "
                    "devices, to try out what many do; 0 takes what there is",
                ),
                _boolean(
                    "dry_run",
                    "builds everything, makes two steps on real shards and segments "
                    "one validation frame, prints what it costs, writes nothing",
                ),
                _string(
                    "on_bad_record",
                    "fail: stop at a damaged record and name it; skip: leave it out, "
                    "count and report it",
                    "fail",
                ),
                _string(
                    "cache",
                    "reads shards from copies: in memory, or in a folder of this "
                    "machine; for shards on slow or remote disks",
                    "",
                ),
                _integer(
                    "extend_steps",
                    "trains the run in --workdir on to so many steps in all, the only "
                    "change of its config that is allowed; its schedule then is that "
                    "of so many steps",
                ),
                _float(
                    "wait_minutes",
                    "with TF_CONFIG: gives up, naming the workers that have not come, "
                    "after so many minutes; 0 waits for ever",
                    15.0,
                ),
                _integer(
                    "stopped_exit_code",
                    "exit code where SIGTERM, or the end of another worker, has "
                    "stopped the run before its end, for schedulers that start it "
                    "again by the code (75 is customary); 0: 0 and 2",
                ),
                _list(
                    "profile_steps",
                    "profiles from one step to another, as 10,20: see TensorBoard's "
                    "Profile page",
                ),
            ),
            _train,
            required=("data",),
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
                _boolean(
                    "tune",
                    "finds threshold, parting of touching cells, smallest size, "
                    "holes and borders on the validation frames, and keeps them for "
                    "evaluate, export and predict in WORKDIR/postprocessing.json",
                ),
                TTA,
                CHECKPOINT,
            ),
            _evaluate,
            required=("workdir", "input"),
        ),
        cli.Command(
            "cross_validate",
            "Trains and evaluates a run for each block of frames, so that every frame "
            "is tested\nonce, and reports them together. Goes on where it was stopped.",
            _flags(
                _string("input", "the data set's folder, as preprocess takes it"),
                _string("workdir", "folder for everything: fold-0/data, fold-0/train"),
                _integer("folds", "blocks that each sequence's frames are cut into", 5),
                _boolean(
                    "tune",
                    "each fold finds its post-processing on its validation block",
                    True,
                ),
                TTA,
            ),
            _cross_validate,
            required=("input", "workdir"),
            takes_config=True,
        ),
        cli.Command(
            "compare",
            "One table of several runs' scores, and a page with their curves over each "
            "other:\ncompare RUN RUN ...",
            _flags(
                _string(
                    "split", "whose evaluations: train, validation or test", "test"
                ),
                _string("output", "the page; --output= writes none", "compare.html"),
            ),
            _compare,
            takes_arguments=True,
        ),
        cli.Command(
            "export",
            "Writes OUTPUT/<version>/saved_model.pb: raw images of any size in, seams "
            "exact.\nBeside it, in assets.extra/: config, scores, model card, warm-up "
            "requests.",
            _flags(
                WORKDIR,
                _string("output", "the model's folder; versions lie inside"),
                _string(
                    "publish",
                    "gs://BUCKET/PREFIX or folder that TensorFlow Serving polls: the "
                    "next version appears there whole, saved_model.pb last; with "
                    "--output or alone",
                ),
                _integer(
                    "tile",
                    "largest input tile, px; smaller images take smaller ones; 0 takes "
                    "the one that gives 1028 px (docs/inference.md: what tiles cost)",
                ),
                _integer("tiles_per_step", "tiles at once; more fill large GPUs", 1),
                _integer(
                    "memory_mb",
                    "takes the largest tile whose steps need no more memory than this, "
                    "MB, the image and its probabilities apart; 0 sets no limit",
                ),
                TTA,
                _string(
                    "precision",
                    "float32, or mixed_bfloat16, mixed_float16 for GPUs that compute "
                    "in them; outputs are float32 in any case",
                    "float32",
                ),
                _string(
                    "weights",
                    "constants: of the graph, far faster on a processor; "
                    "variables: far less memory; auto: constants up to "
                    "200 MB of weights",
                    "auto",
                ),
                _boolean(
                    "onnx",
                    "writes assets.extra/tile.onnx too, for predict --runtime=onnx "
                    "(extra onnx)",
                ),
                CHECKPOINT,
            ),
            _export,
            required=("workdir",),
        ),
        cli.Command(
            "predict",
            "Segments images with a SavedModel: NAME_mask.png holds class numbers (0 "
            "is\nbackground, so it looks black), NAME_overlay.png is for looking at. "
            "Run again, it\ngoes on with what is not done.",
            _flags(
                _string("model", "folder that export made, or one version in it"),
                _string(
                    "input",
                    "folder, glob, gs:// prefix or one file: TIFF (stacks by page), "
                    "PNG, JPEG, 8 or 16 bit",
                ),
                _string("output", "folder for what is written"),
                _string(
                    "format",
                    "png: NAME_mask.png of class numbers; ctc: maskNNN.tif of "
                    "tNNN.tif, uint16 instances, as the Cell Tracking Challenge takes "
                    "results; isbi: NAME.tif, float32 probability of class 1, a page a "
                    "page",
                    "png",
                ),
                _string(
                    "probabilities",
                    "none; tiff: NAME_probabilities.tif, uint16, 65535 is 1, a page a "
                    "class; npy: NAME_probabilities.npy, float32 [H, W, classes]",
                    "none",
                ),
                _boolean(
                    "overlays",
                    "NAME_overlay.png to look at; by default with --format=png",
                    None,
                ),
                _boolean("instances", "NAME_instances.tif too: cells numbered from 1"),
                *RULES,
                TTA,
                _string(
                    "runtime",
                    "tensorflow, or onnx: on a processor, of a model exported with "
                    "--onnx",
                    "tensorflow",
                ),
                _integer(
                    "devices",
                    "splits the first GPU, or else the processor, into so many logical "
                    "devices, to try out how several share the images; 0 takes all "
                    "GPUs",
                ),
                _boolean("overwrite", "segments what is done already again"),
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
    stores.leave(lambda: cli.main(COMMANDS[name]))


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
