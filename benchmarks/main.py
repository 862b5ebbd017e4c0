"""All benchmarks beside their peers: JSON of each, and one page with plots.

    ./launch.sh benchmark                    # on drawn data
    ./launch.sh benchmark --quick            # the same in small, to see that it runs
    ./launch.sh benchmark --only=tiles,input
    ./launch.sh benchmark --what=tiles --data=DIR    # one of them, with its own flags

Peers are PyTorch and MONAI, from an environment of their own if there is one:

    python3.11 -m venv .venv-bench
    .venv-bench/bin/pip install 'torch>=2.6' monai pillow

What is absent is said on the page. What was measured before by the same command on the
same revision and machine is kept: stopped, it resumes; --again measures
again.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
sys.path[0] = str(ROOT)  # not this folder: its names are no modules

from benchmarks import page
from benchmarks.record import run
from unet_tfrecords.storage import files, json_files

PEERS = ROOT / ".venv-bench/bin/python"
PACKAGES = ("tensorflow-cpu", "tensorflow", "apache-beam", "opencv-python-headless")


class Benchmark(NamedTuple):
    """One of them: its file's name, what it asks, and its flags."""

    name: str
    question: str
    full: tuple[str, ...]
    quick: tuple[str, ...]


QUICK_NETWORK = (  # compiling takes longer than what it saves
    "--config.model.width=4",
    "--config.train.xla=off",
)
# {sets}: a folder of data sets; {cells}: one of them; {data}: its shards; {model}: a
# network exported; {image}: a frame; {torch}: a Python with PyTorch.
PLACES = ("sets", "cells", "data", "model", "image", "torch")
BENCHMARKS = (
    Benchmark(
        "tiles",
        "Preprocessing: how fast are tiles made, beside the straightforward way?",
        ("--data={sets}",),
        ("--data={sets}", "--rounds=1", "--units=2"),
    ),
    Benchmark(
        "beam",
        "Preprocessing: what does Beam cost over a loop, and a second worker give?",
        ("--input={cells}", "--augmentations=10"),
        ("--input={cells}", "--rounds=1", "--augmentations=2", "--only=1 thread"),
    ),
    Benchmark(
        "input",
        "Input: how fast are tiles read, beside other encodings and PyTorch's loader?",
        ("--data={data}", "--torch_python={torch}"),
        ("--data={data}", "--rounds=1", "--tiles=40", "--torch_python={torch}"),
    ),
    Benchmark(
        "against_torch",
        "Training: how long is a step, beside PyTorch, as the network grows?",
        ("--width", "8", "16", "32", "--torch_python={torch}"),
        ("--width", "4", "--rounds=1", "--torch_python={torch}"),
    ),
    Benchmark(
        "train",
        "Training: how busy is the processor, and how long waits it for input?",
        ("--config=configs/synthetic.py:cpu", "--data={data}"),
        ("--config=configs/synthetic.py:cpu", "--data={data}", "--rounds=1")
        + ("--steps=2", *QUICK_NETWORK),
    ),
    Benchmark(
        "inference",
        "Inference: how fast are whole frames, beside PyTorch and MONAI, as they grow?",
        ("--frames", "256x256", "512x512", "1024x1024", "2048x2048")
        + ("--rounds=5", "--torch_python={torch}"),
        ("--frames", "256x256", "--rounds=1", "--width=4", "--torch_python={torch}"),
    ),
    Benchmark(
        "start",
        "Start-up: how long from a command to its first image?",
        ("--model={model}", "--image={image}", "--torch_python={torch}"),
        ("--model={model}", "--image={image}", "--rounds=1", "--torch_python={torch}"),
    ),
    Benchmark(
        "memory",
        "Memory: what do preprocessing's time and memory grow with?",
        ("--input={cells}",),
        ("--input={cells}", "--times", "1"),
    ),
    Benchmark(
        "scale",
        "Growth: what does the plan of N frames cost?",
        ("--frames", "10000", "100000", "1000000"),
        ("--frames", "1000", "2000"),
    ),
)


def prepare(
    work: pathlib.Path, quick: bool, sets: str | None, needed: set[str]
) -> dict[str, str]:
    """PLACES; of drawn cells, shards of them and a network, those that are needed."""
    size, frames, steps = (200, 8, 1) if quick else (512, 24, 2)
    cells = work / "sets/drawn"
    made = {
        "sets": os.path.abspath(sets) if sets else str(cells.parent),
        "cells": str(cells),
        "data": str(work / "data"),
        "model": str(work / "export"),
        "image": str(cells / "01/t000.tif"),
        "torch": str(PEERS) if PEERS.exists() else sys.executable,
    }
    config = "--config=configs/synthetic.py:cpu"
    inputs = [config, f"--input={made['cells']}"]
    run = f"--workdir={work / 'run'}"
    draw = [f"--output={made['cells']}", f"--size={size}", f"--frames={frames}"]
    if needed - {"torch"}:
        module("preprocess.draw", *draw)
    if needed & {"data", "model"}:
        module("preprocess.main", *inputs, f"--output={made['data']}")
    short = [f"--config.train.steps={steps}", "--config.train.warmup_steps=0"]
    short += QUICK_NETWORK if quick else ["--config.train.xla=off"]
    if "model" in needed and not (work / "export").exists():
        module("trainer.main", "train", config, *short, f"--data={made['data']}", run)
        output = f"--output={made['model']}"
        module("trainer.main", "export", run, output, "--onnx")
    return made


