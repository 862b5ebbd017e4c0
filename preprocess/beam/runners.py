"""Which engine runs the Beam job, and what it must be told for this one."""

import difflib
import importlib
import logging
import os
import re
from collections.abc import Sequence

from preprocess.beam import beam_internals, preflight
from unet_tfrecords.command import heavy_imports
from unet_tfrecords.command.errors import UserError

# Plain DirectRunner would first try to download another runner of Beam's (Prism).
LOCAL_RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
DASK_RUNNER = "apache_beam.runners.dask.dask_runner.DaskRunner"  # no short name
DASK_PARTITIONS = 32  # unless --dask_npartitions says how many


# The loggers of what Beam starts, and lines of theirs that nobody needs.
JOB_SERVERS = ("FlinkJarJobServer", "SparkJarJobServer", "PrismRunner")
# The level comes first, or after a date, a thread or both.
NOTE_OF_JAVA = re.compile(r"(NOTE|SLF4J): |[\d:/., -]*(\[.*?\] )?(INFO|DEBUG) ")
FATAL = re.compile("FATAL|OutOfMemoryError")

# Option classes of Beam's that only some runners read; others all do.
PORTABLE = preflight.PORTABLE_RUNNERS
READ_BY = {
    "DirectOptions": ("FnApiRunner",),
    "SetupOptions": (preflight.DATAFLOW_RUNNER, *PORTABLE),
    "TestOptions": (),
    "TypeOptions": (),
    "StreamingOptions": (),
    "GoogleCloudOptions": (preflight.DATAFLOW_RUNNER,),
    "WorkerOptions": (preflight.DATAFLOW_RUNNER, *PORTABLE),
    "PortableOptions": (preflight.DATAFLOW_RUNNER, *PORTABLE),
    "JobServerOptions": PORTABLE,
    "PrismRunnerOptions": ("PrismRunner",),
    "FlinkRunnerOptions": ("FlinkRunner", "PortableRunner"),
    "SparkRunnerOptions": ("SparkRunner", "PortableRunner"),
    "DebugOptions": (preflight.DATAFLOW_RUNNER, *PORTABLE),
    "ProfilingOptions": (preflight.DATAFLOW_RUNNER, *PORTABLE),
}


def parse_options(beam_args: list[str], own: Sequence[str] = ()):
    """Beam's options; by default its local runner on all cores.

    Args:
      beam_args: as typed.
      own: names of this command's flags and of config keys, to suggest.

    Raises:
      UserError: an option that neither this command nor Beam has, one that the runner
        does not read, or one missing.
    """
    with heavy_imports.loading("apache_beam"):
        from apache_beam.options import pipeline_options as beam_options
        from apache_beam.runners.runner import create_runner
        from apache_beam.transforms.resources import resource_hints_from_options

    if any("daskrunner" in argument.lower() for argument in beam_args):
        _load_dask()

    if unknown := beam_internals.unknown_options(beam_args):
        raise UserError(
            f"{' '.join(unknown)}: neither a flag of preprocess nor an option of Beam"
            f"{_meant(unknown[0], own)}; see --help"
        )
    try:
        options = beam_options.PipelineOptions(beam_args)
        options.get_all_options()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"Beam's options: {error}") from error
    standard = options.view_as(beam_options.StandardOptions)
    if (standard.runner or "direct").lower() in ("direct", "directrunner"):
        standard.runner = LOCAL_RUNNER
        if not any(arg.startswith("--direct_") for arg in beam_args):
            direct = options.view_as(beam_options.DirectOptions)
            direct.direct_running_mode = "multi_threading"
            direct.direct_num_workers = os.cpu_count() or 1
        beam_internals.keep_elements_whole()
    if standard.runner.lower() == "daskrunner":
        standard.runner = DASK_RUNNER
    try:
        name = type(create_runner(standard.runner)).__name__
    except (ValueError, TypeError, ImportError, AttributeError) as error:
        raise UserError(f"--runner={standard.runner}: {error}") from error
    if name in (preflight.DATAFLOW_RUNNER, *preflight.PORTABLE_RUNNERS):
        standard.runner = name  # Beam also takes dataflow, flinkrunner and the like
    _check_read(name, beam_args, own)
    if standard.runner == DASK_RUNNER:
        _spread_over_dask(options)
    preflight.check(options)
    try:
        resource_hints_from_options(options)  # else the pipeline ends in a traceback
    except ValueError as error:
        raise UserError(f"--resource_hint: {error}") from error
    if name == preflight.PRISM_RUNNER and not _has("--prism_log_level", beam_args):
        options.view_as(beam_options.PrismRunnerOptions).prism_log_level = "warn"
    return options


def _has(flag: str, arguments: Sequence[str]) -> bool:
    return any(argument.partition("=")[0] == flag for argument in arguments)


def _check_read(runner: str, beam_args: list[str], own: Sequence[str]) -> None:
    """Refuses options that the runner does not read: typing errors, mostly.

    Raises:
      UserError: each of them, with what may be meant.
    """
    problems = []
    shown = "the local runner" if runner == "FnApiRunner" else runner
    for class_name, runners in READ_BY.items():
        if runner in runners:
            continue
        for option, value in beam_internals.options_of(class_name, beam_args).items():
            problems.append(
                f"--{option}={value}: an option of Beam's that {shown} does not "
                f"read{_meant(option, own)}; leave it out"
            )
    if any(arg.startswith("--streaming") for arg in beam_args):
        problems.append("--streaming: a data set is made as a batch; leave it out")
    if problems:
        raise UserError(problems)


