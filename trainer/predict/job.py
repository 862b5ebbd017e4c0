"""The whole of `predict`: reads, segments and writes in a pipeline, and goes on."""

import contextlib
import json
import sys
from typing import Any

from tqdm import tqdm

from preprocess import files
from preprocess.errors import UserError
from preprocess.images import read_image
from preprocess.shards import as_json, differences, sha256_of
from trainer.export import layout
from trainer.predict import runtimes
from trainer.predict.images import Job, find_jobs
from trainer.predict.outputs import (
    Choice,
    Result,
    Stacks,
    encoders,
    result_of,
    stack_name,
)
from trainer.predict.pipeline import Pipeline

RECORD_NAME = "predict.json"  # which model made what lies here, and how


def predict(
    model: str,
    source: str,
    output: str,
    choice: Choice,
    *,
    runtime: str = "tensorflow",
    tta: bool = False,
    devices: int = 0,
    overwrite: bool = False,
) -> tuple[int, int]:
    """Segments every image that has not been segmented yet.

    Args:
      model: a SavedModel's folder, or the folder of its versions.
      source: a folder or glob of images, or one file.
      output: the folder for what is written.
      choice: what that is.
      runtime: tensorflow or onnx.
      tta: averages over the eight symmetries of the square.
      devices: above 0, the first device is split into so many logical ones.
      overwrite: whether what is there is made again.

    Returns:
      How many images were segmented, and how many had been before.

    Raises:
      UserError: no model or no images, or outputs of another model there; or, after
        all others have been segmented, images that can't be read.
    """
    version = layout.newest_version(model)
    jobs, problems = find_jobs(source, output)
    names, more = _outputs_of(jobs, choice)
    problems += more
    jobs = [job for job in jobs if job in names]
    about = layout.read_about(version)
    record = _record(version, choice, runtime, tta or about.get("tta", False))
    there = files.updated_in(output)
    _check_record(output, record, overwrite)
    todo = [job for job in jobs if overwrite or not _is_done(job, names, output, there)]
    if todo:
        segmenters = runtimes.load(version, runtime=runtime, tta=tta, devices=devices)
        files.write_bytes(files.join(output, RECORD_NAME), as_json(record))
        stacks = Stacks(output)
        pipeline = Pipeline(
            todo,
            read=lambda job: read_image(job.page, about["channels"]),
            workers=[segmenter.segment for segmenter in segmenters],
            write=lambda job, image, made: _write(
                job, result_of(image, made, choice), choice, output, stacks
            ),
        )
        problems += _run(pipeline, skipped=len(jobs) - len(todo))
        problems += stacks.close()
    if problems:
        raise UserError(problems)
    return len(todo), len(jobs) - len(todo)


def _outputs_of(
    jobs: list[Job], choice: Choice
) -> tuple[dict[Job, list[str]], list[str]]:
    """Names of each image's outputs, and a line for each that can have none."""
    names: dict[Job, list[str]] = {}
    problems: list[str] = []
    for job in jobs:
        try:
            stack = stack_name(job, choice)
            names[job] = [*encoders(job, choice), *([stack] if stack else [])]
        except UserError as error:
            problems += error.problems
    return names, problems


def _record(version: str, choice: Choice, runtime: str, tta: bool) -> dict[str, Any]:
    """What outputs hang on, the images apart."""
    content = {
        "model_sha256": sha256_of(runtimes.model_file(version, runtime)),
        "runtime": runtime,
        "tta": tta,
        **choice._asdict(),
        "instances": choice.instances and choice.instances._asdict(),
    }
    return json.loads(json.dumps(content))


def _check_record(output: str, record: dict[str, Any], overwrite: bool) -> None:
    """Refuses to mix the outputs of two models, or of two settings, in one folder."""
    path = files.join(output, RECORD_NAME)
    if overwrite or not files.exists(path):
        return
    try:
        there = json.loads(files.read_bytes(path))
    except ValueError:
        there = {}
    if lines := differences(there, record, ""):
        raise UserError(
            f"{output}: holds outputs made otherwise ({'; '.join(lines)[:300]}); "
            "give another --output, or --overwrite"
        )


def _is_done(
    job: Job, names: dict[Job, list[str]], output: str, there: dict[str, float]
) -> bool:
    """Whether all outputs are there and the image has not changed since."""
    times = [there.get(files.join(output, name)) for name in names[job]]
    return all(time is not None and time >= job.updated for time in times)


def _write(
    job: Job, result: Result, choice: Choice, output: str, stacks: Stacks
) -> None:
    for name, encode in encoders(job, choice).items():
        files.write_bytes(files.join(output, name), encode(result))
    if stack := stack_name(job, choice):
        stacks.add(stack, job, result)


def _run(pipeline: Pipeline, skipped: int) -> list[str]:
    """Runs a pipeline of jobs under a progress bar.

    Returns:
      A line for each image that could not be read, segmented or written.
    """
    problems: list[str] = []
    total = len(pipeline.items) + skipped
    running = pipeline.run()
    with (
        contextlib.closing(running),
        tqdm(total=total, initial=skipped, unit="image", file=sys.stderr) as bar,
    ):
        for job, error in running:
            if isinstance(error, UserError):
                problems += _named(job, error)
            elif error is not None:
                raise error
            bar.update()
    return problems


def _named(job: Job, error: UserError) -> list[str]:
    """The lines of an error, each with its image."""
    return [
        line if line.startswith(job.page.path) else f"{job.page}: {line}"
        for line in error.problems
    ]
