"""Clusters of Flink and Spark on loopback, and what a command is given to use them.

Their jars have no start scripts, so servers are started by their classes.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator

import pytest

from tests.commands import PYTHON, ROOT, started
from tests.ports import free_port

FETCHED = pathlib.Path(os.environ.get("UNET_TEST_ENGINES", ROOT / ".engines"))
ANSWER_S = 90
# What the engines' own scripts open up for Java 17.
OPENED = (
    *("lang", "lang.invoke", "lang.reflect", "io", "net", "nio", "text", "time"),
    *("util", "util.concurrent", "util.concurrent.atomic", "util.concurrent.locks"),
)
JAVA_OPTIONS = [
    *(f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in OPENED),
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/sun.security.action=ALL-UNNAMED",
    "-Xmx1g",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss",
]
FLINK = """
jobmanager.rpc.address: 127.0.0.1
jobmanager.rpc.port: {rpc}
jobmanager.bind-host: 127.0.0.1
jobmanager.memory.process.size: 1g
rest.address: 127.0.0.1
rest.bind-address: 127.0.0.1
rest.port: {rest}
taskmanager.host: 127.0.0.1
taskmanager.bind-host: 127.0.0.1
taskmanager.numberOfTaskSlots: 2
taskmanager.cpu.cores: 1
taskmanager.memory.framework.heap.size: 128m
taskmanager.memory.framework.off-heap.size: 128m
taskmanager.memory.task.heap.size: 256m
taskmanager.memory.task.off-heap.size: 128m
taskmanager.memory.managed.size: 64m
taskmanager.memory.network.min: 256m
taskmanager.memory.network.max: 256m
taskmanager.memory.jvm-metaspace.size: 256m
taskmanager.memory.jvm-overhead.min: 192m
taskmanager.memory.jvm-overhead.max: 192m
cluster.evenly-spread-out-slots: true
heartbeat.interval: 500
heartbeat.timeout: 5000
slot.request.timeout: 5000
restart-strategy.type: fixed-delay
restart-strategy.fixed-delay.attempts: 3
restart-strategy.fixed-delay.delay: 1 s
"""


class Cluster:
    """An engine that runs.

    Attributes:
      options: with which a command uses it.
      environment: of that command.
      workers: the processes among which the work is divided.
      add: starts one more of them, beside the pool of a number.
      address: HOST:PORT where its manager says how things are.
      job_address: the same of a job, where that has a page of its own.
      folder: of its files.
    """

    address = ""
    job_address = ""
    add: Callable[[int], None]

    def __init__(self, folder: pathlib.Path, stack: contextlib.ExitStack):
        self.options: list[str] = []
        self.environment: dict[str, str] = {}
        self.workers: list[subprocess.Popen] = []
        self.folder = folder
        self._stack = stack

    def start(self, name: str, *command, env: dict[str, str] | None = None):
        """Starts a process that ends with the cluster, and what it starts in turn."""
        log = self._stack.enter_context(open(self.folder / f"{name}.log", "wb"))
        settings = {"stdout": log, "stderr": subprocess.STDOUT}
        process = started(*command, env=env or {}, start_new_session=True, **settings)
        self._stack.callback(kill, process)
        return process

    def said(self) -> str:
        """The last lines of its processes, for a test that fails."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{p.name}: {p.read_text()[-2000:]}" for p in logs)


def kill(process: subprocess.Popen) -> None:
    """kill -9, of all that it has started too."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def fetched(name: str) -> pathlib.Path:
    """What `.ci/engines` has fetched; skips the test where it has not."""
    path = FETCHED / name
    if name != "prism" and not (path / "whole").exists() or not path.exists():
        pytest.skip(f"no {name} in {FETCHED}; .ci/engines fetches it")
    if name != "prism" and not shutil.which("java"):
        pytest.skip(f"no Java, which {name} needs")
    return path


def java(jars: pathlib.Path, *arguments) -> list[str]:
    return ["java", *JAVA_OPTIONS, "-cp", f"{jars}/*", *map(str, arguments)]


def sees(folder: pathlib.Path, number: int) -> dict[str, str]:
    """What makes Java programs, and those that they start, look for their own pool."""
    return {"JDK_JAVA_OPTIONS": f"-Djdk.net.hosts.file={folder}/hosts-{number}"}


def job_server(folder: pathlib.Path, jars: pathlib.Path, main: str) -> pathlib.Path:
    """A jar that refers to the others, in place of Beam's, which has them inside."""
    others = " ".join(sorted(path.as_uri() for path in jars.glob("*.jar")))
    text = f"Manifest-Version: 1.0\nMain-Class: {main}\n"
    line = f"Class-Path: {others}"
    # Lines of a manifest have at most 72 bytes, and go on after a space.
    text += "\n ".join(line[i : i + 70] for i in range(0, len(line), 70)) + "\n"
    path = folder / "job-server.jar"
    with zipfile.ZipFile(path, "w") as jar:
        jar.writestr("META-INF/MANIFEST.MF", text)
    return path


def asked(address: str) -> dict:
    """What a server's page says."""
    with urllib.request.urlopen(f"http://{address}", timeout=10) as page:
        return json.load(page)


