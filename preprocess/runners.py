"""Which engine runs the Beam job, and what it must be told for this one."""

import importlib
import logging
import os
import pathlib

from preprocess.errors import UserError

# Plain DirectRunner would first try to download another runner of Beam's (Prism).
LOCAL_RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
DASK_RUNNER = "apache_beam.runners.dask.dask_runner.DaskRunner"  # no short name
DASK_PARTITIONS = 32  # unless --dask_npartitions says how many
DATAFLOW_RUNNER = "DataflowRunner"
PORTABLE_RUNNERS = ("PortableRunner", "FlinkRunner", "SparkRunner")
OWN_WORKERS = ("LOOPBACK", "EXTERNAL", "PROCESS")  # who start them installs them too
ROOT = pathlib.Path(__file__).resolve().parent.parent
WORKER_VERSIONS = ROOT / "requirements" / "worker.txt"


def parse_options(beam_args: list[str]):
    """Beam's options; by default its local runner on all cores.

    Raises:
      UserError: an option that neither this command nor Beam has, or one missing.
    """
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options import pipeline_options as beam_options
    from apache_beam.runners.runner import create_runner

    if any("DaskRunner" in argument for argument in beam_args):
        _load_dask()

    class Parser(beam_options._BeamArgumentParser):
        def error(self, message):  # instead of pages of usage
            raise UserError(f"Beam's option: {message}")

    parser = Parser(add_help=False, allow_abbrev=False)
    for option_class in beam_options.PipelineOptions.__subclasses__():
        option_class._add_argparse_args(parser)
    _, unknown = parser.parse_known_args(beam_args)
    if unknown:
        raise UserError(
            f"{' '.join(unknown)}: neither a flag of preprocess nor an option of Beam; "
            "see --help"
        )
    options = beam_options.PipelineOptions(beam_args)
    standard = options.view_as(beam_options.StandardOptions)
    if standard.runner in (None, "DirectRunner"):
        standard.runner = LOCAL_RUNNER
        if not any(arg.startswith("--direct_") for arg in beam_args):
            direct = options.view_as(beam_options.DirectOptions)
            direct.direct_running_mode = "multi_threading"
            direct.direct_num_workers = os.cpu_count() or 1
        _keep_elements_whole()
    if standard.runner == "DaskRunner":
        standard.runner = DASK_RUNNER
    if standard.runner == DASK_RUNNER:
        _spread_over_dask(options)
    try:
        create_runner(standard.runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"--runner={standard.runner}: {error}") from error
    if standard.runner == DATAFLOW_RUNNER:
        _check_dataflow(options)
    if _makes_workers(options):
        _stage_package(options)
    FileSystems.set_options(options)  # this process reads and writes there too
    return options


def _keep_elements_whole() -> None:
    """Stops Beam's local runner from cutting elements in two, or losing them.

    With threads it flushes what a worker writes once a second, from another thread,
    though the worker may be in the midst of an element (its own comment on
    `maybe_flush` warns of that). In a stage of seconds with 100,000 elements some were
    lost or came broken in most runs. Without a time limit it flushes by size, between
    elements, as Beam's workers elsewhere do.
    """
    from apache_beam.runners.portability.fn_api_runner import worker_handlers

    worker_handlers.DATA_BUFFER_TIME_LIMIT_MS = 0


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
    """Cuts the work into partitions; by default Beam makes one for one worker."""
    from apache_beam.runners.dask.dask_runner import DaskOptions

    dask = options.view_as(DaskOptions)
    if not dask.npartitions and not dask.partition_size:
        dask.npartitions = DASK_PARTITIONS


def parts_of(options) -> int:
    """Into how many parts the plan is cut: Dask never makes more partitions later."""
    given = options.get_all_options()
    if given["runner"] != DASK_RUNNER:
        return 1
    return given["npartitions"] or 1


def _check_dataflow(options) -> None:
    """All that a job on Dataflow lacks, at once; Beam would tell of it one by one."""
    given = options.get_all_options()
    wanted = {
        "project": "the Google Cloud project that pays",
        "region": "such as europe-west4, where the buckets are",
        "temp_location": "gs://BUCKET/tmp, for what is staged",
    }
    lacking = [
        f"--runner={DATAFLOW_RUNNER} wants --{name}: {what}"
        for name, what in wanted.items()
        if not given[name]
    ]
    if lacking:
        raise UserError(lacking)


def check_places(options, *paths: str) -> None:
    """Refuses folders that only this machine has, where others do the work.

    Raises:
      UserError: naming each of them.
    """
    if options.get_all_options()["runner"] != DATAFLOW_RUNNER:
        return
    if local := [path for path in paths if "://" not in path]:
        raise UserError(
            [
                f"{path}: Dataflow's workers can't reach it; give gs://..."
                for path in local
            ]
        )


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
    if options.view_as(beam_options.WorkerOptions).sdk_container_image:
        return  # it is in there
    if setup.setup_file:
        # Beam goes to the file's folder to build, and "setup.py" has none.
        setup.setup_file = os.path.abspath(setup.setup_file)
        return
    if not (ROOT / "setup.py").exists():
        raise UserError(
            "the workers need this package: run from a checkout of it, or give "
            "--setup_file=PATH/setup.py or --sdk_container_image=IMAGE"
        )
    setup.setup_file = str(ROOT / "setup.py")
    if not setup.requirements_file:
        setup.requirements_file = str(WORKER_VERSIONS)
        setup.requirements_cache = "skip"  # workers fetch them, nothing is uploaded


def quieten() -> None:
    """Beam's loggers say too much, but for what a job far away says of itself."""
    for name in (None, "distributed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("apache_beam.runners.dataflow").setLevel(logging.INFO)


def wait_for(result) -> None:
    """Waits for a job's end.

    Raises:
      KeyboardInterrupt: on Ctrl-C, having said what then goes on.
    """
    try:
        result.wait_until_finish()
    except KeyboardInterrupt:
        if job := getattr(result, "_job", None):
            print(
                f"\nDataflow goes on with job {job.id}; to end it: "
                f"gcloud dataflow jobs cancel {job.id} --region={job.location}"
            )
        raise


def counters_of(result) -> dict[str, int]:
    """Beam's counters by name; none from a runner that keeps none."""
    try:
        found = result.metrics().query()["counters"]
    except Exception:  # the data is there: how they count it must not matter
        return {}
    return {c.key.metric.name: c.committed or 0 for c in found}
