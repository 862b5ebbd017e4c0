"""Which target separates cells best: three targets, several seeds of each.

With the same network, data, steps and augmentation.

    ./launch.sh benchmark --what=targets --input=SETS --output=DIR --minutes=120

SETS holds the challenges' sets as their sites have them. A training is scored on frames
that it has not seen, with rules tuned on its validation frames. Stopped, or out of
minutes, the same command resumes; the table shows the trainings that are finished.

--results keeps the scores of each finished training, so that the runs themselves can be
deleted and later sittings, on other machines too, continue.
"""

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from absl import flags

from unet_tfrecords.command import cli, cli_flags
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images.formats import read_image
from unet_tfrecords.dataset.images.pages import Page
from unet_tfrecords.storage import files

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/targets.jsonl"
SCORES = ("seg", "det", "ap_50", "ap_75", "best_pixel_error", "v_rand", "v_info")


class Study(NamedTuple):
    """What is trained on, and scored on.

    Attributes:
      folder: within SETS.
      settings: a config and what is to be other than there.
    """

    folder: str
    settings: tuple[str, ...]


def _listed(name: str, validation: str, test: str) -> tuple[str, ...]:
    """Settings of a challenge's set whose frames are listed."""
    split = "--config.data.split"
    return (
        "--config=configs/dic_hela.py:cpu",
        f"--config.data.name={name}",
        f"{split}.method=list",
        f"{split}.validation_frames={tuple(validation.split())}",
        f"{split}.test_frames={tuple(test.split())}",
    )


STUDIES = {
    "HeLa": Study(
        "DIC-C2DH-HeLa",
        (
            "--config=configs/dic_hela.py:cpu",
            "--config.data.split.method=fold",
            "--config.data.split.folds=4",
            "--config.data.split.fold=1",  # the last has three gold cells in all
        ),
    ),
    "U373": Study("PhC-C2DH-U373", ("--config=configs/phc_u373.py:cpu",)),
    "Fluo-01": Study(
        "Fluo-N2DL-HeLa",
        _listed("Fluo-N2DL-HeLa", "01/t052", "02/t023 02/t036 02/t075 02/t079"),
    ),
    "Fluo-02": Study(
        "Fluo-N2DL-HeLa",
        _listed(
            "Fluo-N2DL-HeLa",
            "02/t075",
            "01/t012 01/t020 01/t025 01/t040 01/t052 01/t062 01/t079",
        ),
    ),
    "DSB2018": Study(
        "DSB2018",
        (
            "--config=configs/folder.py:cpu",
            "--config.data.labels=instance",
            "--config.data.tile_size=444",  # gives 260 px: most images have 256
        ),
    ),
    # Membranes: nothing to separate, so only options are worth trying.
    "ISBI2012": Study("isbi2012", ("--config=configs/isbi2012.py:cpu",)),
}
OF_CELLS = [name for name in STUDIES if name != "ISBI2012"]
TARGETS = ("classes", "border", "distance")
ZOOM = "--config.data.augment.zoom=0.35"  # 0.7 to 1.4 times
WORSE = (
    "--config.train.augment.blur_px=1.5",
    "--config.train.augment.gradient=0.5",
    "--config.train.augment.noise=0.3",
)
# What may be tried beside the target, by name.
OPTIONS = {
    "": (),
    "no-weights": ("--config.data.border_weight=0.0",),
    "low-weights": ("--config.data.border_weight=2.0",),
    "zoom": (ZOOM,),
    "worse": WORSE,
    "zoom+worse": (ZOOM, *WORSE),
}


class Trial(NamedTuple):
    """One training."""

    study: str
    target: str
    option: str
    steps: int
    seed: int

    def name(self) -> str:
        """Also of its folder; data sets are shared by seeds."""
        return f"{self.data_name()}-{self.steps}-{self.seed}"

    def data_name(self) -> str:
        return "-".join(filter(None, (self.study, self.target, self.option)))


def _run(values: flags.FlagValues, _: list[str]) -> None:
    for name, known in (("sets", STUDIES), ("targets", TARGETS), ("options", OPTIONS)):
        if unknown := {*values[name].value.split(",")} - {*known}:
            raise UserError(f"--{name}: {', '.join(sorted(unknown))}: see --help")
    output = pathlib.Path(values.output).resolve()
    output.mkdir(parents=True, exist_ok=True)
    results = pathlib.Path(values.results)
    until = time.monotonic() + 60 * values.minutes
    for trial in trials(values):
        if trial in read(results):
            continue
        if time.monotonic() > until:
            break
        print(f"[targets] {trial.name()}", file=sys.stderr, flush=True)
        keep(results, trial, train_and_score(trial, values.input, output))
    print(table(read(results), list(trials(values))))


def read(results: pathlib.Path) -> dict[Trial, dict]:
    """What the evaluation of each finished training found."""
    lines = results.read_text().splitlines() if results.exists() else []
    found = map(json.loads, lines)
    return {Trial(**line["trial"]): line["found"] for line in found}


