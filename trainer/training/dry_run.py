"""`train --dry_run`: builds everything, makes a step or two, and says what it costs."""

import math
import resource
import time

import tensorflow as tf
from tqdm import tqdm

from trainer.network.flops import training_flops
from trainer.training.step import State
from trainer.training.trainer import Trainer


def dry_run(trainer: Trainer) -> str:
    """Runs one step to warm up, one to time, and one validation frame.

    Returns:
      A table for people. Nothing is written.
    """
    train, model = trainer.config.train, trainer.config.model
    state = trainer.state
    iterator = trainer.iterator(0)
    first, losses = _timed(lambda: _step(trainer, iterator))
    second, _ = _timed(lambda: _step(trainer, iterator))
    flops = training_flops(model, trainer.config.data.tile_size) * train.global_batch
    rows = [
        ("parameters", f"{state.network.count_params():,}"),
        ("devices", trainer.describe().splitlines()[0].split("; ", 1)[1]),
        ("batch", trainer.describe().splitlines()[1]),
        ("memory", _memory()),
        ("state", f"{_megabytes(state):,.0f} MB: weights and the optimiser's"),
        ("FLOPs a step", f"{flops / 1e9:,.1f} GFLOP of convolutions"),
        ("first step", f"{first:.1f} s with building, loss {losses:.4f}"),
        (
            "second step",
            f"{second:.3f} s, {train.global_batch / second:.2f} images/s, "
            f"{flops / second / 1e9:,.1f} GFLOP/s",
        ),
    ]
    validation, found = _timed(lambda: trainer.validate(1))
    if found:
        rows.append(("one frame", f"{validation:.1f} s with building: {found.shown()}"))
    total = tqdm.format_interval(first + train.steps * second)
    rows.append(("estimated", f"{total} for {train.steps:,} steps, validation apart"))
    lines = [f"{name:>16}  {value}" for name, value in rows]
    return "\n".join([*lines, "dry run: nothing was written"])


def _step(trainer: Trainer, iterator) -> float:
    return float(trainer.make_steps(iterator, 1).losses[0])


def _timed(call):
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def _megabytes(state: State) -> float:
    """All that training changes, float32: weights, their average, the optimiser's."""
    return 4 * sum(math.prod(v.shape) for v in state.variables_saved()) / 1e6


def _memory() -> str:
    """The most memory that was used: of the first GPU, or of this process."""
    if tf.config.list_logical_devices("GPU"):
        peak = tf.config.experimental.get_memory_info("GPU:0")["peak"]
        return f"{peak / 1e6:,.0f} MB at most on the first GPU"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return f"{peak / 1e6:,.0f} MB at most, TensorFlow included"
