"""The first run on GPUs: how fast training is there, on which settings, and whether
two runs are the same.

    ./launch.sh benchmark --what=gpu

On one host, in ten minutes or so (an estimate) after the first start, on which CUDA may
compile kernels for long: doctor with a real sum over all GPUs; the paper's network
compiled or not, with 1, 4 and 8 tiles per GPU in bfloat16; the fastest of these on 2, 4
and 8 GPUs; two identical trainings compared bit by bit, and what that costs. Writes
gpu.json and gpu.html. Without a GPU, --quick tries it in small on logical processors.
"""

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
sys.path[0] = str(ROOT)  # not this folder: its names are no modules

from benchmarks import page
from benchmarks.main import machine, module, revision
from benchmarks.record import Record, read, run
from doctor.devices import find_gpus
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.storage import files, json_files

CONFIG = "--config=configs/synthetic.py"
QUICK = (
    "--config.data.tile_size=60",
    "--config.data.augmentations=2",
    "--config.model.depth=2",
    "--config.model.width=4",
    "--config.train.precision=float32",
)
STEPS = 20


class Scale(NamedTuple):
    """What is run: the paper's network on GPUs, or all of it in small."""

    config: tuple[str, ...]
    tiles: tuple[int, ...]
    gpus: int
    steps: int
    quick: bool


def scale_of(quick: bool) -> Scale:
    """Raises UserError where there is no GPU, and none was to be imitated."""
    if quick:
        return Scale((CONFIG, *QUICK), (1,), 2, 4, True)
    found, trouble = find_gpus()
    count = min(len(found), len(visible(len(found))))
    if not count:
        why = trouble or ("CUDA_VISIBLE_DEVICES hides all" if found else "")
        raise UserError(
            f"no GPU of NVIDIA's here{f' ({why})' if why else ''}; --quick tries this "
            "benchmark on the processor"
        )
    precision = "--config.train.precision=mixed_bfloat16"
    paper = (CONFIG, "--config.data.augmentations=4", precision)
    return Scale(paper, (1, 4, 8), count, STEPS, False)


def visible(count: int) -> list[str]:
    """Of N GPUs, those that the user lets be used; all where nothing says."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [str(index) for index in range(count)]
    return [name for name in given.split(",") if name.strip() not in ("", "-1")]


def environment(scale: Scale, gpus: int) -> dict[str, str]:
    """The first GPUs alone."""
    if scale.quick:
        return dict(os.environ)
    return {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": ",".join(visible(scale.gpus)[:gpus]),
    }


def run_child(command: list[str], scale: Scale, gpus: int) -> str:
    """A process of ours on some GPUs; what it printed.

    Raises:
      UserError: it failed, with its last words.
    """
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment(scale, gpus),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        words = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise UserError(f"{' '.join(command)}: exit code {done.returncode}: {words}")
    return done.stdout


def step_of(
    scale: Scale, data: str, scratch: pathlib.Path, *more: str, gpus: int = 1
) -> dict[str, float]:
    """One setting's figures over some steps; see benchmarks/train.py."""
    out = scratch / "step.json"
    out.unlink(missing_ok=True)
    command = ["benchmarks/train.py", *scale.config, *more, f"--data={data}"]
    command += [f"--json={out}", "--rounds=1", f"--steps={scale.steps}"]
    if scale.quick:
        command += [f"--devices={gpus}"]
    run_child(command, scale, gpus)
    rows = read(json.loads(out.read_text()))
    return {f"{row.quantity}, {row.side}": row.median for row in rows}


QUANTITIES = {
    "speed, stream": ("speed", "images/s"),
    "shares, arithmetic, of a large matrix product": ("share of a matrix product", "%"),
    "shares, waiting for input, of a step": ("waiting for input", "%"),
    "peak memory, stream": ("peak memory", "MB"),
    "building, stream": ("building and compiling", "s"),
}


def add(record: Record, side: str, found: dict[str, float], group: str) -> None:
    for key, (quantity, unit) in QUANTITIES.items():
        record.add(quantity, side, [found[key]], unit=unit, group=group)


def settings(scale: Scale, data: str, scratch: pathlib.Path, record: Record):
    """Compiled or not, with few tiles or many; the flags of the fastest."""
    fastest: tuple[float, int, str] = (0.0, 0, "")
    for xla in ("on", "off"):
        for tiles in scale.tiles:
            flags = [f"--config.train.xla={xla}"]
            flags += [f"--config.train.tiles_per_replica={tiles}"]
            try:
                found = step_of(scale, data, scratch, *flags)
            except UserError as error:
                record.lacks(f"XLA {xla}, {tiles} tiles", str(error))
                continue
            side = f"XLA {xla}"
            add(record, side, found, f"{tiles} tile{'s' * (tiles > 1)} per GPU")
            print(f"{side}, {tiles} per GPU: {shown(found)}", flush=True)
            fastest = max(fastest, (found["speed, stream"], tiles, xla))
    return fastest


