"""What a runner needs, seen to before a job is sent: each lack is one line.

Beam would tell of it by tracebacks, one lack at a time, some after minutes.
"""

import importlib.metadata
import os
import pathlib
import re
import shutil
import socket
import time
import uuid

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.storage import stores

DATAFLOW_RUNNER = "DataflowRunner"
PRISM_RUNNER = "PrismRunner"
PORTABLE_RUNNERS = ("PortableRunner", "FlinkRunner", "SparkRunner", PRISM_RUNNER)
OWN_WORKERS = ("LOOPBACK", "EXTERNAL", "PROCESS")  # who start them installs them too
OWN_MASTERS = r"\[.*\]|local(\[.*\])?"  # of Flink, Spark: in the job server itself
# Beam's own, without our package; Google has copies.
PLAIN_IMAGE = r"(.*/)?beam_python\d\.\d+_sdk(:.*)?"
ANSWER_S = 5  # how long somebody who should answer is waited for
ADDRESS = r"[=/,]([^=/,]+):(\d+)/?$"  # in --flag=HOST:PORT, --flag=http://HOST:PORT
# Beam ends a job on a job service after this time, whatever its help says: 300 s.
JOB_SERVER_TIMEOUT_S = 30 * 24 * 3600
ROOT = pathlib.Path(__file__).resolve().parents[2]
WORKER_VERSIONS = ROOT / "requirements" / "worker.txt"


def check(options) -> None:
    """Checks what Beam's options name, and adds what follows from them.

    Raises:
      UserError: all that lacks.
    """
    runner = options.get_all_options()["runner"]
    if runner == DATAFLOW_RUNNER:
        _check_dataflow(options)
    if runner in PORTABLE_RUNNERS:
        _check_portable(options)
    if _makes_workers(options):
        _stage_package(options)


def _check_dataflow(options) -> None:
    """All that a job on Dataflow lacks, at once; Beam would tell of it one by one."""
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    given = options.get_all_options()
    wanted = {
        "project": "the Google Cloud project that pays",
        "region": "such as europe-west4, where the buckets are",
        "temp_location": "gs://BUCKET/tmp, for what is staged",
    }
    problems = [
        f"--runner={DATAFLOW_RUNNER} wants --{name}: {what}"
        for name, what in wanted.items()
        if not given[name]
    ]
    # For want of a bucket Beam would make one of its own.
    problems += [
        f"--{name}={given[name]}: must be gs://BUCKET/FOLDER"
        for name in ("temp_location", "staging_location")
        if given[name] and not re.match("gs://[^/]+/", given[name])
    ]
    problems += [
        f"--{name}: starts no job, so it makes no data; leave it out"
        for name in ("template_location", "dry_run")
        if given[name]
    ]
    if problems:
        raise UserError(problems)
    cloud = options.view_as(GoogleCloudOptions)
    if not cloud.job_name:  # else Beam's, which says nothing of what it is
        now, own = time.strftime("%m%d-%H%M%S"), uuid.uuid4().hex[:4]
        cloud.job_name = f"unet-preprocess-{now}-{own}"


def _check_portable(options) -> None:
    """Whether there is what a job service needs; Beam would tell by tracebacks.

    Raises:
      UserError: naming what isn't there and what to do.
    """
    from apache_beam.options import pipeline_options as beam_options

    portable = options.view_as(beam_options.PortableOptions)
    runner = options.view_as(beam_options.StandardOptions).runner
    portable.job_server_timeout = JOB_SERVER_TIMEOUT_S
    if portable.job_endpoint == "embed":
        return
    if portable.job_endpoint and re.search(ADDRESS, f"={portable.job_endpoint}"):
        reach(f"--job_endpoint={portable.job_endpoint}", "start the job service")
        return
    if portable.job_endpoint or runner == "PortableRunner":
        raise UserError(f"--runner={runner} wants --job_endpoint=HOST:PORT")
    if runner == PRISM_RUNNER:
        portable.environment_type = portable.environment_type or "LOOPBACK"
        binary = options.get_all_options()["prism_location"]
        if binary and "://" not in binary and not shutil.which(binary):
            raise UserError(f"--prism_location={binary}: no such program")
        return
    _check_own_job_server(options, runner.removesuffix("Runner").lower())


