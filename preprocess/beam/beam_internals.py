"""Names of Beam that are not public API, in one place, each with its reason.

tests/preprocess/test_runners.py notices what breaks here after an upgrade of Beam.
"""

import argparse
from typing import Any

from unet_tfrecords.command.errors import UserError


def unknown_options(arguments: list[str]) -> list[str]:
    """Returns the arguments that no option class of Beam knows.

    Beam itself only logs a warning for them, so that a typing error would change a job
    silently; and it has no public list of its options.

    Raises:
      UserError: the value of an option that Beam knows does not fit.
    """
    from apache_beam.options import pipeline_options

    parser = _parser(pipeline_options.PipelineOptions.__subclasses__())
    try:
        return parser.parse_known_args(arguments)[1]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"Beam's options: {error}") from error


def options_of(class_name: str, arguments: list[str]) -> dict[str, Any]:
    """Returns the options of one class of Beam's that are given, by their names."""
    from apache_beam.options import pipeline_options

    classes = pipeline_options.PipelineOptions.__subclasses__()
    parser = _parser([each for each in classes if each.__name__ == class_name])
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return vars(parser.parse_known_args(arguments)[0])


def _parser(option_classes):
    from apache_beam.options import pipeline_options

    class Parser(pipeline_options._BeamArgumentParser):
        def error(self, message):  # instead of pages of usage
            raise UserError(f"Beam's option: {message}")

    parser = Parser(add_help=False, allow_abbrev=False)
    for option_class in option_classes:
        option_class._add_argparse_args(parser)
    return parser


def keep_elements_whole() -> None:
    """Stops Beam's local runner from cutting elements in two, or losing them.

    With threads it flushes what a worker writes once a second, from another thread,
    even while the worker is writing an element (its own comment on `maybe_flush` warns
    of that). In a stage of seconds with 100,000 elements some were lost or came broken
    in most runs. Without a time limit it flushes by size, between elements, as Beam's
    workers elsewhere do. The limit is a constant without an option.
    """
    from apache_beam.runners.portability.fn_api_runner import worker_handlers

    worker_handlers.DATA_BUFFER_TIME_LIMIT_MS = 0


def stop_printing() -> None:
    """Stops a worker in this process from printing what it also logs and returns."""
    from apache_beam.runners.worker import sdk_worker

    vars(sdk_worker)["print"] = lambda *_, **__: None


def dataflow_job(result: Any) -> Any:
    """Returns Dataflow's job (id, project_id, location) behind a result, or None.

    `DataflowPipelineResult.job_id()` is public, but not where the job runs.
    """
    return getattr(result, "_job", None)


def job_id(result: Any) -> str | None:
    """Returns the id of a job of a job service, or None; its result has no accessor."""
    return getattr(result, "_job_id", None)
