"""One data set on every runner of Beam that can be had here: the same bytes."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from preprocess import main, shards
from preprocess.cli import main as run_command

ROOT = pathlib.Path(__file__).parent.parent
ARGUMENTS = (
    f"--config={ROOT}/configs/synthetic.py:smoke",
    "--config.data.tile_size=60",
    "--config.model.depth=2",
    "--config.data.augmentations=5",
    "--config.data.num_shards=6",
)


def preprocess(source, output, *options) -> int:
    given = [*ARGUMENTS, f"--input={source}", f"--output={output}", *options]
    return run_command(main.COMMAND, given)


@pytest.fixture(scope="module")
def in_memory(cells, digests, tmp_path_factory):
    """What Beam's simplest runner makes, without a thread of its own."""
    output = tmp_path_factory.mktemp("made") / "data"
    assert preprocess(cells, output, "--direct_running_mode=in_memory") == 0
    made = digests(output)
    assert len(made) == 6 + 1 + 2 + 1  # train, validation, test, info
    return made


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("mode", ["multi_threading", "multi_processing"])
def test_local_runner(cells, in_memory, digests, tmp_path, mode, workers):
    options = f"--direct_running_mode={mode}", f"--direct_num_workers={workers}"
    assert preprocess(cells, tmp_path / "data", *options) == 0
    assert digests(tmp_path / "data") == in_memory


@contextlib.contextmanager
def server(*command):
    """A server on loopback for the time of a test."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def wait_for(path: pathlib.Path, seconds: float = 60) -> str:
    """The content of a file as soon as there is any."""
    for _ in range(int(seconds * 10)):
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.1)
    raise TimeoutError(path)


@pytest.mark.slow
def test_portable_runner_on_a_job_service(cells, in_memory, digests, tmp_path):
    module = "apache_beam.runners.portability.local_job_service_main"
    port_file = tmp_path / "port"
    with server("-m", module, "--port_file", str(port_file)):
        endpoint = f"--job_endpoint=localhost:{wait_for(port_file)}"
        options = "--runner=PortableRunner", endpoint, "--environment_type=LOOPBACK"
        assert preprocess(cells, tmp_path / "data", *options) == 0
    assert digests(tmp_path / "data") == in_memory


DASK_CLUSTER = """
import time
from dask.distributed import LocalCluster
if __name__ == "__main__":
    workers = dict(n_workers=2, threads_per_worker=1, processes=True)
    with LocalCluster(**workers, dashboard_address=":0") as cluster:
        print(cluster.scheduler_address, flush=True)
        time.sleep(120)
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Dask's own, of its sockets
def test_dask_runner_on_two_processes(cells, in_memory, digests, tmp_path):
    script = tmp_path / "cluster.py"
    script.write_text(DASK_CLUSTER)
    with server(str(script)) as cluster:
        address = cluster.stdout.readline().strip()
        options = "--runner=DaskRunner", f"--dask_client_address={address}"
        # In a process of its own: a client's threads outlive the job.
        given = [*ARGUMENTS, f"--input={cells}", f"--output={tmp_path / 'data'}"]
        subprocess.run(
            [sys.executable, "-m", "preprocess.main", *given, *options],
            cwd=ROOT,
            check=True,
            timeout=120,
        )
    assert digests(tmp_path / "data") == in_memory


def killed_while_writing(command: list[str], output: pathlib.Path) -> None:
    """Starts the job and kills it, with all its processes, in the midst of a shard."""
    job = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        for _ in range(6000):
            halves = list(output.glob(".unfinished-*.tfrecord"))
            noted = list(output.glob(".unfinished-train-*.tfrecord.json"))
            if halves and noted and max(map(_size, halves)) > 0:
                break
            assert job.poll() is None, "ended before it could be killed"
            time.sleep(0.005)
    finally:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()


def _size(path: pathlib.Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["multi_threading", "multi_processing"])
def test_killed_in_the_midst_of_a_shard(cells, digests, tmp_path, capsys, mode):
    """kill -9, then the same command: whole shards stay, the bytes are the same."""
    output = tmp_path / "data"
    given = [f"--input={cells}", "--config.data.augmentations=60"]
    options = [f"--direct_running_mode={mode}", "--direct_num_workers=2"]
    command = [sys.executable, "-m", "preprocess.main", *ARGUMENTS, *given, *options]
    killed_while_writing([*command, f"--output={output}"], output)
    assert not (output / shards.INFO_NAME).exists()
    noted = [path.name for path in output.glob(".unfinished-train-*.tfrecord.json")]
    names = [name.removeprefix(".unfinished-").removesuffix(".json") for name in noted]
    kept = {name: (output / name).stat().st_mtime_ns for name in names}
    assert kept and len(kept) < 9
    more = "--config.data.augmentations=60"
    capsys.readouterr()
    assert preprocess(cells, output, more) == 0
    assert f"{len(kept)} shards of an earlier run kept" in capsys.readouterr().out
    for name, written in kept.items():
        assert (output / name).stat().st_mtime_ns == written
    assert preprocess(cells, tmp_path / "quiet", more) == 0
    assert digests(output) == digests(tmp_path / "quiet")