def keep(results: pathlib.Path, trial: Trial, found: dict) -> None:
    """Adds a line to the results."""
    scores = {name: found["scores"].get(name) for name in SCORES}
    kept = {"frames_are": found["frames_are"], "scores": scores}
    line = json.dumps({"trial": trial._asdict(), "found": kept})
    before = results.read_text() if results.exists() else ""
    files.write_bytes(str(results), f"{before}{line}\n".encode())


def trials(values: flags.FlagValues) -> Iterator[Trial]:
    """All that are asked for, a seed of each before the next seed."""
    for seed in range(1, values.seeds + 1):
        for study in values.sets.split(","):
            for target in values.targets.split(","):
                for option in values.options.split(","):
                    yield Trial(study, target, option, values.steps, seed)


def train_and_score(trial: Trial, sets: str, output: pathlib.Path) -> dict:
    """Preprocess, train, tune, evaluate: what evaluation-test.json holds."""
    study = STUDIES[trial.study]
    source = pathlib.Path(sets, study.folder).resolve()
    if trial.study == "DSB2018":
        source = grey_alone(source, output / "DSB2018-grey")
    data = output / f"{trial.data_name()}-data"
    folder = output / trial.name()
    folder.mkdir(exist_ok=True)
    settings = [
        *study.settings,
        *OPTIONS[trial.option],
        f"--config.data.targets={trial.target}",
    ]
    run = f"--workdir={folder / 'run'}"
    with open(folder / "log.txt", "a") as log:

        def command(*arguments: str) -> None:
            done = subprocess.run(
                [sys.executable, "-m", *arguments], cwd=ROOT, stdout=log, stderr=log
            )
            if done.returncode:
                raise UserError(f"{log.name}: exit code {done.returncode}; look there")

        command("preprocess.main", *settings, f"--input={source}", f"--output={data}")
        command(
            *("trainer.main", "train", *settings, f"--data={data}", run),
            *(f"--config.train.steps={trial.steps}", f"--config.seed={trial.seed}"),
            f"--config.train.validate_every_steps={max(1, trial.steps // 4)}",
        )
        command("trainer.main", "evaluate", run, f"--input={source}", "--tune")
        command("trainer.main", "evaluate", run, f"--input={source}")
    return json.loads((folder / "run/evaluation-test.json").read_text())


def grey_alone(source: pathlib.Path, links: pathlib.Path) -> pathlib.Path:
    """DSB2018's fluorescence images, as links: its stained tissue has colours."""
    links.mkdir(exist_ok=True)
    for image in sorted(source.glob("stage1_train/*/images/*.png")):
        pixels = read_image(Page(str(image)), 3).astype(np.int16)
        link = links / image.parts[-3]
        if np.ptp(pixels, axis=-1).mean() < 3 and not link.is_symlink():
            os.symlink(image.parents[1], link)
    return links


def table(results: dict[Trial, dict], wanted: list[Trial]) -> str:
    """Mean, lowest and highest of the seeds, Markdown."""
    head = (
        f"| set | scored frames are | target | option | seeds | {' | '.join(SCORES)} |"
    )
    lines = [head, "|---" * (5 + len(SCORES)) + "|"]
    for first in [trial for trial in wanted if trial.seed == 1]:
        seeds = [trial for trial in wanted if trial[:3] == first[:3]]
        found = [results[trial] for trial in seeds if trial in results]
        if not found:
            continue
        cells = []
        for score in SCORES:
            each = [result["scores"].get(score) for result in found]
            if None in each:
                cells.append("-")
            else:
                spread = f" ({min(each):.3f} to {max(each):.3f})"
                cells.append(f"{np.mean(each):.3f}{spread if len(each) > 1 else ''}")
        what = (first.study, found[0]["frames_are"], first.target, first.option)
        lines.append(f"| {' | '.join((*what, str(len(found)), *cells))} |")
    return "\n".join(lines)


def _names(name: str, known: dict | tuple) -> str:
    return f"{name}, with commas between, of: {', '.join(filter(None, known))}"


COMMAND = cli.Command(
    "benchmark --what=targets",
    "Which target separates cells best, by trainings of each on several sets.",
    flags=(
        cli_flags.string("input", "folder of the sets, by their challenges' names"),
        cli_flags.string("output", "folder for data, runs and scores"),
        cli_flags.string("results", "scores of finished trainings", str(RESULTS)),
        cli_flags.string("sets", _names("sets", STUDIES), ",".join(OF_CELLS)),
        cli_flags.string("targets", _names("targets", TARGETS), ",".join(TARGETS)),
        cli_flags.string("options", _names("options, none of them too", OPTIONS), ""),
        cli_flags.integer("steps", "of each training", 600, least=1),
        cli_flags.integer("seeds", "trainings of each kind", 3, least=1),
        cli_flags.number("minutes", "no training begins after N minutes", 600.0),
    ),
    run=_run,
    required=("input", "output"),
)

if __name__ == "__main__":
    sys.exit(cli.main(COMMAND))