def module(name: str, *arguments: str) -> None:
    """Runs a command of ours; its words are shown if it fails."""
    print(f"[benchmark] {name} {shlex.join(arguments)}", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", name, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{done.stdout}\n{name}: exit code {done.returncode}")


def measure(benchmark: Benchmark, arguments: list[str], json_path: str) -> dict:
    """Runs one; what it measured, or why it did not."""
    script = str(ROOT / "benchmarks" / f"{benchmark.name}.py")
    for stale in pathlib.Path(json_path).parent.glob(pathlib.Path(json_path).name):
        stale.unlink()
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, script, *arguments, f"--json={json_path}"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    seconds = round(time.perf_counter() - started, 1)
    if done.returncode:
        sys.stderr.write(done.stderr)
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        failed = f"exit code {done.returncode}: {last}"
        return {"rows": [], "missing": {}, "failed": failed, "seconds": seconds}
    content = json.loads(pathlib.Path(json_path).read_text())
    return {**content, "failed": "", "seconds": seconds}


def machine() -> dict[str, str | int]:
    """What results depend on."""
    models = [
        line.partition(":")[2].strip()
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found: dict[str, str | int] = {
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "GB of memory": round(memory / 1e9),
        "Python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def revision() -> str:
    """The commit, and whether code was changed since."""
    said = []
    for arguments in (
        ["rev-parse", "--short", "HEAD"],
        ["status", "--porcelain", "--", "*.py"],
    ):
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True
        )
        said.append(done.stdout.strip())
    return (said[0] or "unknown") + (" with changes" if said[1] else "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    results = ROOT / "benchmarks/results"
    work = ROOT / "runs/benchmark"
    parser.add_argument("--output", type=pathlib.Path, default=results)
    parser.add_argument("--work", type=pathlib.Path, default=work, help="scratch data")
    parser.add_argument("--only", default="", help="names, with commas between")
    parser.add_argument("--quick", action="store_true", help="small, for the code")
    parser.add_argument("--again", action="store_true", help="measures all again")
    parser.add_argument("--page", action="store_true", help="only draws what there is")
    parser.add_argument("--sets", help="the challenges' sets, instead of drawn ones")
    given = parser.parse_args()
    names = [benchmark.name for benchmark in BENCHMARKS]
    only = list(filter(None, given.only.split(",")))
    if unknown := [name for name in only if name not in names]:
        parser.error(f"--only={','.join(unknown)}: of {', '.join(names)}")
    given.output = given.output.resolve()
    given.output.mkdir(parents=True, exist_ok=True)
    if given.page:
        print(write_page(given.output))
        return
    here, now = machine(), revision()
    due = []
    for benchmark in BENCHMARKS:
        if only and benchmark.name not in only:
            continue
        flags = benchmark.quick if given.quick else benchmark.full
        about = {
            "name": benchmark.name,
            "question": benchmark.question,
            "command": f"./launch.sh benchmark --what={benchmark.name} "
            + shlex.join(_filled(flags, {n: n.upper() for n in PLACES})),
            "sets": given.sets or "drawn",
            "machine": here,
            "revision": now,
        }
        path = given.output / f"{benchmark.name}.json"
        if not given.again and is_measured(path, about):
            print(f"[benchmark] {benchmark.name}: kept, {path}", file=sys.stderr)
        else:
            due.append((benchmark, flags, about, path))
    scratch = given.work.resolve() / ("quick" if given.quick else "full")
    scratch.mkdir(parents=True, exist_ok=True)
    needed = {
        name for _, flags, *_ in due for name in PLACES if f"{{{name}}}" in str(flags)
    }
    places = prepare(scratch, given.quick, given.sets, needed)
    failed = []
    for benchmark, flags, about, path in due:
        print(f"[benchmark] {benchmark.name}: {benchmark.question}", file=sys.stderr)
        json_path = str(scratch / f"{benchmark.name}.json")
        told = measure(benchmark, _filled(flags, places), json_path)
        when = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
        json_files.write(str(path), {**about, "when": when, **told})
        failed += [benchmark.name] if told["failed"] else []
    print(write_page(given.output))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def _filled(flags: tuple[str, ...], places: dict[str, str]) -> list[str]:
    return [flag.format(**places) for flag in flags]


def is_measured(path: pathlib.Path, about: dict) -> bool:
    """Whether the same was measured already, without failing."""
    if not path.exists():
        return False
    content = json.loads(path.read_text())
    same = all(content.get(name) == value for name, value in about.items())
    return same and not content["failed"]


def write_page(output: pathlib.Path) -> str:
    """Draws what JSON there is; the page's path."""
    paths = [output / f"{benchmark.name}.json" for benchmark in BENCHMARKS]
    results = [json.loads(path.read_text()) for path in paths if path.exists()]
    path = str(output / "index.html")
    files.write_bytes(path, page.page(results).encode())
    return path


if __name__ == "__main__":
    run(main)
