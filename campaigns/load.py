"""Much, for long: are answers, memory and open files those of little, for short?

    .venv-cpu/bin/python -m campaigns.load --what=requests --count=1000
    .venv-cpu/bin/python -m campaigns.load --what=files --count=10000
    .venv-cpu/bin/python -m campaigns.load --what=tiles --count=1000000

All on drawn cells and a network of depth 2. What is watched runs in a process of its
own, by /proc: Linux only.
"""

import argparse
import concurrent.futures
import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import psutil
from tqdm import tqdm

from preprocess import draw
from unet_tfrecords.dataset.images.png import encode_png

ROOT = pathlib.Path(__file__).parents[1]
THREADS = 16
SIZES = ((64, 64), (50, 70), (96, 33), (20, 100))  # px, of requests
SMOKE = (
    f"--config={ROOT}/configs/synthetic.py:smoke",
    "--config.data.tile_size=60",
    "--config.model.depth=2",
    "--config.data.augmentations=2",
)


class Reading(NamedTuple):
    """Of a process, at one moment.

    Attributes:
      done: what it had done by then.
      megabytes: its resident set.
      files: how many it held open.
    """

    done: int
    megabytes: float
    files: int


def reading(process: psutil.Process, done: int) -> Reading:
    """How much a process holds."""
    return Reading(done, process.memory_info().rss / 1e6, process.num_fds())


def growth(readings: list[Reading]) -> tuple[float, int]:
    """By what share memory grew, and by how many the open files.

    From the second quarter, when all has been used once, to the last: medians, for
    what is held goes up and down by a few megabytes from moment to moment.
    """
    quarter = len(readings) // 4
    early, late = readings[quarter : 2 * quarter], readings[-quarter:]

    def middle(of: Callable[[Reading], float]) -> tuple[float, float]:
        return tuple(float(np.median([of(r) for r in rs])) for rs in (early, late))

    before, after = middle(lambda r: r.megabytes)
    files_before, files_after = middle(lambda r: r.files)
    return after / before - 1, round(files_after - files_before)


# --- What is watched ------------------------------------------------------------------


def requests(version: str, count: int) -> list[Reading]:
    """Asks a SavedModel from 16 threads; every answer must be that given alone."""
    import tensorflow as tf

    model = tf.saved_model.load(version)
    signature = model.signatures["image_bytes"]
    rng = np.random.default_rng(0)
    images = [encode_png(rng.integers(0, 256, (*s, 1), np.uint8)) for s in SIZES]

    def ask(image: bytes) -> np.ndarray:
        answer = signature(image_bytes=tf.constant([image]))
        return answer["probabilities"].numpy()

    alone = [ask(image) for image in images]
    itself, readings = psutil.Process(), []

    def checked(number: int) -> None:
        found = ask(images[number % len(images)])
        np.testing.assert_array_equal(found, alone[number % len(images)])

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        every = max(1, count // 40)
        answers = pool.map(checked, range(count))
        for done, _ in enumerate(tqdm(answers, total=count, unit="request"), 1):
            if done % every == 0:
                readings.append(reading(itself, done))
    return readings


def tiles(folder: str, count: int) -> list[Reading]:
    """Streams tiles as the trainer does, epoch after epoch."""
    from trainer.input.input_pipeline import training_batches
    from trainer.input.reading_order import deal_lanes
    from trainer.input.shard_files import find_shards
    from unet_tfrecords.dataset.dataset_info import read_info

    batch = 32
    info = read_info(folder)
    lanes = deal_lanes(find_shards(info, folder, "train"), batch)
    batches = training_batches(
        lanes, info.geometry, global_batch=batch, shuffle_tiles=500, seed=1
    )
    itself, readings = psutil.Process(), []
    every = max(1, count // batch // 40)
    bar = tqdm(total=count, unit="tile")
    for step, content in enumerate(batches.take(count // batch), 1):
        bar.update(len(content["image"]))
        if step % every == 0:
            readings.append(reading(itself, step * batch))
    return readings


def files(version: str, folder: pathlib.Path, count: int) -> list[Reading]:
    """Segments a folder by the command `predict`; each image must have its mask."""
    source, output = folder / "images", folder / "masks"
    source.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        image = rng.integers(0, 256, (32, 32, 1), np.uint8)
        (source / f"{number:06d}.png").write_bytes(encode_png(image))
    where = (f"--model={version}", f"--input={source}", f"--output={output}")
    command = [sys.executable, "-m", "trainer.main", "predict", *where]
    readings: list[Reading] = []
    with subprocess.Popen(command, cwd=ROOT) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            time.sleep(0.1)
            done = len(os.listdir(output)) if output.is_dir() else 0
            if done > count // 20:  # TensorFlow and the model are loaded
                with contextlib.suppress(psutil.NoSuchProcess):
                    readings.append(reading(watched, done))
    assert process.returncode == 0
    # Its last moments are those of a process that ends.
    readings = [r for r in readings if r.done < count and r.files > 0]
    masks = {path.name for path in output.glob("*_mask.png")}
    assert masks == {f"{number:06d}_mask.png" for number in range(count)}
    return readings


# --- What it takes --------------------------------------------------------------------


def _run(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", module, *arguments]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


@contextlib.contextmanager
def made(folder: pathlib.Path) -> Iterator[tuple[str, str]]:
    """A data set, and a model of it."""
    draw.write_cells(str(folder / "cells"), size=128, num_frames=8, seed=3)
    data, work, model = (str(folder / name) for name in ("data", "work", "model"))
    cells = f"--input={folder / 'cells'}"
    _run("preprocess.main", *SMOKE, cells, f"--output={data}")
    steps = ("--config.train.steps=2", "--config.train.validate_every_steps=2")
    given = (*SMOKE, *steps, f"--data={data}", f"--workdir={work}")
    _run("trainer.main", "train", *given)
    _run("trainer.main", "export", f"--workdir={work}", f"--output={model}")
    yield data, f"{model}/1"


def main() -> None:
    """Loads, and prints how memory and open files went."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", choices=("requests", "files", "tiles"), required=True)
    parser.add_argument(
        "--count", type=int, default=1000, help="of them (default 1000)"
    )
    parser.add_argument("--data", help="a data set; made where not given")
    parser.add_argument("--model", help="a version of a model; made where not given")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        if given.data and given.model:
            data, model = given.data, given.model
        else:
            with made(folder) as (data, model):
                pass
        started = time.perf_counter()
        if given.what == "requests":
            readings = requests(model, given.count)
        elif given.what == "tiles":
            readings = tiles(data, given.count)
        else:
            readings = files(model, folder, given.count)
        seconds = time.perf_counter() - started
    print(f"{'done':>9}  {'MB':>6}  open files")
    for one in readings[:: max(1, len(readings) // 10)]:
        print(f"{one.done:9}  {one.megabytes:6.0f}  {one.files:10}")
    more, opened = growth(readings)
    print(
        f"{given.count} {given.what} in {seconds:.0f} s; from the second quarter to "
        f"the last: memory {more:+.1%}, open files {opened:+d}"
    )


if __name__ == "__main__":
    main()
