"""Google's Dataflow on loopback: its REST API, and a worker made as its workers are.

The service keeps each job as it was sent and says how it fares. The worker installs
what was staged into an empty virtual environment, and Beam's own harness, started
there, runs the stages of the staged pipeline:

    python tests/cloud/dataflow.py PIPELINE.pb OPTIONS.json WORKERS_PYTHON COUNTERS.json
"""

import contextlib
import email
import http.server
import importlib.metadata
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

from packaging.requirements import Requirement

PROJECT, REGION = "my-project", "europe-west4"
JOBS = f"/v1b3/projects/{PROJECT}/locations/{REGION}/jobs"
JOB_ID = "2026-11-25_00_00_00-1"
TIME = "2026-11-25T00:00:00Z"


class Service:
    """The API of one project in one region.

    Attributes:
      endpoint: for --dataflow_endpoint; with any other name for this machine Beam's
        client would speak gRPC.
      jobs: what was sent, in order.
      state: of the last job.
      complaint: what the job says of itself where it fails.
      refusal: HTTP status and message that submitting is answered with.
      asked: whether somebody has asked for the job's state.
    """

    def __init__(self, work: Callable[[dict[str, Any]], dict[str, int]]):
        """Begins to answer.

        Args:
          work: runs a job, while others may ask for its state; returns its counters.
        """
        self.work = work
        self.jobs: list[dict[str, Any]] = []
        self.state = "JOB_STATE_PENDING"
        self.complaint = ""
        self.asked = False
        self.refusal: tuple[int, str] | None = None
        self.counters: dict[str, int] = {}
        self.server = _Server(("127.0.0.1", 0), _Handler)
        self.server.service = self
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.endpoint = f"http://localhost:{self.server.server_address[1]}"

    def submit(self, job: dict[str, Any]) -> dict[str, Any]:
        self.jobs.append(job)
        self.state = "JOB_STATE_RUNNING"
        told = self.told()  # no job has ended already when it is taken on
        threading.Thread(target=self._run, args=(job,), daemon=True).start()
        return told

    def _run(self, job: dict[str, Any]) -> None:
        try:
            self.counters = self.work(job)
            self.state = "JOB_STATE_DONE"
        except Exception as error:
            self.complaint = str(error)
            self.state = "JOB_STATE_FAILED"

    def told(self) -> dict[str, Any]:
        names = ("name", "type", "clientRequestId")
        return {
            "id": JOB_ID,
            "projectId": PROJECT,
            "location": REGION,
            "currentState": self.state,
            **{name: self.jobs[-1].get(name) for name in names},
        }

    def messages(self) -> list[dict[str, str]]:
        if not self.complaint:
            return []
        message = {"messageText": self.complaint, "id": "1", "time": TIME}
        return [{**message, "messageImportance": "JOB_MESSAGE_ERROR"}]

    def metrics(self) -> list[dict[str, Any]]:
        """Each twice, as Dataflow gives them: committed and tentative."""
        updates = []
        for name, value in self.counters.items():
            for context in ({}, {"tentative": "true"}):
                context = {"namespace": "preprocess", **context}
                told = {"origin": "user", "name": name, "context": context}
                updates.append({"name": told, "kind": "SUM", "scalar": value})
        return updates


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    service: Service

    def handle_error(self, *_) -> None:
        """A client that hung up is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        service = self.server.service
        answers = {
            f"{JOBS}/{JOB_ID}": service.told,
            f"{JOBS}/{JOB_ID}/messages": lambda: {"jobMessages": service.messages()},
            f"{JOBS}/{JOB_ID}/metrics": lambda: {"metrics": service.metrics()},
        }
        path = self.path.partition("?")[0]
        service.asked = True
        if path not in answers:
            return self._answer(404, {"error": {"code": 404, "message": path}})
        return self._answer(200, answers[path]())

    def do_POST(self) -> None:
        service = self.server.service
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if service.refusal or self.path.partition("?")[0] != JOBS:
            status, message = service.refusal or (404, self.path)
            error = {"code": status, "message": message}
            return self._answer(status, {"error": error})
        return self._answer(200, service.submit(json.loads(body)))

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


@contextlib.contextmanager
def service(work: Callable[[dict[str, Any]], dict[str, int]]) -> Iterator[Service]:
    """The API for as long as the block lasts."""
    answering = Service(work)
    try:
        yield answering
    finally:
        answering.server.shutdown()
        answering.server.server_close()


def login(folder: pathlib.Path) -> dict[str, str]:
    """An environment with credentials that nobody is asked to renew."""
    content = {
        "type": "authorized_user",
        "client_id": "c",
        "client_secret": "s",
        "refresh_token": "r",
        "token": "loopback",
        "expiry": "2999-01-01T00:00:00Z",
    }
    path = folder / "login.json"
    path.write_text(json.dumps(content))
    return {
        "GOOGLE_APPLICATION_CREDENTIALS": str(path),
        "GOOGLE_CLOUD_PROJECT": PROJECT,
    }


# --- A worker ------------------------------------------------------------------------


def distributions(requirements: list[str]) -> list[importlib.metadata.Distribution]:
    """Installed distributions that these need, and those that they need in turn."""
    found, seen = {}, set()
    ahead = [Requirement(line) for line in requirements]
    while ahead:
        wanted = ahead.pop()
        if str(wanted) in seen:
            continue
        seen.add(str(wanted))
        distribution = importlib.metadata.distribution(wanted.name)
        assert wanted.specifier.contains(distribution.version, prereleases=True), wanted
        found[distribution.name] = distribution
        for line in distribution.requires or ():
            further = Requirement(line)
            extras = [{"extra": extra} for extra in (*wanted.extras, "")]
            if not further.marker or any(map(further.marker.evaluate, extras)):
                ahead.append(further)
    return list(found.values())


def requirements_of(sdist: pathlib.Path) -> list[str]:
    """What a package needs without any of its extras."""
    with tarfile.open(sdist) as archive:
        [name] = [n for n in archive.getnames() if re.fullmatch(r"[^/]+/PKG-INFO", n)]
        told = email.message_from_bytes(archive.extractfile(name).read())
    lines = told.get_all("Requires-Dist")
    return [line for line in lines if "extra ==" not in line]


def install(sdist: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """A worker's Python: an empty environment with a package and what it needs.

    The needed distributions are those of here, file by file (fetching them anew took
    198 s); pip then installs the package and checks that nothing lacks. A file that
    belongs to none of them, such as TensorFlow's, isn't there.
    """
    make = [sys.executable, "-m", "venv", "--without-pip", folder]
    subprocess.run(make, check=True, timeout=60)
    python = folder / "bin/python"
    [packages] = folder.glob("lib/python*/site-packages")
    for distribution in distributions([*requirements_of(sdist), "setuptools>=77"]):
        for file in distribution.files or ():
            if ".." not in file.parts:
                target = packages / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(distribution.locate_file(file))
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    offline = ["--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    bare = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [*pip, *offline, sdist], check=True, timeout=120, env=bare, cwd=folder
    )
    return python


def work(
    pipeline: pathlib.Path, options: dict[str, Any], python: pathlib.Path
) -> dict[str, int]:
    """Runs a staged pipeline's stages in a worker's environment; its counters.

    In a process of its own: a harness that dies at its start is waited for for ever.
    """
    folder = pipeline.parent
    (folder / "options.json").write_text(json.dumps(options))
    arguments = ("pipeline.pb", "options.json", str(python), "counters.json")
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads((folder / "counters.json").read_text())


def _main(pipeline_path: str, options_path: str, python: str, counters: str) -> None:
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.portability import python_urns
    from apache_beam.portability.api import beam_runner_api_pb2
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    content = pathlib.Path(pipeline_path).read_bytes()
    pipeline = beam_runner_api_pb2.Pipeline.FromString(content)
    options = shlex.quote(str(pathlib.Path(options_path).resolve()))
    harness = (
        f"cd / && exec env -u PYTHONPATH PIPELINE_OPTIONS_FILE={options} "
        f"{shlex.quote(python)} -m apache_beam.runners.worker.sdk_worker_main"
    )
    for environment in pipeline.components.environments.values():
        environment.urn = python_urns.SUBPROCESS_SDK
        environment.payload = harness.encode()
        del environment.dependencies[:]  # they are installed there
    result = FnApiRunner().run_via_runner_api(pipeline, PipelineOptions([]))
    result.wait_until_finish()
    found = result.metrics().query()["counters"]
    counted = {c.key.metric.name: c.committed for c in found}
    pathlib.Path(counters).write_text(json.dumps(counted))


if __name__ == "__main__":
    _main(*sys.argv[1:])
