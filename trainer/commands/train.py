"""Trains on a data set's shards, on all GPUs or else the processor (with TF_CONFIG, on
all workers), and resumes where an earlier run of the same command stopped.
"""

import functools
import math
import signal
import sys

from absl import flags

from trainer.devices import tensorflow_files
from trainer.devices.startup import starting
from unet_tfrecords.command import cli, cli_flags, signals
from unet_tfrecords.command.errors import UserError


def _train(values: flags.FlagValues, _: list[str]) -> None:
    """Trains, or with --dry_run tries out what that would cost."""
    if not (values.workdir or values.dry_run):
        raise UserError("--workdir must be given, or --dry_run; see --help")
    profile_steps = _profile_steps(values.profile_steps)
    if not 0 <= values.stream_gb < math.inf:
        raise UserError(f"--stream_gb={values.stream_gb}: a number of GB, from 0")
    config = cli.config_of(values)
    devices = _devices(values)
    from trainer.devices import faults
    from trainer.evaluation.report import page
    from trainer.training import session as training

    options = training.TrainOptions(
        values.on_bad_record,
        values.cache,
        values.extend_steps,
        profile_steps,
        tuple(cli.given_flags(values)),
        page.write,
        values.stream_gb,
    )
    if values.dry_run:
        from trainer.training.dry_run import dry_run

        with training.prepared(
            config, values.data, values.workdir or "", devices, options
        ) as trainer:
            print(dry_run(trainer))
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
        from trainer.devices import rendezvous, strategy

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
    signals.hear_signals()
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


COMMAND = cli.Command(
    name="train",
    summary=__doc__,
    flags=(
        cli_flags.string("data", "folder that preprocess made"),
        cli_flags.string(
            "workdir",
            "folder of the run: checkpoints, logs, metrics; with --dry_run "
            "none is needed",
        ),
        cli_flags.integer(
            "devices",
            "splits the first GPU, or the processor, into N logical "
            "devices, to test several; 0 uses what there is",
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
            "copies all shards before it starts: into memory, or into a folder of "
            "this machine, where other runs find them; for slow or remote disks",
            "",
        ),
        cli_flags.number(
            "stream_gb",
            "for shards in a bucket, without --cache: they are fetched ahead, and so "
            "many GB of them kept below TMPDIR while this trains",
            20.0,
        ),
        cli_flags.integer(
            "extend_steps",
            "continues the run in --workdir to N steps in all, the only change of "
            "its config that is allowed; its schedule becomes that of N steps",
        ),
        cli_flags.number(
            "wait_minutes",
            "with TF_CONFIG: gives up after N minutes, naming the workers that "
            "have not connected; 0 waits forever",
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
    run=tensorflow_files.explained(_train),
    required=("data",),
    takes_config=True,
)


def run() -> None:
    """Entry point of `unet-train`."""
    signals.leave(cli.main(COMMAND))
