"""A job on Dataflow: what is sent and staged, and that its workers can run it."""

import contextlib
import os
import pathlib
import signal
import subprocess
import tarfile
import threading

import pytest
from apache_beam.portability.api import beam_runner_api_pb2

from preprocess import main, plan
from preprocess.beam import preflight, runners
from tests.cloud import dataflow, stores
from tests.cloud.worker import Worker
from tests.commands import ROOT, TINY, mistakes, process, run, started
from tests.conftest import until
from unet_tfrecords.command.errors import UserError

BUCKET = f"gs://{stores.BUCKET}"
CONFIG = (*TINY, "--config.data.num_shards=3")
PLACES = (f"--input={BUCKET}/raw", f"--output={BUCKET}/data")
ON_DATAFLOW = (
    "--runner=DataflowRunner",
    f"--project={dataflow.PROJECT}",
    f"--region={dataflow.REGION}",
    f"--temp_location={BUCKET}/tmp",
)
WORKERS = (
    "--worker_machine_type=n2-highcpu-4",
    "--disk_size_gb=30",
    "--num_workers=2",
    "--max_num_workers=7",
)


@pytest.fixture
def front(front, cells):
    """A bucket with the drawn cells in it."""
    front.upload(cells, "raw")
    return front


@pytest.fixture
def environment(front, tmp_path):
    """For a process that meets this bucket as Google's."""
    return {**dataflow.login(tmp_path), "STORAGE_EMULATOR_HOST": front.address}


@pytest.fixture
def in_environment(environment, monkeypatch):
    """This process meets it too."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def command(service, *more: str) -> list[str]:
    endpoint = f"--dataflow_endpoint={service.endpoint}"
    given = (*CONFIG, *PLACES, *ON_DATAFLOW, endpoint, *more)
    return ["./launch.sh", "preprocess", *given]


def send(service, environment, *more: str):
    return process(*command(service, *more), env=environment, timeout=240)


@pytest.mark.long
@pytest.mark.usefixtures("in_environment")  # for the workers
def test_workers_run_what_was_staged(cells, front, environment, digests, tmp_path):
    """From the command to the data set, by workers made of the staged files alone."""
    worker = Worker(front, tmp_path)
    with dataflow.service(worker) as service:
        done = send(service, environment, *WORKERS)
    assert done.returncode == 0, done.stderr + service.complaint
    # The request.
    [job] = service.jobs
    assert job["type"] == 1  # batch
    assert job["name"].startswith("unet-preprocess-")
    [pool] = job["environment"]["workerPools"]
    assert pool["machineType"] == "n2-highcpu-4" and pool["diskSizeGb"] == 30
    assert pool["numWorkers"] == 2
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 7
    packages = {package["name"] for package in pool["packages"]}
    listed = "submission_environment_dependencies.txt"  # Beam's own, for its log
    assert packages == {"workflow.tar.gz", "requirements.txt", listed}
    versions = (ROOT / "requirements/worker.txt").read_text()
    assert (worker.staged / "requirements.txt").read_text() == versions
    staged = [name for name in front.names("tmp/") if name.endswith("/pipeline.pb")]
    assert len(staged) == 1
    # Its steps.
    content = (worker.staged / "pipeline.pb").read_bytes()
    pipeline = beam_runner_api_pb2.Pipeline.FromString(content)
    steps = {t.unique_name for t in pipeline.components.transforms.values()}
    assert {"ReadPlan/Spread", "InspectFrames/Inspect", "Info"} <= steps
    assert {"WriteShards/Group", "WriteShards/Write"} <= steps
    # The environment.
    assert "No module named 'tensorflow'" in worker.says("import tensorflow")
    place = worker.says("import preprocess.beam.pipeline as job; print(job.__file__)")
    assert place.startswith(str(worker.environment))
    with tarfile.open(worker.staged / "workflow.tar.gz") as archive:
        kinds = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert {"preprocess", "configs"} <= kinds and not {"tests", "docs"} & kinds
    # What came of it.
    assert f"jobs/{dataflow.REGION}/{dataflow.JOB_ID}" in done.stdout
    assert "637 tiles, 637 of them made" in done.stdout
    assert "INFO" not in done.stderr and "sdk_pipeline_options" not in done.stderr
    made = front.fetch("data/", tmp_path / "made")
    assert run("preprocess", *CONFIG, input=cells, output=tmp_path / "here") == 0
    assert digests(made / "data") == digests(tmp_path / "here")


@pytest.mark.slow
def test_a_failed_job_has_one_line(front, environment):
    """Of the workers' own mistake; of any other, the last line that they said."""

    def told(complaint: str, *more: str) -> list[str]:
        def fails(job):
            raise RuntimeError(complaint)

        with dataflow.service(fails) as service:
            done = send(service, environment, *more)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr.replace(complaint, "")
        assert front.names("data/") == []
        return done.stderr.splitlines()

    trace = "Traceback (most recent call last):\n  File 'x'\n"
    lines = told(
        f"{trace}unet_tfrecords.command.errors.UserError: gs://models/raw/01/t001.tif: "
        "no such file [while running 'InspectFrames/Inspect']"
    )
    assert lines[-1] == "preprocess: gs://models/raw/01/t001.tif: no such file"
    lines = told("Workflow failed. Causes: quota of CPUS exceeded in region.")
    start = "preprocess: --runner=DataflowRunner: Workflow failed. Causes: quota of "
    assert lines[-1].startswith(start)
    path = lines[-1].split("all that was said: ")[1]
    assert "quota of CPUS exceeded" in pathlib.Path(path).read_text()
    os.remove(path)