def until(condition: Callable[[], bool], cluster: Cluster, seconds: float) -> None:
    """Waits; a server that does not answer yet is not ready."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, KeyError):
            if condition():
                return
        assert time.monotonic() < deadline, cluster.said()
        time.sleep(0.05)


def answers(address: str) -> bool:
    host, _, port = address.partition(":")
    socket.create_connection((host, int(port)), timeout=10).close()
    return True


@contextlib.contextmanager
def _cluster(folder: pathlib.Path, workers: int) -> Iterator[Cluster]:
    """One without servers, but with a pool of Python's workers beside each of its own.

    As if each worker were a machine: the name of the pool means another address there.
    """
    with contextlib.ExitStack() as stack:
        cluster, port = Cluster(folder, stack), free_port()
        path = {"PATH": f"{pathlib.Path(PYTHON).parent}:{os.environ['PATH']}"}
        for number in range(workers):
            address = f"127.0.1.{number + 1}"
            (folder / f"hosts-{number}").write_text(
                f"{address} pool\n127.0.0.1 localhost\n"
            )
            place = f"{address}:{port}"
            command = PYTHON, "-m", "tests.engines.pool", place
            cluster.start(f"pool-{number}", *command, env=path)
            until(lambda place=place: answers(place), cluster, ANSWER_S)
        cluster.options = [
            "--environment_type=EXTERNAL",
            f"--environment_config=pool:{port}",
        ]
        yield cluster


@contextlib.contextmanager
def flink(folder: pathlib.Path, workers: int = 2) -> Iterator[Cluster]:
    """A session cluster: a job manager and task managers, of two slots each."""
    jars = fetched("flink") / "jars"
    with _cluster(folder, workers) as cluster:
        rest, runtime = free_port(), "org.apache.flink.runtime"
        conf = folder / "conf"
        conf.mkdir()
        (conf / "config.yaml").write_text(FLINK.format(rpc=free_port(), rest=rest))
        where = "--configDir", conf
        entry = f"{runtime}.entrypoint.StandaloneSessionClusterEntrypoint"
        cluster.start("manager", *java(jars, entry, *where))
        manager = f"{runtime}.taskexecutor.TaskManagerRunner"

        def add(number: int) -> None:
            name = f"worker-{len(cluster.workers)}"
            named = "-D", f"taskmanager.resource-id={name}"
            command = java(jars, manager, *where, *named)
            process = cluster.start(name, *command, env=sees(folder, number))
            cluster.workers.append(process)

        cluster.add = add
        for number in range(workers):
            add(number)
        cluster.address = f"127.0.0.1:{rest}"
        page = f"{cluster.address}/overview"
        until(lambda: asked(page)["taskmanagers"] == workers, cluster, ANSWER_S)
        driver = "org.apache.beam.runners.flink.FlinkJobServerDriver"
        cluster.options += [
            "--runner=FlinkRunner",
            f"--flink_master={cluster.address}",
            f"--flink_job_server_jar={job_server(folder, jars, driver)}",
            "--parallelism=2",
        ]
        cluster.environment = {"JDK_JAVA_OPTIONS": " ".join(JAVA_OPTIONS)}
        yield cluster


@contextlib.contextmanager
def spark(folder: pathlib.Path, workers: int = 2) -> Iterator[Cluster]:
    """A standalone master and workers of one core, each of which starts an executor."""
    home = fetched("spark")
    with _cluster(folder, workers) as cluster:
        port, page, deploy = free_port(), free_port(), "org.apache.spark.deploy"
        local = {
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_HOME": str(home),
            "SPARK_SCALA_VERSION": "2.12",
        }
        at = "--host", "127.0.0.1", "--webui-port"
        master = f"{deploy}.master.Master", "--port", port, *at, page
        cluster.start("manager", *java(home / "jars", *master), env=local)
        cluster.address = f"127.0.0.1:{page}"
        until(lambda: bool(asked(f"{cluster.address}/json/")), cluster, ANSWER_S)
        url = f"spark://127.0.0.1:{port}"

        def add(number: int) -> None:
            settings = "--cores", 1, "--memory", "1g", "--work-dir", folder / "work"
            worker = f"{deploy}.worker.Worker", *at, 0, *settings, url
            command = java(home / "jars", *worker)
            name, env = f"worker-{len(cluster.workers)}", local | sees(folder, number)
            cluster.workers.append(cluster.start(name, *command, env=env))

        cluster.add = add
        for number in range(workers):
            add(number)
        until(
            lambda: asked(f"{cluster.address}/json/")["aliveworkers"] == workers,
            cluster,
            ANSWER_S,
        )
        driver = "org.apache.beam.runners.spark.SparkJobServerDriver"
        cluster.options += [
            "--runner=SparkRunner",
            f"--spark_master_url={url}",
            f"--spark_job_server_jar={job_server(folder, home / 'jars', driver)}",
        ]
        pages = free_port()
        cluster.job_address = f"127.0.0.1:{pages}"
        settings = {
            "driver.host": "127.0.0.1",
            "driver.bindAddress": "127.0.0.1",
            "executor.memory": "512m",
            "ui.port": str(pages),
        }
        given = [f"-Dspark.{name}={value}" for name, value in settings.items()]
        java_options = " ".join([*JAVA_OPTIONS, *given])
        cluster.environment = {**local, "JDK_JAVA_OPTIONS": java_options}
        yield cluster


@contextlib.contextmanager
def prism(folder: pathlib.Path, workers: int = 0) -> Iterator[Cluster]:
    """Beam's own engine in Go; the command starts it, and does the work itself."""
    binary = fetched("prism")
    with contextlib.ExitStack() as stack:
        cluster = Cluster(folder, stack)
        cluster.options = ["--runner=PrismRunner", f"--prism_location={binary}"]
        yield cluster


ENGINES: dict[str, Callable[..., contextlib.AbstractContextManager[Cluster]]] = {
    "flink": flink,
    "spark": spark,
    "prism": prism,
}