def _check_own_job_server(options, engine: str) -> None:
    """What a job server started from here needs: Java, its file, its cluster."""
    from apache_beam.options.pipeline_options import PortableOptions

    given = options.get_all_options()
    name = {"flink": "flink_master", "spark": "spark_master_url"}[engine]
    jar, java = given[f"{engine}_job_server_jar"], given["job_server_java_launcher"]
    if jar and "://" not in jar and not os.path.exists(jar):
        raise UserError(f"--{engine}_job_server_jar={jar}: no such file")
    if not given[f"{engine}_submit_uber_jar"] and not shutil.which(java):
        raise UserError(
            f"no {java} here, and Beam's job server for {engine.title()} is run by it; "
            "install Java (--job_server_java_launcher=PATH), or give --job_endpoint of "
            "a job server that runs"
        )
    if not re.fullmatch(OWN_MASTERS, given[name]):
        reach(f"--{name}={given[name]}", f"start {engine.title()}, or correct the name")
    elif not given["environment_type"]:  # as Beam would decide later
        options.view_as(PortableOptions).environment_type = "LOOPBACK"


def reach(flag: str, advice: str) -> None:
    """Sees that somebody answers at the address that a flag gives, if it gives one.

    Raises:
      UserError: nobody does, for some seconds.
    """
    address = re.search(ADDRESS, flag)
    if not address:
        return  # such as yarn
    host, port = address[1].strip("[]"), int(address[2])
    deadline = time.monotonic() + ANSWER_S
    while True:
        try:
            socket.create_connection((host, port), timeout=ANSWER_S).close()
            return
        except (OSError, OverflowError) as error:
            if time.monotonic() > deadline or not isinstance(error, ConnectionError):
                raise UserError(f"{flag}: nobody answers there; {advice}") from error
        time.sleep(0.5)


def check_places(options, *paths: str) -> None:
    """Refuses folders that only this machine has, where others do the work.

    Raises:
      UserError: naming each of them.
    """
    if not _makes_workers(options):
        return
    on_dataflow = options.get_all_options()["runner"] == DATAFLOW_RUNNER
    whose = "Dataflow's workers" if on_dataflow else "workers in containers"
    # Dataflow's workers have nobody's login of other stores.
    known = ("gs://", "http://", "https://") if on_dataflow else ("://",)
    if far := [path for path in paths if not any(each in path for each in known)]:
        raise UserError(
            [f"{path}: {whose} can't reach it; give gs://..." for path in far]
        )


def check_buckets(options) -> None:
    """Asks for the buckets that are staged to; Beam would try for minutes.

    Raises:
      UserError: which can't be had, and why.
    """
    given = options.get_all_options()
    if given["runner"] != DATAFLOW_RUNNER:
        return
    problems = []
    places = (given["temp_location"], given["staging_location"])
    for bucket in {stores.bucket_of(place) for place in places if place}:
        try:
            stores.children(bucket)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)


def _makes_workers(options) -> bool:
    """Whether the engine starts machines that have nothing of ours."""
    given = options.get_all_options()
    if given["runner"] == DATAFLOW_RUNNER:
        return True
    own = given.get("environment_type") in OWN_WORKERS
    return given["runner"] in PORTABLE_RUNNERS and not own


def _stage_package(options) -> None:
    """Has the workers install this package, in versions that make the same bytes.

    Raises:
      UserError: there is no source to build it from.
    """
    from apache_beam.options import pipeline_options as beam_options

    setup = options.view_as(beam_options.SetupOptions)
    if setup.setup_file:
        # Beam goes to the file's folder to build, and "setup.py" has none.
        setup.setup_file = os.path.abspath(setup.setup_file)
        if not os.path.isfile(setup.setup_file):
            raise UserError(f"--setup_file={setup.setup_file}: no such file")
        if setup.setup_file != str(ROOT / "setup.py"):
            return  # somebody else's package, and versions
    elif _has_own_image(options):
        return  # it is in there
    elif not (ROOT / "setup.py").exists():
        raise UserError(
            "the workers need this package: run from a checkout of it, or give "
            "--setup_file=PATH/setup.py or --sdk_container_image=IMAGE"
        )
    setup.setup_file = str(ROOT / "setup.py")
    if not setup.requirements_file:
        _check_own_beam()
        setup.requirements_file = str(WORKER_VERSIONS)
        setup.requirements_cache = "skip"  # workers fetch them, nothing is uploaded


def _check_own_beam() -> None:
    """Two versions of Beam in one job don't go together.

    Raises:
      UserError: this environment's is not the workers'.
    """
    version = importlib.metadata.version("apache-beam")
    if f"apache-beam=={version}\n" not in WORKER_VERSIONS.read_text():
        raise UserError(
            f"Beam {version} here is not that of {WORKER_VERSIONS.name}, which workers "
            "install; run this from the plain environment (without UNET_FLAVOUR)"
        )


def _has_own_image(options) -> bool:
    """Whether workers are started from an image other than Beam's plain one."""
    from apache_beam.options import pipeline_options as beam_options

    portable = options.view_as(beam_options.PortableOptions)
    image = (
        options.view_as(beam_options.WorkerOptions).sdk_container_image
        or portable.environment_config
        or portable.lookup_environment_option("docker_container_image")
    )
    return bool(image) and not re.fullmatch(PLAIN_IMAGE, image)