@pytest.mark.slow
def test_a_refused_job_has_one_line(front, environment):
    with dataflow.service(lambda job: {}) as service:
        service.refusal = 403, "Dataflow API has not been used in project my-project"
        done = send(service, environment)
    assert done.returncode == 2 and not service.jobs
    line = done.stderr.splitlines()[-1]
    assert line.startswith("preprocess: --runner=DataflowRunner: 403 POST ")
    assert "Dataflow API has not been used" in line
    assert "Traceback" not in done.stderr
    assert front.names("data/") == []


@pytest.mark.slow
def test_ctrl_c_says_how_to_end_the_job(front, environment):
    over = threading.Event()

    def lasts(job):
        over.wait(100)
        return {}

    with dataflow.service(lasts) as service:
        job = started(*command(service), env={**environment, "PYTHONFAULTHANDLER": "1"})
        until(job, lambda: service.asked)
        for _ in range(3):  # Python forgets one that comes while it collects garbage
            job.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.wait(25)
                break
        else:
            job.send_signal(signal.SIGABRT)  # Python then says where it hangs
        over.set()
        out, err = job.communicate(timeout=25)
    assert job.returncode == 130, err
    cancel = f"gcloud dataflow jobs cancel {dataflow.JOB_ID} "
    assert f"{cancel}--project=my-project --region=europe-west4" in out
    assert "Traceback" not in err
    # Workers may be at it still: they need their plan, and nobody else may begin there
    # with another config.
    note, planned = front.names("data/")
    assert note == f"data/{main.JOB_NAME}"
    assert planned.startswith(f"data/{plan.PLAN_NAME}-")


# --- What is checked before anything is sent -----------------------------------------


def test_all_that_lacks_is_listed():
    given = ["--runner=DataflowRunner", "--template_location=gs://b"]
    lines = mistakes(runners.parse_options, given)
    assert [line.split(":")[0] for line in lines] == [
        "--runner=DataflowRunner wants --project",
        "--runner=DataflowRunner wants --region",
        "--runner=DataflowRunner wants --temp_location",
        "--template_location",
    ]
    with pytest.raises(UserError, match="--temp_location=b/tmp: must be gs://BUCKET/"):
        runners.parse_options([*ON_DATAFLOW[:-1], "--temp_location=b/tmp"])


@pytest.mark.parametrize("name", ["dataflow", "Dataflow", "dataflowrunner"])
def test_beams_short_names(name):
    options = runners.parse_options([f"--runner={name}", *ON_DATAFLOW[1:]])
    given = options.get_all_options()
    assert given["runner"] == "DataflowRunner" and given["setup_file"]


@pytest.mark.usefixtures("in_environment")
def test_what_beam_refuses_is_a_line_each(front, capsys):
    wrong = ("--project=1234", "--num_workers=9", "--max_num_workers=7")
    assert run("preprocess", *CONFIG, *PLACES, *ON_DATAFLOW, *wrong) == 2
    start = "preprocess: --runner=DataflowRunner: "
    first, second = capsys.readouterr().err.splitlines()[-2:]
    assert first.startswith(f"{start}Invalid Project ID (1234). Please make sure")
    assert second == f"{start}num_workers (9) cannot exceed max_num_workers (7)"
    assert front.names("data/") == []


def test_local_folders_are_refused_by_name():
    options = runners.parse_options([*ON_DATAFLOW])
    preflight.check_places(options, "gs://b/in", "gs://b/out")
    places = "in", "gs://b/out", "/out", "s3://b/out"
    told = "Dataflow's workers can't reach it; give gs://..."
    lines = [f"{path}: {told}" for path in ("in", "/out", "s3://b/out")]
    assert mistakes(preflight.check_places, options, *places) == lines


@pytest.mark.usefixtures("in_environment")
def test_buckets_to_stage_to_are_asked_for(front, capsys):
    wrong = [*ON_DATAFLOW[:-1], "--temp_location=gs://nobucket/tmp"]
    assert run("preprocess", *CONFIG, *PLACES, *wrong) == 2
    assert "no bucket gs://nobucket" in capsys.readouterr().err
    assert front.names("data/") == []


def test_two_versions_of_beam_are_refused(monkeypatch):
    monkeypatch.setattr(preflight.importlib.metadata, "version", lambda _: "2.75.0")
    with pytest.raises(UserError, match="Beam 2.75.0 here is not that of worker.txt"):
        runners.parse_options([*ON_DATAFLOW])


def test_what_is_staged(monkeypatch, tmp_path):
    def staged(*more: str):
        options = runners.parse_options([*ON_DATAFLOW, *more])
        given = options.get_all_options()
        return given["setup_file"], given["requirements_file"]

    own = str(ROOT / "setup.py"), str(ROOT / "requirements/worker.txt")
    assert staged() == own
    monkeypatch.chdir(ROOT)
    assert staged("--setup_file=setup.py") == staged("--setup_file=./setup.py") == own
    assert staged("--requirements_file=other.txt") == (own[0], "other.txt")
    assert staged("--sdk_container_image=eu.gcr.io/p/unet:1") == (None, None)
    for plain in ("apache/beam_python3.11_sdk:2.77.0", "gcr.io/d/beam_python3.11_sdk"):
        assert staged(f"--sdk_container_image={plain}") == own
    other = tmp_path / "setup.py"
    other.touch()
    assert staged(f"--setup_file={other}") == (str(other), None)
    with pytest.raises(UserError, match="--setup_file=/nowhere/setup.py: no such file"):
        staged("--setup_file=/nowhere/setup.py")
    monkeypatch.setattr(preflight, "ROOT", tmp_path / "installed")
    with pytest.raises(UserError, match="run from a checkout of it, or give --setup_f"):
        staged()
