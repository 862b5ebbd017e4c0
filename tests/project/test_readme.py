"""Every command of the README, as a reader types it, in a fresh copy of the project.

Its words come from the page itself. What stands for something (DIR, IMAGE.png) is drawn
data; networks and trainings are made small by flags at the end. Google and TensorFlow
Serving are stand-ins on loopback, and `docker` notes what it was asked.
"""

import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from preprocess import draw
from tests.cloud import dataflow, stores
from tests.cloud.serving import serving
from tests.cloud.worker import Worker
from tests.commands import PYTHON, ROOT, process, run, typed
from tests.folders import copy_project, write_program
from unet_tfrecords.dataset.drawn_cells import draw_cells
from unet_tfrecords.dataset.images import formats
from unet_tfrecords.dataset.images.pages import Page

README = (ROOT / "README.md").read_text()
DATA = (
    "--config.data.tile_size=60",
    "--config.data.augmentations=1",
    "--config.model.depth=2",
    "--config.model.width=4",
)
TRAINING = (
    "--config.train.steps=4",
    "--config.train.warmup_steps=0",
    "--config.train.xla=off",
)
COMMANDS = {  # of launch.sh, and what is put behind what the page says
    "demo": (*DATA, *TRAINING),
    "test": ("tests/dataset/test_tiling.py", "-pno:cacheprovider", "-n0"),
    "doctor": (),
    "preprocess": (*DATA, *TRAINING),
    "train": (*DATA, *TRAINING),
    "evaluate": (),
    "export": (),
    "predict": (),
    "benchmark": ("--help",),  # tests/benchmarks/test_benchmarks.py runs them
}


def sections() -> dict[str, list[str]]:
    """The commands of each section that has any, without remarks."""
    found = {}
    for part in re.split(r"^## ", README, flags=re.M)[1:]:
        title = part.splitlines()[0]
        blocks = "".join(re.findall(r"^```sh\n(.*?)^```", part, re.M | re.S))
        lines = blocks.replace("\\\n", " ").splitlines()
        commands = [re.sub(r"\s+#.*", "", line).strip() for line in lines]
        if commands := [line for line in commands if line]:
            found[title] = commands
    return found


SECTIONS = sections()


class Reader(NamedTuple):
    """Somebody with a clone."""

    clone: pathlib.Path
    environment: dict[str, str]

    def types(self, command: str, **names: str) -> str:
        """Runs a line of the page; what it prints."""
        for name, what in names.items():
            command = re.sub(rf"\b{re.escape(name)}\b", what, command)
        settings = {"cwd": self.clone, "env": self.environment, "timeout": 200}
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, **settings
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def launches(self, command: str, *more: str, **names: str) -> str:
        """The same of launch.sh, with more flags where the page's would take hours."""
        name = command.split()[1]
        assert name in COMMANDS, f"no test knows how to run: {command}"
        return self.types(" ".join([command, *COMMANDS[name], *more]), **names)


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> pathlib.Path:
    """What git knows, and the environment that is there already."""
    environment = pathlib.Path(sys.prefix)
    if not (environment / ".complete").exists():
        pytest.skip("not in an environment that launch.sh has made")
    # Or the clone's launch.sh would bring it up to date, and leave it to the clone.
    process("./launch.sh", "setup", env={"UNET_VENV": sys.prefix}, check=True)
    folder = copy_project(tmp_path_factory.mktemp("clone") / "unet")
    flavour = (environment / ".complete").read_text().split()[0]
    (folder / f".venv-{flavour}").symlink_to(environment)
    return folder


@pytest.fixture
def reader(clone) -> Reader:
    ours = ("PYTEST", "PYTHONPATH", "UNET_VENV")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    # So that a clone's types are not looked through from the start.
    environment["MYPY_CACHE_DIR"] = str(ROOT / ".mypy_cache")
    return Reader(clone, environment)


@pytest.fixture
def programs(reader, tmp_path) -> Iterator[pathlib.Path]:
    """A folder of programs that this machine lacks; each notes what it was given."""
    folder = tmp_path / "bin"
    for name in ("docker", "xdg-open"):
        script = f'#!/bin/sh\necho "MODEL=$MODEL" "$@" >> {folder}/{name}.said\n'
        write_program(folder / name, script)
    reader.environment["PATH"] = f"{folder}:{reader.environment['PATH']}"
    yield folder


@pytest.fixture(scope="module")
def own_images(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    """DIR of images and masks, and a folder of other images."""
    folder = tmp_path_factory.mktemp("own")
    for index, (image, instances) in enumerate(draw_cells(128, 12, 5)):
        kinds = {"mine/images": image, "mine/masks": (instances > 0) * np.uint8(255)}
        if index > 8:
            kinds = {"other": image}
        for kind, pixels in kinds.items():
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / f"{index}.png")
    return folder / "mine", folder / "other"


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> pathlib.Path:
    """DIR as the Cell Tracking Challenge lays it out; enough frames for each split."""
    folder = tmp_path_factory.mktemp("video") / "PhC-C2DH-U373"
    draw.write_cells(str(folder), size=128, num_frames=12, seed=3)
    return folder


def test_every_section_with_commands_is_run_here():
    assert {f"test_{key}" for key in map(_as_name, SECTIONS)} <= set(globals())


def _as_name(title: str) -> str:
    return re.sub(r"\W+", "_", title.lower())


