"""Training steps a second beside the same network in PyTorch, on the processor.

    ./launch.sh benchmark --what=against_torch --width 8 16 --torch_python=PYTHON
    ./launch.sh benchmark --what=against_torch --ablate  # what gained what

Each side is a process of its own that holds network, batch and Adam; steps take turns,
so that whatever else the machine does meets all alike. Same network, weighted
cross-entropy, Adam, float32, one repeated batch of 572 px. The median counts. PyTorch
runs in the layout that is its faster one here (channels first).
"""

import argparse
import functools
import os
import pathlib
import statistics
import sys

ROOT = pathlib.Path(__file__).parent.parent
sys.path[0] = str(ROOT)  # not this folder: its names are no modules

from benchmarks.record import Record, parser_of, run
from benchmarks.sides import torch_unet, turns

TILE, OUTPUT = 572, 388

# What makes a variant: environment, then what its process changes.
VARIANTS = {
    "this project": {},
    "PyTorch": {},
    "without XLA": {"UNET_BENCH_XLA": "off"},
    "with Keras' pooling": {"UNET_BENCH_KERAS": "pooling"},
    "with Keras' up-convolution": {"UNET_BENCH_KERAS": "up"},
    "without both and XLA": {"UNET_BENCH_XLA": "off", "UNET_BENCH_KERAS": "pooling,up"},
    "without oneDNN either": {
        "UNET_BENCH_XLA": "off",
        "UNET_BENCH_KERAS": "pooling,up",
        "TF_ENABLE_ONEDNN_OPTS": "0",
    },
}


def tensorflow_step(width: int, batch: int):
    """The trainer's own step, from the trainer's own parts."""
    from trainer.devices.startup import load_tensorflow

    load_tensorflow()
    import keras
    import tensorflow as tf

    from configs import base
    from trainer.network import unet
    from trainer.training.step import State, TrainingSteps
    from unet_tfrecords.dataset.records import Geometry

    stock = os.environ.get("UNET_BENCH_KERAS", "")
    if "pooling" in stock:
        unet.MaxPool2x2 = keras.layers.MaxPooling2D
    if "up" in stock:
        unet.UpConvolution2x2 = functools.partial(
            keras.layers.Conv2DTranspose, kernel_size=2, strides=2, activation="relu"
        )
    config = base.get_config()
    config.model.update({"width": width, "dropout": 0.0})
    config.train.update({"optimizer": "adam", "global_batch": batch})
    device = tf.distribute.OneDeviceStrategy("/cpu:0")
    state = State(config, "float32")
    geometry = Geometry(TILE, OUTPUT, 4, 1, 2, 8, "raw", 10 / 255)
    steps = TrainingSteps(
        state,
        device,
        geometry,
        [1.0, 1.0],
        config.train,
        xla=os.environ.get("UNET_BENCH_XLA") != "off",
    )
    numbers = tf.random.Generator.from_seed(0)

    def drawn(shape, top):
        return tf.cast(numbers.uniform(shape, 0, top, tf.int32), tf.uint8)

    tile = {
        "image": drawn([batch, TILE, TILE, 1], 256),
        "label": drawn([batch, OUTPUT, OUTPUT], 2),
        "weight": drawn([batch, OUTPUT, OUTPUT], 256),
        "mean": tf.fill([batch, 1], 128.0),
        "std": tf.fill([batch, 1], 74.0),
    }
    repeated = tf.data.Dataset.from_tensors(tile).repeat()
    batches = iter(device.experimental_distribute_dataset(repeated))
    return lambda: float(steps(batches, 1).losses[0])


def torch_step(width: int, batch: int):
    """The same in PyTorch, as its users write it."""
    import torch
    from torch.nn import functional

    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count() or 1)

    network = torch_unet.unet(width)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    image = torch.randn(batch, 1, TILE, TILE)
    label = torch.randint(0, 2, (batch, OUTPUT, OUTPUT))
    weight = 1 + 10 * torch.rand(batch, OUTPUT, OUTPUT)

    def step():
        optimizer.zero_grad()
        loss = functional.cross_entropy(network(image), label, reduction="none")
        loss = (loss * weight).mean()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def work(variant: str, width: int, batch: int) -> None:
    """The other process: a step each turn."""
    make = torch_step if variant == "PyTorch" else tensorflow_step
    step = make(width, batch)
    step(), step()
    turns.answer(lambda _: step())


def start(variant: str, width: int, given) -> turns.Player:
    """A process that is ready to make steps."""
    python = given.torch_python if variant == "PyTorch" else sys.executable
    return turns.Player(
        [
            python,
            __file__,
            f"--work={variant}",
            f"--width={width}",
            f"--batch={given.batch}",
        ],
        {"TF_CPP_MIN_LOG_LEVEL": "2", **VARIANTS[variant]},
    )


def compare(width: int, given, record: Record) -> None:
    """Steps of all sides in turns, of a network so wide."""
    names = list(VARIANTS) if given.ablate else ["this project", "PyTorch"]
    players = turns.start(
        {n: lambda n=n: start(n, width, given) for n in names}, record
    )
    seconds = turns.play(players, rounds=given.rounds)
    print(f"width {width}, batch {given.batch}, {given.rounds} steps in turns")
    for name, taken in seconds.items():
        of = {"unit": "s", "at": width, "of": "width of the first level"}
        record.add("time of a step", name, taken, **of)
        middle = statistics.median(taken)
        line = (
            f"{name:>28}: {middle:7.3f} s a step, {given.batch / middle:5.2f} images/s"
        )
        if "PyTorch" in seconds:
            ratios = [a / b for a, b in zip(taken, seconds["PyTorch"], strict=True)]
            line += (
                f", {statistics.median(ratios):.2f} of PyTorch's time "
                f"({min(ratios):.2f} to {max(ratios):.2f})"
            )
        print(line, flush=True)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--width", type=int, nargs="+", default=[16], help="of the first level"
    )
    parser.add_argument("--batch", type=int, default=1, help="tiles a step")
    parser.add_argument("--rounds", type=int, default=7, help="steps of each, in turns")
    parser.add_argument("--ablate", action="store_true", help="all variants, not two")
    parser.add_argument(
        "--torch_python", default=sys.executable, help="a Python that has PyTorch"
    )
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work, given.width[0], given.batch)
        return
    record = Record()
    for width in given.width:
        compare(width, given, record)
    record.write(given.json)


if __name__ == "__main__":
    run(main)
