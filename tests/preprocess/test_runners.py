"""One data set on every runner of Beam that can be had here: the same bytes."""

import contextlib
import logging
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import time

import pytest

from preprocess import main
from preprocess.beam import preflight, runners
from tests.cloud import dataflow, stores
from tests.commands import PYTHON, ROOT, TINY, mistakes, module, process, run, started
from tests.conftest import until
from tests.ports import free_port
from unet_tfrecords.command import cli
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset import dataset_info

ARGUMENTS = (*TINY, "--config.data.augmentations=5", "--config.data.num_shards=6")


def preprocess(source, output, *options) -> int:
    return run("preprocess", *ARGUMENTS, *options, input=source, output=output)


@pytest.fixture(scope="module")
def in_memory(cells, digests, tmp_path_factory):
    """What Beam's simplest runner makes, without a thread of its own."""
    output = tmp_path_factory.mktemp("made") / "data"
    assert preprocess(cells, output, "--direct_running_mode=in_memory") == 0
    made = digests(output)
    assert len(made) == 6 + 1 + 2 + 1 + 2  # train, validation, test, info, tfds/
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode, workers",
    [("multi_threading", 1), ("multi_threading", 5), ("multi_processing", 2)],
)
def test_local_runner(cells, in_memory, digests, tmp_path, mode, workers):
    options = f"--direct_running_mode={mode}", f"--direct_num_workers={workers}"
    assert preprocess(cells, tmp_path / "data", *options) == 0
    assert digests(tmp_path / "data") == in_memory


# --- The commands of docs/runners.md -------------------------------------------------


class Guide:
    """A section's commands, as a user types them, on this machine's free ports."""

    def __init__(self, section: str, source, output, *more: str):
        text = (ROOT / "docs/runners.md").read_text()
        [part] = re.findall(rf"^## {section}$(.*?)(?=^## )", text, re.M | re.S)
        blocks = "\n".join(re.findall(r"```sh\n(.*?)```", part, re.S))
        lines = blocks.replace("\\\n", " ").splitlines()
        self.ports = {port: str(free_port()) for port in ("8786", "8099", "50000")}
        where = f"--input={source} --output={output}"
        shown = "--config=configs/phc_u373.py:cpu --input=DIR --output=OUT"
        replaced = {
            **self.ports,
            "/tmp/": f"{output.parent}/",  # before names that may lie there
            ".venv-cpu/bin": str(pathlib.Path(PYTHON).parent),
            "$PWD/": "",
            "=JAR ": f"={PYTHON} ",  # any file: nothing is started
            "$(go env GOPATH)/bin/prism": PYTHON,
            shown: shlex.join([*ARGUMENTS, *more]) + f" {where}",
        }
        for old, new in replaced.items():
            lines = [line.replace(old, new) for line in lines]
        self.jobs = [line for line in lines if line.startswith("./launch.sh")]
        self.servers = [line for line in lines if line and line not in self.jobs]

    @contextlib.contextmanager
    def serving(self, *ports: str):
        """Its first servers, once they answer at these ports of the guide."""
        with contextlib.ExitStack() as stack:
            for port, line in zip(ports, self.servers, strict=False):
                shell = stack.enter_context(server(line))
                until(shell, lambda port=port: answers(self.ports[port]))
            yield


def answers(port: str) -> bool:
    with contextlib.suppress(ConnectionError):
        socket.create_connection(("localhost", int(port)), timeout=10).close()
        return True
    return False


@contextlib.contextmanager
def server(line: str):
    """What a terminal of its own would run, for the time of a test."""
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    shell = started("sh", "-c", line, start_new_session=True, **silent)
    try:
        yield shell
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()


def types(line: str, **environment: str):
    """A command to its end, in a process: clients' threads outlive their jobs."""
    return process(*shlex.split(line), env=environment, timeout=120)


