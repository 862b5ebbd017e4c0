"""From a process' start to its first segmented image, and what that is made of.

    .venv/bin/python benchmarks/start.py --model=DIR --image=FILE

Each round is a fresh process that does what `predict` does, by either runtime.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent
sys.path[0] = str(ROOT)  # not this folder: its names are no modules


def seconds_since_start() -> float:
    """Since this process was started, by the kernel's clock (10 ms steps)."""
    ticks = int(
        pathlib.Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19]
    )
    started = ticks / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def work(given) -> None:
    """The other process: one image, and when each stage was over."""
    marks = {"Python": seconds_since_start()}
    from preprocess.images import Page, read_image
    from trainer import start
    from trainer.export import layout
    from trainer.predict import job, runtimes

    marks["our modules, NumPy, OpenCV"] = seconds_since_start()
    if given.work == "tensorflow":
        start.load_tensorflow()
        marks["TensorFlow"] = seconds_since_start()
    version = layout.newest_version(given.model)
    about = layout.read_about(version)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="exported with --onnx")
    parser.add_argument("--image", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given)
        return
    for runtime in ("tensorflow", "onnx"):
        told = []
        for _ in range(given.rounds):
            done = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], f"--work={runtime}"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                check=True,
            )
            told.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"{runtime}, medians of {given.rounds}")
        before = 0.0
        for name in told[0]:
            until = statistics.median(marks[name] for marks in told)
            print(f"  {until - before:6.2f} s  {name}")
            if name == "the first image":
                print(f"  {until:6.2f} s  in all")
            before = until


if __name__ == "__main__":
    main()