@pytest.mark.long
def test_two_commands(reader):
    demo, test = SECTIONS["Two commands"]
    told = reader.launches(demo)
    assert "runs/demo/predictions/*.png" in told and "iou_1" in told
    assert len(list((reader.clone / "runs/demo/predictions").glob("*.png"))) == 48
    assert re.search(r"\d+ passed", reader.launches(test))


@pytest.mark.slow
def test_your_own_images(reader, own_images):
    mine, other = own_images
    names = {"DIR": str(mine), "OTHER_IMAGES": str(other)}
    for command in SECTIONS["Your own images"]:
        reader.launches(command, **names)
    made = reader.clone / "runs/mine"
    assert "mean IoU" in (made / "train/report.html").read_text()
    shown = {path.name for path in (made / "predictions").glob("*_overlay.png")}
    assert shown == {f"{index}_overlay.png" for index in (9, 10, 11)}
    mask = formats.read_labels(Page(str(made / "predictions/9_mask.png")))
    assert mask.shape == (128, 128)


@pytest.mark.long
def test_gpus(reader, video):
    """Whose lack is no error: the processor is taken."""
    for command in SECTIONS["GPUs"]:
        reader.launches(command, DIR=str(video))
    checkpoints = reader.clone / "runs/u373/train/checkpoints"
    assert (checkpoints / "step-00000004").is_dir(), list(checkpoints.iterdir())


@pytest.mark.long
def test_dataflow_and_buckets(reader, video, front, monkeypatch, tmp_path):
    """With a service that takes the job and a worker made of what was staged."""
    [command] = SECTIONS["Dataflow and buckets"]
    front.upload(video, "raw")
    google = {**dataflow.login(tmp_path), "STORAGE_EMULATOR_HOST": front.address}
    reader.environment.update(google)
    for name, value in google.items():
        monkeypatch.setenv(name, value)  # for the workers
    names = {"BUCKET": stores.BUCKET, "PROJECT": dataflow.PROJECT}
    names["REGION"] = dataflow.REGION
    with dataflow.service(Worker(front, tmp_path)) as service:
        endpoint = f"--dataflow_endpoint={service.endpoint}"
        told = reader.launches(command, endpoint, **names)
    assert re.search(r"\d+ tiles", told) and len(service.jobs) == 1
    assert "data/dataset_info.json" in front.names("data/")


@pytest.mark.slow
def test_serving(reader, own_images, programs, trained, tmp_path):
    """What `docker` was asked for is served by a stand-in."""
    compose, client = SECTIONS["Serving"]
    reader.types(compose)
    said = (programs / "docker.said").read_text()
    model, *asked = said.split()
    assert model == f"MODEL={reader.clone}/runs/mine/export"
    assert asked == "compose -f deploy/serving/compose.yaml up -d".split()
    assert (reader.clone / asked[2]).is_file()
    output = tmp_path / "export"
    reader.types(f"./launch.sh export --workdir={trained} --output={output}")
    picture = next(own_images[1].glob("*.png"))
    with serving(output / "1") as (rest, _):
        where = f"--server={rest} --output={tmp_path}/seen.png"
        told = reader.types(f"{client} {where}", **{"IMAGE.png": str(picture)})
    assert "128 x 128 px, class 0: " in told
    assert np.asarray(Image.open(tmp_path / "seen.png")).shape == (128, 128, 3)
    assert (programs / "xdg-open.said").exists()  # --show


@pytest.mark.long
def test_measured(reader, video):
    for command in SECTIONS["Measured"]:
        told = reader.launches(command, DIR=str(video))
    assert re.search(r"\bseg\b", told)


def test_what_the_page_points_at_is_there():
    """Pages, pictures and folders; commands that stand in its lines."""
    pointed = re.findall(r"\]\(((?!http)[^)#]+)", README)
    assert len(pointed) > 15
    assert not [name for name in pointed if not (ROOT / name).exists()]
    launched = set(re.findall(r"\./launch\.sh ([a-z_]+)", README))
    usage = process("./launch.sh", "help", check=True).stdout
    known = set(re.findall(r"^  ([a-z_]+)  ", usage, re.M))
    assert launched <= known and len(README.splitlines()) < 150


def test_a_command_that_no_test_knows_is_refused(tmp_path):
    somebody = Reader(tmp_path, {})
    with pytest.raises(AssertionError, match="no test knows how to run"):
        somebody.launches("./launch.sh conquer --world")


@pytest.mark.slow
def test_the_picture_is_drawn_by_its_command(shards_folder, cells, trained, tmp_path):
    """From a run's folder, as the demo leaves it; what is committed is small."""
    model = tmp_path / "export"
    assert run("export", workdir=trained, output=model) == 0
    where = {"input": cells / "01", "output": tmp_path / "predictions"}
    assert run("predict", model=model, **where) == 0
    (tmp_path / "data").symlink_to(shards_folder)
    (tmp_path / "raw").symlink_to(cells)
    given = typed(run=tmp_path, output=tmp_path / "p.png")
    process(PYTHON, "docs/pictures/overview.py", *given, check=True, timeout=60)
    ours = ROOT / "docs/pictures/overview.png"
    with Image.open(tmp_path / "p.png") as drawn, Image.open(ours) as kept:
        assert drawn.size == kept.size and ours.stat().st_size < 200_000