def told(done) -> str:
    """The one line of a command that failed, its bars apart."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if "it/s" not in line]
    lines = [line for line in lines if not re.match("frames: |tiles: ", line)]
    noise = "No module named build"  # Beam then builds the package in another way
    lines = [line for line in lines if line and noise not in line]
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.long
def test_dask_scheduler_and_two_workers(cells, in_memory, digests, tmp_path):
    guide = Guide("Dask", cells, tmp_path / "data")
    [job] = guide.jobs
    _, *workers = guide.servers
    assert len(workers) == 2
    with contextlib.ExitStack() as stack:
        stack.enter_context(guide.serving("8786"))
        early = started(*shlex.split(job), stderr=None)
        stack.callback(early.communicate)
        stack.callback(early.kill)
        address = f"tcp://127.0.0.1:{guide.ports['8786']}"
        waits = f"no worker yet; start some: dask worker {address}\n"
        # What was found and what will be made come first.
        assert any(line == waits for line in early.stdout)
        for line in workers:
            stack.enter_context(server(line))
        early.wait(120)
        assert early.returncode == 0
        assert digests(tmp_path / "data") == in_memory
        (tmp_path / "bad/train-00000-of-00006.tfrecord").mkdir(parents=True)
        line = told(types(job.replace("/data ", "/bad ")))
    assert line.endswith("-00006.tfrecord: Is a directory")


@pytest.mark.long
def test_portable_job_service(cells, in_memory, digests, tmp_path):
    """Work done by the command itself, and by a pool of workers; its failures."""
    guide = Guide("Portable job service", cells, tmp_path / "data")
    loopback, external = guide.jobs
    with guide.serving("8099", "50000"):
        # Beam's client would drop the job after this time.
        done = types(f"{loopback} --job_server_timeout=1")
        assert done.returncode == 0, done.stderr
        assert digests(tmp_path / "data") == in_memory
        done = types(external.replace("/data ", "/data2 "))
        assert done.returncode == 0, done.stderr
        assert digests(tmp_path / "data2") == in_memory
        (tmp_path / "bad/train-00000-of-00006.tfrecord").mkdir(parents=True)
        line = told(types(loopback.replace("/data ", "/bad ")))
        assert line.endswith("-00006.tfrecord: Is a directory")
        nobody = f"localhost:{free_port()}"
        pool = f"localhost:{guide.ports['50000']}"
        missing = external.replace("/data ", "/new ").replace(pool, nobody)
        line = told(types(missing))
        assert f"(--environment_config={nobody}), does not answer; start it" in line
        assert not (tmp_path / "new").exists()
        if process("sh", "-c", "docker info").returncode:
            check_docker(guide, cells, dataflow.login(tmp_path))


def check_docker(guide, cells, login) -> None:
    """Workers in containers, where none can be started."""
    with stores.google(pathlib.Path()) as front:
        front.upload(cells, "raw")
        where = f"--input=gs://{stores.BUCKET}/raw --output=gs://{stores.BUCKET}/data"
        service = f"--job_endpoint=localhost:{guide.ports['8099']}"
        job = f"./launch.sh preprocess {shlex.join(ARGUMENTS)} {where} {service}"
        environment = {**login, "STORAGE_EMULATOR_HOST": front.address}
        line = told(types(f"{job} --runner=PortableRunner", **environment))
        assert "--runner=PortableRunner: no container could be started there" in line
        assert front.names("data") == []


@pytest.mark.slow
def test_a_job_server_that_does_not_start(cells, tmp_path):
    """Its jar can't be fetched; its Java fails."""
    where = f"--input={cells} --output={tmp_path / 'data'}"
    job = f"./launch.sh preprocess {shlex.join(ARGUMENTS)} {where}"
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho this is no Java\nexit 1\n")
    java.chmod(0o755)
    job += f" --job_server_java_launcher={java} --runner"
    address = f"http://127.0.0.1:{free_port()}/flink.jar"
    line = told(types(f"{job}=FlinkRunner --flink_job_server_jar={address}"))
    assert f"Beam's job server can't be fetched ({address}); fetch it else" in line
    jar = tmp_path / "spark.jar"
    jar.touch()
    done = types(f"{job}=SparkRunner --spark_job_server_jar={jar}")
    assert done.returncode == 2 and "this is no Java" in done.stderr
    ended = "--runner=SparkRunner: Beam's job server ended at its start"
    assert ended in done.stderr.splitlines()[-1]
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("section", ["Local", "Dataflow", "Flink", "Spark", "Prism"])
def test_options_of_the_other_commands_exist(section, cells, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as cluster:
        address = f"127.0.0.1:{cluster.getsockname()[1]}"
        jobs = Guide(section, cells, tmp_path / "data").jobs
        assert jobs
        for job in jobs:
            whole = job.replace("./launch.sh preprocess ...", jobs[0])
            _, _, *given = shlex.split(re.sub(r"HOST:\d+", address, whole))
            values, rest = cli.parse(main.COMMAND, given)
            more = [java()] if section in ("Flink", "Spark") else []
            options = runners.parse_options([*rest, *more])
            preflight.check_places(options, values.input, values.output)


# --- What is looked at before a job is sent ------------------------------------------


def refused(*given: str) -> list[str]:
    return mistakes(runners.parse_options, list(given))


@pytest.mark.slow
def test_who_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr(preflight, "ANSWER_S", 0)
    nobody = f"127.0.0.1:{free_port()}"
    for flag, more in (
        ("--job_endpoint=", ("--runner=PortableRunner",)),
        ("--job_endpoint=", ("--runner=FlinkRunner",)),
        ("--flink_master=", ("--runner=FlinkRunner", java())),
        ("--flink_master=http://", ("--runner=FlinkRunner", java())),
        ("--spark_master_url=spark://", ("--runner=SparkRunner", java())),
        ("--dask_client_address=tcp://", ("--runner=DaskRunner",)),
    ):
        [line] = refused(f"{flag}{nobody}", *more)
        assert line.startswith(f"{flag}{nobody}: nobody answers there; "), line


@pytest.mark.parametrize(
    "given, option",
    [
        (["--labels=instance"], "config.data.labels"),
        (["--labels", "instance"], "config.data.labels"),
        (["--label=instance"], "config.data.labels"),
        (["--num_workers=3"], ""),
        (["--runner=FlinkRunner", "--region=europe-west4"], ""),
        (["--overwite"], "overwrite"),
    ],
)
def test_options_without_effect_are_refused_with_what_may_be_meant(given, option):
    """Beam would take labels=instance for Dataflow's labels, and masks stay binary."""
    own = ["overwrite", "input", "config.data.labels", "config.data.layout"]
    line = mistakes(runners.parse_options, given, own)[0]
    name = given[-1 if len(given) > 1 and "=" in given[-1] else 0].split("=")[0]
    assert name.rstrip("s") in line
    assert (f"(--{option} is meant?)" in line) == bool(option)


def java() -> str:
    """Any program in Java's place: nothing is started here."""
    return f"--job_server_java_launcher={PYTHON}"


def test_what_a_job_server_needs_is_named(tmp_path):
    wants = "--runner=PortableRunner wants --job_endpoint=HOST:PORT"
    assert refused("--runner=PortableRunner") == [wants]
    assert refused("--runner=PortableRunner", "--job_endpoint=localhost") == [wants]
    missing = "--job_server_java_launcher=no-java-here"
    for engine in ("Flink", "Spark"):
        [line] = refused(f"--runner={engine}Runner", missing)
        assert line.startswith(
            f"no no-java-here here, and Beam's job server for {engine}"
        )
        jar = f"--{engine.lower()}_job_server_jar={tmp_path}/a.jar"
        assert refused(f"--runner={engine}Runner", jar) == [f"{jar}: no such file"]
    gone = f"--prism_location={tmp_path}/prism"
    assert refused("--runner=PrismRunner", gone) == [f"{gone}: no such program"]
    [line] = refused("--runner=FlinkRunner", "--flink_version=1.2")
    assert "argument --flink_version: invalid choice: '1.2'" in line


@pytest.mark.parametrize(
    "line, before, after",
    [  # shown before the job server has the job, and after
        ("[main] INFO org.apache.beam.X - started", False, False),
        ("18:22:11 [main] INFO org.apache.beam.X - started", False, False),
        ("26/11/29 18:01:31 INFO Worker: registered", False, False),
        ("NOTE: Picked up JDK_JAVA_OPTIONS: -Xmx1g", False, False),
        ("Error: Unable to access jarfile a.jar", True, False),
        ("[main] ERROR org.apache.beam.X - no INFO here", True, False),
        ("26/11/29 18:01:31 WARN X: OutOfMemoryError", True, True),
    ],
)
def test_job_servers_say_what_matters(line, before, after):
    logger = logging.getLogger("FlinkJarJobServer")
    root, kept = logging.getLogger(), list(logging.getLogger().filters)
    record = logger.makeRecord(logger.name, logging.INFO, "", 0, line, (), None)
    try:
        runners.quieten()
        assert bool(logger.filter(record)) == before
        runners.silence_job_servers()
        assert bool(logger.filter(record)) == after
        runners.quieten()  # for the next job
        assert bool(logger.filter(record)) == before
    finally:
        root.filters[:] = kept


def test_what_workers_of_a_job_service_are_given():
    """Our package, unless they are this process, or their image has it."""

    def staged(*more: str) -> bool:
        given = runners.parse_options(["--runner=FlinkRunner", java(), *more])
        preflight.check_places(given, "gs://b/in")
        return given.get_all_options()["setup_file"] is not None

    assert not staged()  # Flink within its job server: LOOPBACK
    assert not staged("--environment_type=EXTERNAL", "--environment_config=pool:50000")
    docker = "--environment_type=DOCKER"
    assert staged(docker)
    assert staged(docker, "--environment_config=apache/beam_python3.11_sdk:2.77.0")
    assert not staged(docker, "--environment_config=me/unet:1")
    assert not staged(docker, "--environment_option=docker_container_image=me/unet:1")
    options = runners.parse_options(["--runner=FlinkRunner", java(), docker])
    with pytest.raises(UserError, match="^in: workers in containers can't reach it"):
        preflight.check_places(options, "in", "gs://b/out")


def killed_while_writing(command: list[str], output: pathlib.Path) -> None:
    """Starts the job and kills it, with all its processes, in the midst of a shard."""
    silent = {"stdout": None, "stderr": subprocess.DEVNULL}
    job = started(*command, start_new_session=True, **silent)
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
    more = "--config.data.augmentations=60"
    options = [more, f"--direct_running_mode={mode}", "--direct_num_workers=2"]
    where = {"input": cells, "output": output}
    killed_while_writing(module("preprocess", *ARGUMENTS, *options, **where), output)
    assert not (output / dataset_info.INFO_NAME).exists()
    noted = [path.name for path in output.glob(".unfinished-train-*.tfrecord.json")]
    names = [name.removeprefix(".unfinished-").removesuffix(".json") for name in noted]
    kept = {name: (output / name).stat().st_mtime_ns for name in names}
    assert kept and len(kept) < 9
    capsys.readouterr()
    assert preprocess(cells, output, more) == 0
    assert f"{len(kept)} shards of an earlier run kept" in capsys.readouterr().out
    for name, written in kept.items():
        assert (output / name).stat().st_mtime_ns == written
    assert preprocess(cells, tmp_path / "quiet", more) == 0
    assert digests(output) == digests(tmp_path / "quiet")
