"""Flink, Spark and Prism as users have them: the local runner's bytes, or a line."""

import contextlib
import http.client
import pathlib
import re
import subprocess
import time

import pytest

from tests.commands import TINY, module, process, started
from tests.engines.clusters import ENGINES, Cluster, asked, kill

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

DRAWN = (*TINY, "--config.data.augmentations=5", "--config.data.num_shards=6")
LONGER = (*TINY, "--config.data.augmentations=90", "--config.data.num_shards=6")
JOB_S = 300  # twice what the longest job took beside other tests
WITH_WORKERS = ("flink", "spark")


@pytest.fixture(scope="module", params=ENGINES)
def cluster(request, tmp_path_factory):
    with ENGINES[request.param](tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture(scope="module")
def made_here(cells, tmp_path_factory, digests):
    """What the local runner makes: digests by settings."""
    known = {}

    def make(*settings, source=cells) -> dict[str, str]:
        if (settings, source) not in known:
            output = tmp_path_factory.mktemp("here") / "data"
            command = module("preprocess", *settings, input=source, output=output)
            assert process(*command).returncode == 0
            known[settings, source] = digests(output)
        return known[settings, source]

    return make


def command(cluster: Cluster, source, output: pathlib.Path, *settings) -> list[str]:
    options = *settings, *cluster.options
    return module("preprocess", *options, input=source, output=output)


def sent(cluster: Cluster, source, output: pathlib.Path, *settings: str):
    """Runs the command on an engine to its end."""
    typed = command(cluster, source, output, *settings)
    return process(*typed, env=cluster.environment, timeout=JOB_S)


def ends(job, cluster: Cluster) -> tuple[str, str]:
    """Waits for a job's end; what it has printed."""
    try:
        return job.communicate(timeout=JOB_S)
    finally:
        job.kill()


def test_an_engine_makes_the_same_bytes(cluster, cells, digests, made_here, tmp_path):
    done = sent(cluster, cells, tmp_path / "there", *DRAWN)
    assert done.returncode == 0, done.stderr + cluster.said()
    assert digests(tmp_path / "there") == made_here(*DRAWN)
    assert "tiles, 1372 of them made in" in done.stdout
    said = done.stderr.replace("\r", "\n").splitlines()
    assert not [line for line in said if line and not re.match("(frame|tile)s: ", line)]


@pytest.mark.parametrize(
    "name, config", [("DIC-C2DH-HeLa", "dic_hela"), ("PhC-C2DH-U373", "phc_u373")]
)
def test_real_images_too(
    cluster, real_data, digests, made_here, tmp_path, name, config
):
    settings = f"--config=configs/{config}.py:cpu", "--config.data.augmentations=2"
    done = sent(cluster, real_data / name, tmp_path / "there", *settings)
    assert done.returncode == 0, done.stderr + cluster.said()
    here = made_here(*settings, source=real_data / name)
    assert digests(tmp_path / "there") == here


def writes(output: pathlib.Path) -> bool:
    """Whether one shard is whole, and another one begun."""
    halves = [p for p in output.glob(".unfinished-*.tfrecord") if p.stat().st_size]
    return bool(halves) and any(output.glob(".unfinished-train-*.tfrecord.json"))


def waits_until_it_writes(job, output: pathlib.Path) -> None:
    deadline = time.monotonic() + JOB_S
    while True:
        with contextlib.suppress(FileNotFoundError):
            if writes(output):
                return
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def flink_job(cluster: Cluster) -> str:
    """The page of the job that was begun last."""
    jobs = asked(f"{cluster.address}/jobs/overview")["jobs"]
    newest = max(jobs, key=lambda job: job["start-time"])
    return f"{cluster.address}/jobs/{newest['jid']}"


def flink_writers(cluster: Cluster) -> set[int]:
    """Numbers of the workers that write shards."""
    job = flink_job(cluster)
    [vertex] = [v for v in asked(job)["vertices"] if "WriteShards/Write" in v["name"]]
    found = asked(f"{job}/vertices/{vertex['id']}/taskmanagers")["taskmanagers"]
    running = [
        place["taskmanager-id"] for place in found if place["status"] == "RUNNING"
    ]
    return {int(name.removeprefix("worker-")) for name in running}


def flink_restarts(cluster: Cluster) -> int:
    page = asked(f"{flink_job(cluster)}/metrics?get=numRestarts")
    return int(page[0]["value"]) if page else 0


def spark_failures(cluster: Cluster) -> int:
    """Tasks that failed, of the application that runs."""
    pages = f"{cluster.job_address}/api/v1/applications"
    [application] = asked(pages)
    stages = asked(f"{pages}/{application['id']}/stages")
    return sum(stage["numFailedTasks"] for stage in stages)


@pytest.mark.parametrize("engine", WITH_WORKERS)
def test_a_killed_worker_loses_nothing(engine, cells, digests, made_here, tmp_path):
    """kill -9 while it writes, after the first shard is whole: others do its work."""
    count = {"flink": flink_restarts, "spark": spark_failures}[engine]
    (tmp_path / "cluster").mkdir()
    with ENGINES[engine](tmp_path / "cluster") as cluster:
        output = tmp_path / "data"
        typed = command(cluster, cells, output, *LONGER)
        job = started(*typed, env=cluster.environment)
        waits_until_it_writes(job, output)
        writers = {0} if engine == "spark" else set()
        while not writers:
            writers = flink_writers(cluster)
        killed = min(writers)
        kill(cluster.workers[killed])
        again = 0
        while job.poll() is None:
            # The job's page is gone, or about to go.
            with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
                again = max(again, count(cluster))
            time.sleep(0.2)
        _, said = ends(job, cluster)
        assert job.returncode == 0, said + cluster.said()
    assert digests(output) == made_here(*LONGER)
    assert again >= 1


@pytest.mark.parametrize("engine", WITH_WORKERS)
def test_the_only_worker_is_killed(engine, cells, digests, made_here, tmp_path):
    """Flink gives up, and the same command goes on; Spark waits for another worker."""
    (tmp_path / "cluster").mkdir()
    with ENGINES[engine](tmp_path / "cluster", workers=1) as cluster:
        output = tmp_path / "data"
        job = started(
            *command(cluster, cells, output, *LONGER), env=cluster.environment
        )
        waits_until_it_writes(job, output)
        kill(cluster.workers[0])
        if engine == "flink":
            _, said = ends(job, cluster)
            assert job.returncode == 2, said + cluster.said()
            [line] = [x for x in said.splitlines() if x.startswith("preprocess: ")]
            assert "no worker is left there" in line and "go on" in line
            cluster.add(0)
            done = sent(cluster, cells, output, *LONGER)
            assert done.returncode == 0, done.stderr + cluster.said()
            assert "shards of an earlier run kept" in done.stdout
        else:
            cluster.add(0)
            _, said = ends(job, cluster)
            assert job.returncode == 0, said + cluster.said()
    assert digests(output) == made_here(*LONGER)


def test_prism_is_killed_with_the_command(cells, digests, made_here, tmp_path):
    """The command is its worker: the same command goes on from the whole shards."""
    (tmp_path / "cluster").mkdir()
    with ENGINES["prism"](tmp_path / "cluster") as cluster:
        output = tmp_path / "data"
        typed = command(cluster, cells, output, *LONGER)
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        job = started(*typed, start_new_session=True, **silent)
        waits_until_it_writes(job, output)
        kill(job)
        done = sent(cluster, cells, output, *LONGER)
        assert done.returncode == 0, done.stderr
        assert "shards of an earlier run kept" in done.stdout
    assert digests(output) == made_here(*LONGER)
