"""What each of the trainer's commands does, given its flags (see main.py).

TensorFlow is loaded when one runs, not before.
"""

import functools
import os
import signal
import sys

from absl import flags

from preprocess import cli
from preprocess.check import check_data_config
from preprocess.errors import UserError
from trainer import stores
from trainer.start import load_tensorflow, starting

COPY = "copy --{} to a disk of this machine"
KEEP_NEAR = "keep --{} on a disk of this machine"


def train(values: flags.FlagValues, _: list[str]) -> None:
    """Trains, or with --dry_run tries out what that would cost."""
    if not (values.workdir or values.dry_run):
        raise UserError("--workdir must be given, or --dry_run; see --help")
    profile_steps = _profile_steps(values.profile_steps)
    config = cli.config_of(values)
    devices = _devices(values)
    from trainer import faults
    from trainer import train as training

    if not values.cache:
        stores.reach(values.data, "give --cache=DIR, for copies on this machine")
    stores.reach(values.workdir, KEEP_NEAR.format("workdir"))
    options = training.Options(
        values.on_bad_record,
        values.cache,
        values.extend_steps,
        profile_steps,
        tuple(cli.given_flags(values)),
    )
    if values.dry_run:
        from trainer.dry_run import dry_run

        with training.built(
            config, values.data, values.workdir or "", devices, options
        ) as run:
            print(dry_run(run))
        return
    try:
        ended = training.train(config, values.data, values.workdir, devices, options)
    except faults.WorkerEnded as error:
        error.exit_code = values.stopped_exit_code or error.exit_code
        raise
    if not ended:
        sys.exit(values.stopped_exit_code)


def _devices(values: flags.FlagValues):
    """Starts TensorFlow on the devices to train on; of a cluster, with all workers."""
    with starting():
        from trainer import rendezvous, strategy

        start = functools.partial(
            strategy.start,
            values.devices,
            all_reduce=values.all_reduce,
            allow_cpu=values.allow_cpu,
        )
        worker, size = strategy.read_cluster()
        if size == 1:
            return start()
    # It waits for the others, and may have to say so.
    print(f"worker {worker} of {size}: waiting for the others", flush=True)
    rendezvous.meet(strategy.read_hosts(), worker, values.wait_minutes)
    devices = start()
    # TensorFlow's runtime has taken SIGTERM for itself.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cli.hear_signals()
    return devices


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


def evaluate(values: flags.FlagValues, _: list[str]) -> None:
    """Scores a run, or with --tune finds its post-processing."""
    load_tensorflow()
    stores.reach(values.workdir, COPY.format("workdir"))
    from trainer import evaluate as evaluation

    if values.tune:
        from trainer.tune import tune

        if values["split"].present:
            raise UserError("--tune is on the validation split; leave --split out")
        print(tune(values.workdir, values.input, values.checkpoint, values.tta).table())
        return
    result = evaluation.evaluate(
        values.workdir,
        values.input,
        values.split,
        checkpoint=values.checkpoint,
        tta=values.tta,
    )
    print(evaluation.table(result))


def cross_validate(values: flags.FlagValues, _: list[str]) -> None:
    """Trains and scores every fold."""
    config = cli.config_of(values)
    with starting():  # its folds are processes of their own
        from trainer import cross_validate as crossed
        from trainer.evaluate import table

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


def compare(values: flags.FlagValues, folders: list[str]) -> None:
    """Puts runs side by side."""
    with starting():
        from trainer.report import compare as comparison

    rows = comparison.compare(folders, values.split, values.output)
    print(comparison.table(rows, folders))
    if values.output:
        print(f"page: {values.output}")


def export(values: flags.FlagValues, _: list[str]) -> None:
    """Writes a SavedModel."""
    destinations = [path for path in (values.output, values.publish) if path]
    if not destinations:
        raise UserError("--output or --publish must be given; see --help")
    load_tensorflow()
    stores.reach(values.workdir, COPY.format("workdir"))
    from trainer.export import artefact

    options = artefact.Options(
        checkpoint=values.checkpoint,
        tile=values.tile,
        tiles_per_step=values.tiles_per_step,
        memory_mb=values.memory_mb,
        tta=values.tta,
        precision=values.precision,
        device=values.device,
        weights=values.weights,
        onnx=values.onnx,
        bioimageio=values.bioimageio,
    )
    for version in artefact.export(values.workdir, destinations, options):
        print(f"{version}/saved_model.pb")


def predict(values: flags.FlagValues, _: list[str]) -> None:
    """Segments images."""
    from trainer.instances import InstanceRules, check_rules
    from trainer.predict import job
    from trainer.predict.outputs import Choice

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
        load_tensorflow(values.devices)
        stores.reach(values.model, COPY.format("model"))
    is_png = values.format == "png"
    choice = Choice(
        values.format,
        values.probabilities,
        is_png if values.overlays is None else values.overlays,
        values.instances,
    )
    made, before = job.predict(
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


def summary(values: flags.FlagValues, _: list[str]) -> None:
    """Prints the network's layers."""
    load_tensorflow()
    from trainer.model import build_model

    config = cli.config_of(values)
    check_data_config(config)
    network = build_model(config.model, size=config.data.tile_size)
    os.environ.setdefault("COLUMNS", "110")  # or the table is cut where there's no tty
    network.summary(line_length=108)
