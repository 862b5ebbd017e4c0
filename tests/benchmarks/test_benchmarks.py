"""Every benchmark runs, in small; what they write is what the page shows."""

import json
import os
import pathlib
import signal
import subprocess

import pytest

from benchmarks import targets
from tests.commands import PYTHON, process, started, typed
from tests.pages import Page
from unet_tfrecords.command import cli
from unet_tfrecords.command.errors import UserError

SIDES = {
    "tiles": {"straightforward", "this project"},
    "beam": {"plain loop", "Beam, 1 thread"},
    "input": {"trainer", "image raw, targets raw", "image png, targets png"},
    "against_torch": {"this project"},
    "train": {"stream", "one batch"},
    "inference": {"this project", "this project, ONNX"},
    "start": {"this project, TensorFlow", "this project, ONNX"},
    "memory": {"augmentations", "frames", "shards"},
    "scale": {"finding and splitting", "writing the plan"},
}


def benchmark(folder: pathlib.Path, *more: str) -> subprocess.CompletedProcess:
    given = typed("--quick", *more, output=folder, work=folder / "work")
    return process(PYTHON, "benchmarks/main.py", *given, timeout=1400)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    done = benchmark(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == str(folder / "index.html")
    return folder


def result(folder: pathlib.Path, name: str) -> dict:
    return json.loads((folder / f"{name}.json").read_text())


@pytest.mark.long
@pytest.mark.timeout(1500)  # s; minutes, longer beside other work
@pytest.mark.parametrize("name", SIDES)
def test_a_benchmark_measures_its_sides(results, name):
    """Peers that are not installed are said to be missing."""
    found = result(results, name)
    sides = {row["side"] for row in found["rows"]}
    assert sides >= SIDES[name] and not found["failed"]
    assert not sides & set(found["missing"])
    for row in found["rows"]:
        assert row["samples"] and all(
            isinstance(each, float) for each in row["samples"]
        )
        negative = row["quantity"] in ("shares", "memory of a frame")
        assert negative or min(row["samples"]) > 0, row
    assert found["command"].startswith(f"./launch.sh benchmark --what={name} ")
    assert str(results) not in json.dumps(found)  # nothing of this machine's folders


@pytest.mark.long
@pytest.mark.timeout(1500)  # s; minutes, longer beside other work
def test_the_page_shows_every_row(results):
    page = Page((results / "index.html").read_text())
    found = [result(results, name) for name in SIDES]
    assert page.tags.count("tr") == sum(len(each["rows"]) + 1 for each in found)
    quantities = [
        {(r["quantity"], r.get("group") if r.get("of") else "") for r in each["rows"]}
        for each in found
    ]
    assert page.tags.count("svg") == sum(map(len, quantities))


@pytest.mark.long
@pytest.mark.timeout(1500)  # s; minutes, longer beside other work
def test_what_was_measured_is_kept_and_what_failed_is_said(results):
    before = (results / "scale.json").read_bytes()
    done = benchmark(results, "--only=scale")
    assert done.returncode == 0 and "scale: kept" in done.stderr
    assert "preprocess." not in done.stderr  # nothing is prepared for it
    assert (results / "scale.json").read_bytes() == before
    done = benchmark(results, "--only=tiles", "--sets=nowhere")
    assert done.returncode == 1 and done.stderr.endswith("failed: tiles\n")
    assert "preprocess.main" not in done.stderr  # it wants frames only
    assert "none of DIC-C2DH-HeLa" in result(results, "tiles")["failed"]
    assert "Failed: exit code 2" in (results / "index.html").read_text()


def test_an_unknown_benchmark_is_refused(tmp_path):
    done = benchmark(tmp_path, "--only=tiles,speed")
    assert done.returncode == 2 and "--only=speed: of tiles, beam" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_ctrl_c_is_one_line(tmp_path):
    given = typed("--quick", output=tmp_path / "out", work=tmp_path / "work")
    command = PYTHON, "benchmarks/main.py", *given
    # As from a terminal: its children hear it too.
    job = started(*command, start_new_session=True)
    assert "preprocess.draw" in job.stderr.readline()
    os.killpg(job.pid, signal.SIGINT)
    said = job.communicate(timeout=60)[1]
    assert job.returncode == 130 and "Traceback" not in said
    assert said.splitlines()[-1] == "benchmark: interrupted; run it again to go on"


@pytest.mark.long
@pytest.mark.timeout(1500)  # s; minutes, longer beside other work
def test_the_first_run_on_gpus_in_small(tmp_path):
    """On two logical processors; what only GPUs have is the script's to find."""
    given = typed("--quick", output=tmp_path / "out", work=tmp_path / "work")
    done = process(PYTHON, "benchmarks/gpu.py", *given, timeout=1400)
    assert done.returncode == 0, done.stdout + done.stderr
    found = result(tmp_path / "out", "gpu")
    assert not found["missing"] and found["doctor"][-1] == "all fine"
    rows = {(row["quantity"], row["side"]) for row in found["rows"]}
    quantities = {"speed", "share of a matrix product", "waiting for input"}
    quantities |= {"peak memory", "building and compiling"}
    for side in ("XLA on", "XLA off", "2 GPUs", "deterministic"):
        assert {(quantity, side) for quantity in quantities} <= rows
    [note] = found["notes"]
    assert note.endswith("deterministic=True: the same weights and losses.")
    assert note in (tmp_path / "out/gpu.html").read_text()


def test_without_a_gpu_the_benchmark_of_gpus_says_so():
    done = process(PYTHON, "benchmarks/gpu.py", env={"PATH": "/nowhere"})
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("benchmark: no GPU of NVIDIA's here")


@pytest.mark.parametrize(
    "given, count, last",
    [(None, 8, "0,1,2,3"), ("2,5", 2, "2,5"), ("", 0, ""), ("-1", 0, "")],
)
def test_the_benchmark_takes_the_visible_gpus(monkeypatch, given, count, last):
    from benchmarks import gpu

    monkeypatch.setattr(gpu, "find_gpus", lambda: ([None] * 8, ""))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    if not count:
        with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES hides all"):
            gpu.scale_of(False)
        return
    scale = gpu.scale_of(False)
    assert scale.gpus == count
    assert gpu.environment(scale, 4)["CUDA_VISIBLE_DEVICES"] == last


def kept(results: pathlib.Path, trial: targets.Trial, seg: float) -> None:
    """As if the trial had been trained and evaluated."""
    found = {"frames_are": "from another video", "scores": {"seg": seg}}
    targets.keep(results, trial, found)


def test_the_table_of_targets_is_of_what_there_is(tmp_path):
    """Mean and range of the seeds; other steps and options are apart."""
    trials = [
        targets.Trial("U373", target, "", 600, seed)
        for seed in (1, 2)
        for target in ("classes", "border", "distance")
    ]
    results = tmp_path / "results.jsonl"
    for trial, seg in zip(trials, (0.5, 0.7, 0.6, 0.9), strict=False):
        kept(results, trial, seg)  # both of classes, one of each other
    kept(results, trials[0]._replace(steps=9), 0.1)
    kept(results, trials[0]._replace(option="zoom"), 0.1)
    rows = targets.table(targets.read(results), trials).splitlines()[2:]
    assert "from another video | classes |  | 2 | 0.700 (0.500 to 0.900) |" in rows[0]
    assert "| 1 | 0.700 |" in rows[1] and "| 1 | 0.600 |" in rows[2]


def test_targets_trains_only_what_the_results_lack(tmp_path, capsys, monkeypatch):
    """So runs can be deleted, and another machine continues."""
    trained = []

    def train(trial: targets.Trial, *_: object) -> dict:
        trained.append(trial)
        return {"frames_are": "from the same video", "scores": {"seg": 0.25}}

    monkeypatch.setattr(targets, "train_and_score", train)
    results = tmp_path / "results.jsonl"
    first = targets.Trial("HeLa", "classes", "", 7, 1)
    kept(results, first, 0.5)
    options = {"results": results, "sets": "HeLa", "targets": "classes", "steps": 7}
    given = typed(input=tmp_path, output=tmp_path / "out", seeds=2, **options)
    assert cli.main(targets.COMMAND, given) == 0
    assert trained == [first._replace(seed=2)]
    assert "0.375 (0.250 to 0.500)" in capsys.readouterr().out
    assert cli.main(targets.COMMAND, given) == 0
    assert len(trained) == 1


@pytest.mark.parametrize("flag", ["sets", "targets", "options"])
def test_unknown_names_of_targets_are_refused(tmp_path, capsys, flag):
    given = typed(input=tmp_path, output=tmp_path / "out", **{flag: "classes,x"})
    assert cli.main(targets.COMMAND, given) == 2
    assert f"--{flag}: " in capsys.readouterr().err
