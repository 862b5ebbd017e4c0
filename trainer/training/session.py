"""A training from its config to its last step: claims the work directory, resumes."""

import contextlib
import datetime
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import ml_collections
import tensorflow as tf

from trainer.devices import faults, gpus, strategy
from trainer.devices.startup import explaining
from trainer.input.shard_files import Access
from trainer.run import workdir
from trainer.run.provenance import versions
from trainer.training import batch_size
from trainer.training.loop import Loop, TrainOptions
from trainer.training.train_settings import check_train_config
from trainer.training.trainer import Trainer
from unet_tfrecords.command.errors import UserError, warn
from unet_tfrecords.storage import files, locks


@contextlib.contextmanager
def prepared(
    config: ml_collections.ConfigDict,
    data: str,
    folder: str,
    devices: tf.distribute.Strategy,
    options: TrainOptions,
) -> Iterator[Trainer]:
    """A Trainer, with a scratch folder that goes when the block ends.

    Args:
      config: the whole config; what it leaves open is settled.
      data: folder of a finished data set.
      folder: the work directory; "" for none.
      devices: the strategy over them.
      options: of this call.
    """
    with (
        locks.reading(data),
        # A shard may still arrive while it is removed; the next training clears up.
        tempfile.TemporaryDirectory(
            prefix=f"{files.TEMPORARY}train-", ignore_cleanup_errors=True
        ) as scratch,
        locks.exclusive(scratch),
        _explained(),
    ):
        files.remove_unfinished(tempfile.gettempdir())  # of killed trainings
        settle(config, folder, devices)
        access = Access(
            options.on_bad_record, options.cache, scratch, options.stream_gb
        )
        slow = gpus.starts_slowly(strategy.capabilities())
        with explaining("the network", warn, compiles_kernels=slow):
            trainer = Trainer(config, data, devices, access)
        try:
            yield trainer
        finally:
            trainer.data.close()


def train(
    config: ml_collections.ConfigDict,
    data: str,
    folder: str,
    devices: tf.distribute.Strategy | None = None,
    options: TrainOptions = TrainOptions(),  # noqa: B008  a constant
) -> bool:
    """Trains to the config's last step, going on where an earlier run stopped.

    Args:
      config: the whole config.
      data: folder of a finished data set.
      folder: the work directory.
      devices: as `strategy.start` gives them; None starts with all there are.
      options: of this call.

    Returns:
      Whether it came to its end; not where a SIGTERM has stopped it.

    Raises:
      WorkerEnded: another worker has.
      DeviceFault: a GPU has failed.
      UserError: data and model don't fit, the loss is not finite any more, a shard is
        damaged, or another run lies there.
      KeyboardInterrupt: on Ctrl-C, after the checkpoint.
    """
    devices = devices or strategy.start()
    if options.extend_steps:
        config.train.steps = options.extend_steps
    if options.profile_steps and options.profile_steps[0] >= config.train.steps:
        raise UserError(
            f"--profile_steps={options.profile_steps[0]},{options.profile_steps[1]}: "
            f"the run has config.train.steps={config.train.steps}"
        )
    if os.path.realpath(folder) == os.path.realpath(data):
        raise UserError(f"--workdir={folder}: is --data; give another folder")
    with contextlib.ExitStack() as stack:
        trainer = stack.enter_context(prepared(config, data, folder, devices, options))
        chief = trainer.cluster.is_chief
        if chief:
            stack.enter_context(locks.exclusive(folder))
            files.remove_unfinished(folder)
        extend = bool(options.extend_steps)
        computed = {"precision": trainer.precision, "xla": trainer.xla}
        workdir.claim(
            folder, config, trainer.data.info, computed, write=chief, extend=extend
        )
        if chief:
            workdir.copy_sources(folder, data, trainer.data.info)
            workdir.write_about(folder, _about(trainer, options))
        print(trainer.describe(), flush=True)
        loop = Loop(trainer, folder, options)
        loop.run()
    return not loop.progress.unlooked


def settle(
    config: ml_collections.ConfigDict, folder: str, devices: tf.distribute.Strategy
) -> None:
    """Writes into the config what it leaves to the devices: batch and learning rate.

    A run that is there keeps its own, whatever devices go on with it. Of several
    workers the chief decides, because its GPUs may be others.

    Raises:
      UserError: not even one tile fits a GPU.
    """
    check_train_config(config)
    train, replicas = config.train, devices.num_replicas_in_sync
    there = workdir.settled(folder) if folder else {}
    for name in ("global_batch", "learning_rate_rule"):
        if train[name] in (0, "auto") and name in there:
            train[name] = there[name]
    if (
        there.get("global_batch") == train.global_batch
        and train.global_batch % replicas
    ):
        raise UserError(
            f"{folder}: the run there has {train.global_batch} tiles a step, which "
            f"{replicas} replicas can't share equally; go on with another number of "
            "GPUs (CUDA_VISIBLE_DEVICES chooses them), or give another --workdir"
        )
    fitting = 1
    open_ = not train.global_batch and not train.tiles_per_replica
    if open_ and (memory := strategy.gpu_bytes()):
        precision = strategy.resolve_precision(train.precision)
        fitting = batch_size.tiles_that_fit(config, precision, memory)
    batch_size.settle(train, replicas=replicas, fitting=fitting)
    train.global_batch = strategy.chiefs(devices, train.global_batch)


def _about(trainer: Trainer, options: TrainOptions) -> dict[str, Any]:
    """How the run was started, for the report."""
    now = datetime.datetime.now(datetime.UTC)
    return {
        "command": list(options.command),
        "device": trainer.describe().splitlines()[0],
        "started": now.strftime("%Y-%m-%d %H:%M UTC"),
        "versions": versions(),
    }


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Says in a line what an error of TensorFlow's means, where that is known."""
    try:
        yield
    except tf.errors.OpError as error:
        worker, workers = strategy.read_cluster()
        said = faults.explained(error, worker=worker, workers=workers)
        if said is None:
            raise
        raise said from error