def _meant(argument: str, own: Sequence[str]) -> str:
    """Suggests the flag or config key whose name is nearest."""
    name = argument.lstrip("-").partition("=")[0]
    by_last_part = {each.rpartition(".")[2]: each for each in own}
    found = difflib.get_close_matches(name, by_last_part, 1, cutoff=0.75)
    return f" (--{by_last_part[found[0]]} is meant?)" if found else ""


def _load_dask() -> None:
    """Makes Beam know its Dask runner's options; it loads them only then.

    Raises:
      UserError: Dask is not installed.
    """
    try:
        importlib.import_module(DASK_RUNNER.rpartition(".")[0])
        importlib.import_module("dask.distributed")
    except ImportError as error:
        raise UserError(
            f"--runner=DaskRunner: {error}; pip install 'dask[distributed]' here and "
            "on the workers"
        ) from error


def _spread_over_dask(options) -> None:
    """Cuts the work into partitions; by default Beam makes one for one worker.

    Raises:
      UserError: there is no such scheduler.
    """
    from apache_beam.runners.dask.dask_runner import DaskOptions

    dask = options.view_as(DaskOptions)
    if dask.address:
        preflight.reach(
            f"--dask_client_address={dask.address}",
            "start a scheduler (`dask scheduler`) and workers",
        )
    if not dask.npartitions and not dask.partition_size:
        dask.npartitions = DASK_PARTITIONS


def parts_of(options) -> int:
    """Into how many parts the plan is cut: Dask never makes more partitions later."""
    given = options.get_all_options()
    if given["runner"] != DASK_RUNNER:
        return 1
    return given["npartitions"] or 1


def quieten() -> None:
    """Beam says too much, but for what a job far away says of itself."""
    beam_internals.stop_printing()
    logging.basicConfig()
    root = logging.getLogger()
    root.addFilter(_is_worth_showing)
    for handler in root.handlers:
        if type(handler) is logging.StreamHandler:
            handler.setFormatter(logging.Formatter("%(message)s"))
    levels: dict[str | None, int] = {
        None: logging.WARNING,
        "distributed": logging.WARNING,
        "apache_beam.runners.dataflow": logging.INFO,
        "apache_beam.runners.dataflow.internal": logging.CRITICAL,
        "apache_beam.runners.common": logging.CRITICAL,  # all of it is raised too
        "apache_beam.runners.worker": logging.CRITICAL,
        "apache_beam.utils.subprocess_server": logging.CRITICAL,
        **dict.fromkeys(JOB_SERVERS, logging.INFO),  # what Java says
    }
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    for name in JOB_SERVERS:
        logging.getLogger(name).removeFilter(_is_fatal)
        logging.getLogger(name).addFilter(_is_no_note)


def _is_worth_showing(record: logging.LogRecord) -> bool:
    """Beam logs failures on a job service, which it raises, and waiting for one."""
    is_failure = record.module == "portable_runner" and record.levelno >= logging.ERROR
    return not is_failure and record.module != "subprocess_server"


def _is_no_note(record: logging.LogRecord) -> bool:
    """Java notes each step, and its metrics on many lines."""
    return not NOTE_OF_JAVA.match(record.getMessage())


def silence_job_servers() -> None:
    """Shows only fatal errors of a job server once it has the job.

    The client raises all others.
    """
    for name in JOB_SERVERS:
        logging.getLogger(name).addFilter(_is_fatal)


def _is_fatal(record: logging.LogRecord) -> bool:
    return bool(FATAL.search(record.getMessage()))


class JobMayContinue(UserError):
    """Nobody waits for the job any more, which may go on all the same."""


def goes_on(result) -> bool:
    """Whether a job that was begun has not ended, as far as is known."""
    from apache_beam.runners.runner import PipelineState

    if result is None:
        return False
    try:
        return not PipelineState.is_terminal(result.state)
    except Exception:  # nothing else can be asked
        return True


def wait_for(result) -> None:
    """Waits for a job's end.

    Raises:
      KeyboardInterrupt: on Ctrl-C, having said what then goes on.
    """
    job, client = beam_internals.dataflow_job(result), getattr(result, "client", None)
    if job:
        print(f"job {job.id}: {_console(job)}", flush=True)
    if client and not client.nthreads():
        address = client.scheduler.address
        print(f"no worker yet; start some: dask worker {address}", flush=True)
    try:
        result.wait_until_finish()
    except (KeyboardInterrupt, Exception) as error:
        if job and (isinstance(error, KeyboardInterrupt) or goes_on(result)):
            print(
                f"\nDataflow goes on with job {job.id}; to end it: "
                f"gcloud dataflow jobs cancel {job.id} --project={job.project_id} "
                f"--region={job.location}"
            )
        elif there := beam_internals.job_id(result):
            if isinstance(error, KeyboardInterrupt):
                print(f"\nthe job service may go on with {there}")
        raise


def _console(job) -> str:
    """Where a browser shows a job on Dataflow."""
    page = "https://console.cloud.google.com/dataflow/jobs"
    return f"{page}/{job.location}/{job.id}?project={job.project_id}"


def counters_of(result) -> dict[str, int]:
    """Beam's counters by name; none from a runner that keeps none."""
    try:
        found = result.metrics().query()["counters"]
    except Exception:  # the data is there: how they count it must not matter
        return {}
    # Spark says only what was attempted.
    return {c.key.metric.name: c.result or 0 for c in found}
