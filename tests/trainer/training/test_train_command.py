"""The command's own flags: dry run, profile, caches, mistakes in one line each."""

import gzip
import json
import re
import subprocess
import time
import urllib.request

import pytest

from tests.commands import PYTHON, TINY, module, process, refused, run, started, typed
from tests.ports import free_port


@pytest.mark.slow
def test_dry_run_says_what_it_costs_and_writes_nothing(
    shards_folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert run("train", *TINY, "--dry_run", data=shards_folder) == 0
    rows = dict(re.findall(r"^ *(\S[^:]*?)  (\S.*)$", capsys.readouterr().out, re.M))
    assert rows["parameters"] == "7,482"  # 80 of them gains of standardised kernels
    assert rows["devices"] == "1 CPU replica, float32"
    assert re.match(r"[\d,]+ MB at most", rows["memory"])
    # 7,482 weights with Adam's two moments of each, 4 bytes each: below 0.1 MB.
    assert rows["state"].startswith("0 MB")
    assert rows["FLOPs a step"].endswith("GFLOP of convolutions")
    assert "images/s" in rows["second step"] and "mean_iou" in rows["one frame"]
    assert "for 4 steps" in rows["estimated"]
    assert not list(tmp_path.iterdir())


def test_flops_are_those_of_the_layers(config):
    """Against the shapes and kernels of the network itself."""
    from trainer.network.flops import forward_macs, training_flops
    from trainer.network.unet import build_model

    for depth, size, channels in ((2, 60, 3), (4, 572, 1)):
        config.model.update({"depth": depth, "channels": channels, "width": 3})
        counted, first = 0, None
        for layer in build_model(config.model, size=size).layers:
            if not layer.weights:
                continue
            # A transposed convolution makes its products at each input pixel.
            up = "upsampling" in layer.name
            pixels = (layer.input if up else layer.output).shape[1:3]
            kernel = 1
            for edge in layer.weights[0].shape:
                kernel *= edge
            counted += pixels[0] * pixels[1] * kernel
            first = first or counted
        assert forward_macs(config.model, size) == (counted, first)
        assert training_flops(config.model, size) == 2 * (3 * counted - first)


MISTAKES = [
    (["--profile_steps=20,10"], "two numbers of steps, as 10,20"),
    (["--profile_steps=a"], "two numbers of steps"),
    (
        ["--on_bad_record=maybe"],
        "--on_bad_record=maybe: value should be one of <fail|skip>",
    ),
    (["--config.train.stepz=3"], "stepz"),
    (["--config.train.schedule=step"], "schedule='step' is none of constant, cosine"),
    (["--config.train.global_batch=6", "--config.train.accumulate=4"], "accumulate=4"),
]


@pytest.mark.parametrize("given, message", MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(
    shards_folder, tmp_path, capfd, given, message
):
    where = {"data": shards_folder, "workdir": tmp_path / "run"}
    assert message in refused(capfd, "train", *TINY, *given, **where)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_split_devices_and_a_batch_that_does_not_divide(shards_folder, tmp_path):
    given = *TINY, "--devices=2", "--config.train.global_batch=1"
    where = {"data": shards_folder, "workdir": tmp_path / "run"}
    done = process(*module("train", *given, **where))
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "train: config.train.global_batch=1 is not divisible by 2 replicas; "
        "the nearest that are: 2"
    ]


@pytest.mark.slow
def test_tensorboard_opens_the_profile(shards_folder, tmp_path):
    folder = tmp_path / "run"
    given = *TINY, "--profile_steps=2,4"
    done = process(*module("train", *given, data=shards_folder, workdir=folder))
    assert done.returncode == 0 and "steps 2 to 4 profiled" in done.stderr
    [profile] = (folder / "logs/plugins/profile").iterdir()
    port = free_port()
    page = f"http://127.0.0.1:{port}/data/plugin/profile"
    given = typed(logdir=folder, port=port, host="127.0.0.1")
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = started(PYTHON, "-m", "tensorboard.main", *given, **silent)
    try:
        assert fetch(f"{page}/runs") == [f"logs/{profile.name}"]
        tools = fetch(f"{page}/run_tools?run=logs%2F{profile.name}")
        assert {"overview_page", "trace_viewer@"} <= set(tools)
        overview = f"{page}/data?run=logs%2F{profile.name}&tag=overview_page&host="
        assert fetch(overview)
    finally:
        server.kill()
        server.wait()


def fetch(address: str):
    """JSON from the server, once it is up; it packs whether asked to or not."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                return json.loads(gzip.decompress(answer.read()))
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)
