"""Training steps a second beside the same network in PyTorch, on the processor.

    .venv/bin/pip install 'torch>=2.6'   (the extra `bench`; its CPU build will do)
    .venv/bin/python benchmarks/against_torch.py --width=16 --batch=1
    .venv/bin/python benchmarks/against_torch.py --ablate  # what gained what

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
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent
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
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    import keras
    import tensorflow as tf

    from configs import base
    from trainer import input_pipeline, model
    from trainer.step import State, make_steps

    stock = os.environ.get("UNET_BENCH_KERAS", "")
    if "pooling" in stock:
        model.MaxPool2x2 = keras.layers.MaxPooling2D
    if "up" in stock:
        model.UpConvolution2x2 = functools.partial(
            keras.layers.Conv2DTranspose, kernel_size=2, strides=2, activation="relu"
        )
    config = base.get_config()
    config.model.update({"width": width, "dropout": 0.0})
    config.train.update({"optimizer": "adam", "global_batch": batch})
    device = tf.distribute.OneDeviceStrategy("/cpu:0")
    state = State(config, "float32")
    geometry = input_pipeline.Geometry(TILE, OUTPUT, 4, 1, 2, 8, "raw", 10 / 255)
    run_steps = make_steps(
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
    once, no = tf.constant(1), tf.constant(False)
    return lambda: float(run_steps(batches, once, no).losses[0])


def torch_step(width: int, batch: int):
    """The same in PyTorch, as its users write it."""
    import torch
    from torch import nn
    from torch.nn import functional

    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count() or 1)

    def two(channels, filters):
        return nn.Sequential(
            nn.Conv2d(channels, filters, 3),
            nn.ReLU(),
            nn.Conv2d(filters, filters, 3),
            nn.ReLU(),
        )

    class UNet(nn.Module):
        def __init__(self, depth=4):
            super().__init__()
            filters = [width * 2**level for level in range(depth + 1)]
            self.down = nn.ModuleList(map(two, [1, *filters], filters))
            pairs = list(zip(filters[:0:-1], filters[-2::-1], strict=True))
            self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairs)
            self.join = nn.ModuleList(two(a, b) for a, b in pairs)
            self.logits = nn.Conv2d(width, 2, 1)

        def forward(self, x):
            skips = []
            for level, convolutions in enumerate(self.down):
                x = convolutions(functional.max_pool2d(x, 2) if level else x)
                skips.append(x)
            for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
                x = functional.relu(up(x))
                crop = (skip.shape[-1] - x.shape[-1]) // 2
                x = join(torch.cat([skip[..., crop:-crop, crop:-crop], x], 1))
            return self.logits(x)

    network = UNet()
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
    """The other process: a step for each line of stdin, its seconds to stdout."""
    make = torch_step if variant == "PyTorch" else tensorflow_step
    step = make(width, batch)
    step(), step()
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        step()
        print(time.perf_counter() - started, flush=True)


def start(variant: str, given) -> subprocess.Popen:
    """A process that is ready to make steps."""
    python = given.torch_python if variant == "PyTorch" else sys.executable
    process = subprocess.Popen(
        [
            python,
            __file__,
            f"--work={variant}",
            f"--width={given.width}",
            f"--batch={given.batch}",
        ],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **VARIANTS[variant]},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.strip() == "ready":
            return process
    raise SystemExit(f"{variant}: its process ended; is PyTorch installed?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=16, help="of the first level")
    parser.add_argument("--batch", type=int, default=1, help="tiles a step")
    parser.add_argument("--rounds", type=int, default=7, help="steps of each, in turns")
    parser.add_argument("--ablate", action="store_true", help="all variants, not two")
    parser.add_argument(
        "--torch_python", default=sys.executable, help="a Python that has PyTorch"
    )
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work, given.width, given.batch)
        return
    names = list(VARIANTS) if given.ablate else ["this project", "PyTorch"]
    processes = {name: start(name, given) for name in names}
    seconds = {name: [] for name in names}
    for _ in range(given.rounds):
        for name, process in processes.items():
            process.stdin.write("\n")
            process.stdin.flush()
            seconds[name].append(float(process.stdout.readline()))
    for process in processes.values():
        process.stdin.close()
        process.wait()
    print(f"width {given.width}, batch {given.batch}, {given.rounds} steps in turns")
    for name in names:
        ratios = [
            own / other
            for own, other in zip(seconds[name], seconds["PyTorch"], strict=True)
        ]
        middle = statistics.median(seconds[name])
        images = given.batch / middle
        print(
            f"{name:>28}: {middle:7.3f} s a step, {images:5.2f} images/s, "
            f"{statistics.median(ratios):.2f} of PyTorch's time "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # not this folder: its names are no modules
    main()
