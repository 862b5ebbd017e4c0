"""What training costs: images/s, share of the device's peak, time waiting for input.

    ./launch.sh benchmark --what=train --config=configs/dic_hela.py:cpu --data=DIR

On the shards and devices that training would take. Some steps on the stream and as
many on one repeated batch take turns; what the stream's are slower by is the waiting.
Peak is a product of two matrices of 4096 x 4096 (2048 on a processor) in the training's
precision on one device, times the replicas. Prints a table.
"""

import pathlib
import resource
import statistics
import sys
import tempfile
import time

sys.path[0] = str(pathlib.Path(__file__).parent.parent)  # not this folder

from absl import flags

from benchmarks.record import Record
from trainer.devices.startup import starting
from trainer.input.shard_files import Access
from unet_tfrecords.command import cli, cli_flags

with starting():
    import tensorflow as tf

    from trainer.devices import strategy
    from trainer.network.flops import training_flops
    from trainer.training.session import settle
    from trainer.training.trainer import Trainer


def peak_flops(precision: str) -> float:
    """FLOP/s of a large matrix product on the first device, the best of seven."""
    gpu = bool(tf.config.list_logical_devices("GPU"))
    size = 8192 if gpu else 2048
    with tf.device("/gpu:0" if gpu else "/cpu:0"):
        matrix = tf.cast(
            tf.random.stateless_normal([size, size], (1, 2)), precision.split("_")[-1]
        )

    @tf.function
    def product():
        return tf.reduce_sum(tf.cast(tf.matmul(matrix, matrix), tf.float32))

    float(product())
    seconds = []
    for _ in range(7):
        started = time.perf_counter()
        float(product())
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def repeated(trainer: Trainer):
    """One batch on the devices, without end."""
    size = trainer.config.train.global_batch

    def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        batches = trainer.data.batches(
            0, batch=context.get_per_replica_batch_size(size)
        )
        return batches.take(1).cache().repeat()

    return iter(trainer.devices.distribute_datasets_from_function(of_worker))


def measure(trainer: Trainer, rounds: int, steps: int) -> dict[str, float]:
    """Times rounds of steps on both kinds of batches, in turns."""
    sources = {"stream": trainer.iterator(0), "repeated": repeated(trainer)}
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    first = 0.0
    for index in range(rounds + 1):
        for name, batches in sources.items():
            started = time.perf_counter()
            trainer.make_steps(batches, steps).losses.numpy()
            taken = time.perf_counter() - started
            if index:  # the first builds and compiles
                seconds[name].append(taken / steps)
            first = first or taken
    step = statistics.median(seconds["stream"])
    waits = [
        (a - b) / b for a, b in zip(seconds["stream"], seconds["repeated"], strict=True)
    ]
    batch = trainer.config.train.global_batch
    flops = (
        training_flops(trainer.config.model, trainer.config.data.tile_size)
        * batch
        / step
    )
    peak = peak_flops(trainer.precision) * trainer.devices.num_replicas_in_sync
    return {
        "step_s": step,
        "images_per_s": batch / step,
        "gflop_per_s": flops / 1e9,
        "peak_gflop_per_s": peak / 1e9,
        "share_of_peak": flops / peak,
        "repeated_batch_step_s": statistics.median(seconds["repeated"]),
        "waiting_share": statistics.median(waits),
        "building_s": first - steps * step,
        "peak_mb": peak_memory() / 1e6,
    }


def peak_memory() -> float:
    """The most that was used: of the first GPU, or else of this process, in bytes."""
    if tf.config.list_logical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table(result: dict[str, float]) -> str:
    """For people."""
    units = {
        "step_s": ("step", "{:.4f} s"),
        "images_per_s": ("images", "{:.2f} a second"),
        "gflop_per_s": ("convolutions", "{:,.1f} GFLOP/s"),
        "peak_gflop_per_s": ("matrix product", "{:,.1f} GFLOP/s"),
        "share_of_peak": ("share of it", "{:.1%}"),
        "repeated_batch_step_s": ("step on one batch", "{:.4f} s"),
        "waiting_share": ("waiting for input", "{:+.2%} of a step"),
        "building_s": ("building", "{:.1f} s, compiling included"),
        "peak_mb": ("memory", "{:,.0f} MB at most"),
    }
    return "\n".join(
        f"{name:>18}  {shape.format(result[key])}"
        for key, (name, shape) in units.items()
    )


def recorded(result: dict[str, float]) -> Record:
    """What the page shows of it."""
    record = Record()
    shares = {
        "arithmetic, of a large matrix product": result["share_of_peak"],
        "waiting for input, of a step": result["waiting_share"],
    }
    for side, share in shares.items():
        record.add("shares", side, [100 * share], unit="%")
    for side, key in (("stream", "step_s"), ("one batch", "repeated_batch_step_s")):
        record.add("time of a step", side, [result[key]], unit="s")
    record.add("speed", "stream", [result["images_per_s"]], unit="images/s")
    record.add("building", "stream", [result["building_s"]], unit="s")
    record.add("peak memory", "stream", [result["peak_mb"]], unit="MB")
    return record


def _run(values: flags.FlagValues, _: list[str]) -> None:
    devices = strategy.start(values.devices)
    with tempfile.TemporaryDirectory() as scratch:
        access = Access(scratch=scratch)
        config = cli.config_of(values)
        settle(config, "", devices)
        trainer = Trainer(config, values.data, devices, access)
        print(trainer.describe())
        result = measure(trainer, values.rounds, values.steps)
    print(table(result))
    recorded(result).write(values.json)


COMMAND = cli.Command(
    name="benchmark --what=train",
    summary=__doc__.split("\n\n", 1)[0] + "\n\n" + __doc__.split("\n\n")[2].strip(),
    flags=(
        cli_flags.string("data", "folder that preprocess made"),
        cli_flags.integer("rounds", "that medians are over", 5, least=1),
        cli_flags.integer(
            "steps", "of each kind in a round; more than are read ahead", 10, least=1
        ),
        cli_flags.integer("devices", "as in train"),
        cli_flags.string("json", "also writes what was measured here", ""),
    ),
    run=_run,
    required=("data",),
    takes_config=True,
)

if __name__ == "__main__":
    sys.exit(cli.main(COMMAND))
