"""From a process' start to its first segmented image, and what that is made of.

    ./launch.sh benchmark --what=start --model=DIR --image=FILE

Each round is a fresh process that does what `predict` does, by either runtime;
PyTorch's loads its weights and segments one tile of 572 px, which is less than a frame.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent
sys.path[0] = str(ROOT)  # not this folder: its names are no modules

from benchmarks.record import Record, parser_of, run


def seconds_since_start() -> float:
    """Since this process was started, by the kernel's clock (10 ms steps)."""
    ticks = int(
        pathlib.Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19]
    )
    started = ticks / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def torch_work(given) -> None:
    """PyTorch's process: its network of the same width, one tile."""
    marks = {"Python": seconds_since_start()}
    import torch

    marks["PyTorch"] = seconds_since_start()
    from benchmarks.sides import torch_unet

    network = torch_unet.unet(given.width, given.depth).eval()
    network.load_state_dict(torch.load(given.weights, weights_only=True))
    marks["the model"] = seconds_since_start()
    with torch.inference_mode():
        network(torch.zeros(1, 1, 572, 572))
        marks["the first image"] = seconds_since_start()
        started = time.perf_counter()
        network(torch.zeros(1, 1, 572, 572))
    marks["a second image"] = marks["the first image"] + time.perf_counter() - started
    print(json.dumps(marks))


def work(given) -> None:
    """The other process: one image, and when each stage was over."""
    marks = {"Python": seconds_since_start()}
    from trainer.devices import startup
    from trainer.export import artefact_layout
    from trainer.predict import job, runtimes
    from unet_tfrecords.dataset.images.formats import read_image
    from unet_tfrecords.dataset.images.pages import Page

    marks["our modules, NumPy, OpenCV"] = seconds_since_start()
    if given.work == "tensorflow":
        startup.load_tensorflow()
        marks["TensorFlow"] = seconds_since_start()
    version = artefact_layout.newest_version(given.model)
    about = artefact_layout.read_about(version)
    [runtime] = runtimes.load(version, runtime=given.work)
    marks["the model"] = seconds_since_start()
    image = read_image(Page(given.image), about["channels"])
    runtime.segment(image)
    marks["the first image"] = seconds_since_start()
    started = time.perf_counter()
    runtime.segment(image)
    marks["a second image"] = marks["the first image"] + time.perf_counter() - started
    assert job.predict
    print(json.dumps(marks))


def save_torch(given) -> None:
    """Weights for PyTorch's side; their values don't matter."""
    import torch

    from benchmarks.sides import torch_unet

    torch.save(torch_unet.unet(given.width, given.depth).state_dict(), given.weights)


WORKS = {
    "this project, TensorFlow": ("tensorflow", work),
    "this project, ONNX": ("onnx", work),
    "PyTorch": ("torch", torch_work),
    "": ("save", save_torch),
}


def told_by(name: str, given, more: list[str]) -> dict[str, float]:
    """The stages of one fresh process."""
    kind, _ = WORKS[name]
    python = given.torch_python if kind in ("torch", "save") else sys.executable
    done = subprocess.run(
        [python, __file__, *sys.argv[1:], f"--work={kind}", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]) if lines else {}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", required=True, help="exported with --onnx")
    parser.add_argument("--image", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--torch_python", default=sys.executable, help="a Python with PyTorch"
    )
    parser.add_argument("--width", type=int, default=16, help="of PyTorch's network")
    parser.add_argument("--depth", type=int, default=4, help="of the same")
    for name in ("work", "weights"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        dict(WORKS.values())[given.work](given)
        return
    record = Record()
    told: dict[str, list[dict[str, float]]] = {name: [] for name in WORKS if name}
    with tempfile.TemporaryDirectory() as scratch:
        more = [f"--weights={scratch}/weights.pt"]
        try:
            told_by("", given, more)
        except subprocess.CalledProcessError:
            del told["PyTorch"]
            record.lacks("PyTorch", f"{given.torch_python} has none")
        for _ in range(given.rounds):  # in turns
            for name in told:
                told[name].append(told_by(name, given, more))
    for name, rounds in told.items():
        show(name, rounds, record)
    record.write(given.json)


def show(name: str, rounds: list[dict[str, float]], record: Record) -> None:
    """Prints and records one side's stages."""
    print(f"{name}, medians of {len(rounds)}")
    before = 0.0
    for stage in rounds[0]:
        until = statistics.median(marks[stage] for marks in rounds)
        print(f"  {until - before:6.2f} s  {stage}")
        if stage == "the first image":
            print(f"  {until:6.2f} s  in all")
            seconds = [marks[stage] for marks in rounds]
            record.add("from the command to the first image", name, seconds, unit="s")
        if stage == "the model":
            seconds = [marks[stage] for marks in rounds]
            record.add("from the command to a loaded model", name, seconds, unit="s")
        before = until


if __name__ == "__main__":
    run(main)