def shown(found: dict[str, float]) -> str:
    return "; ".join(
        f"{name} {found[key]:,.4g} {unit}" for key, (name, unit) in QUANTITIES.items()
    )


def identical(scale: Scale, data: str, scratch: pathlib.Path, *more: str) -> bool:
    """Whether two trainings end with the same weights and losses, to the bit."""
    ends = []
    for number in (1, 2):
        folder = scratch / f"twin-{number}"
        files.remove([str(folder)])
        command = ["-m", "trainer.main", "train", *scale.config, *more]
        command += [f"--data={data}", f"--workdir={folder}"]
        command += [f"--config.train.steps={scale.steps}"]
        command += ["--config.train.tiles_per_replica=1"]
        command += ["--config.train.log_every_steps=1"]
        run_child(command, scale, 1)
        *_, newest = sorted(folder.glob("checkpoints/step-*"))
        states = sorted(newest.glob("state.*"))
        digests = {path.name: files.sha256_of(str(path)) for path in states}
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        ends.append((digests, [line["loss"] for line in lines]))
    return ends[0] == ends[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    results = ROOT / "benchmarks/results"
    parser.add_argument(
        "--output", type=pathlib.Path, default=results, help="folder for the results"
    )
    parser.add_argument(
        "--work", type=pathlib.Path, default=ROOT / "runs/benchmark/gpu", help="scratch"
    )
    parser.add_argument("--quick", action="store_true", help="small, on the processor")
    given = parser.parse_args()
    scale = scale_of(given.quick)
    started = time.perf_counter()
    for folder in (given.output, given.work):
        folder.mkdir(parents=True, exist_ok=True)
    doctor = run_doctor()
    cells, data = str(given.work / "cells"), str(given.work / "data")
    size = 128 if scale.quick else 700
    module("preprocess.draw", f"--output={cells}", f"--size={size}", "--frames=6")
    made = [flag for flag in scale.config if not flag.startswith("--config.train")]
    module("preprocess.main", *made, f"--input={cells}", f"--output={data}")
    record = Record()
    speed, tiles, xla = settings(scale, data, given.work, record)
    if not tiles:
        raise UserError([f"{side}: {why}" for side, why in record.missing.items()])
    best = [f"--config.train.xla={xla}", f"--config.train.tiles_per_replica={tiles}"]
    for gpus in (n for n in (2, 4, 8) if n <= scale.gpus):
        try:
            found = step_of(scale, data, given.work, *best, gpus=gpus)
        except UserError as error:
            record.lacks(f"{gpus} GPUs", str(error))
            continue
        add(record, f"{gpus} GPUs", found, f"XLA {xla}, {tiles} tiles per GPU")
        weak = found["speed, stream"] / (speed * gpus)
        print(f"{gpus} GPUs: {shown(found)}; {weak:.2f} of {gpus} times one's speed")
    notes = [line for line in doctor if line.startswith("WRONG")]
    for deterministic in (True, False)[: 1 if scale.quick else 2]:
        flag = f"--config.train.deterministic={deterministic}"
        what = f"Two trainings of {scale.steps} steps, {flag}"
        try:
            same = identical(scale, data, given.work, flag, best[0])
            ends = "the same weights and losses" if same else "different ones"
            notes.append(f"{what}: {ends}.")
        except UserError as error:
            notes.append(f"{what}: {error}")
        print(notes[-1], flush=True)
    try:
        flag = "--config.train.deterministic=True"
        cost = step_of(scale, data, given.work, *best, flag)
        add(record, "deterministic", cost, f"XLA {xla}, {tiles} tiles per GPU")
        print(f"deterministic: {shown(cost)}", flush=True)
    except UserError as error:
        record.lacks("deterministic", str(error))
    result = {
        "name": "gpu",
        "question": "GPUs: how fast is training, and does it repeat bit for bit?",
        "command": "./launch.sh benchmark --what=gpu" + " --quick" * scale.quick,
        "sets": "drawn",
        "machine": {**machine(), "GPUs": gpu_names()},
        "revision": revision(),
        "when": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "seconds": round(time.perf_counter() - started, 1),
        "failed": "",
        "doctor": doctor,
        "notes": notes,
        **record.as_json(),
    }
    json_files.write(str(given.output / "gpu.json"), result)
    path = str(given.output / "gpu.html")
    files.write_bytes(path, page.page([result]).encode())
    print(path)


def run_doctor() -> list[str]:
    """doctor's lines, shown as they come: a first start may take long."""
    lines = []
    command = [sys.executable, "-m", "doctor.main"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    return lines


def gpu_names() -> str:
    found, _ = find_gpus()
    return ", ".join(f"{gpu.name} (driver {gpu.driver})" for gpu in found) or "none"


if __name__ == "__main__":
    run(main)
