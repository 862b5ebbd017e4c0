"""The whole of `predict`: reads, segments and writes in a pipeline, and goes on."""

import contextlib
import errno
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.export import artefact_layout
from trainer.inference.instances import InstanceRules, rules_from
from trainer.predict import runtimes
from trainer.predict.inputs import Job, find_jobs, page_names
from trainer.predict.outputs import (
    Choice,
    Result,
    Stacks,
    encoders,
    result_of,
    stack_name,
)
from trainer.predict.seen import Seen
from trainer.predict.workers import Pipeline
from unet_tfrecords.command import bars
from unet_tfrecords.command.errors import UserError, of_disk
from unet_tfrecords.dataset.images.formats import is_spread, read_image
from unet_tfrecords.storage import files, json_files, locks

FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
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
    rules: Mapping[str, Any] | None = None,
) -> tuple[int, int]:
    """Segments every image that has not been segmented yet.

    Args:
      model: a SavedModel's folder, or the folder of its versions.
      source: a folder or glob of images, or one file.
      output: the folder for what is written.
      choice: what that is; its rules are the model's own.
      runtime: tensorflow or onnx.
      tta: averages over the eight symmetries of the square.
      devices: above 0, the first device is split into so many logical ones.
      overwrite: whether what is there is made again.
      rules: those of `InstanceRules` that are to be other than the model's.

    Returns:
      How many images were segmented, and how many had been before.

    Raises:
      UserError: no model or no images, or outputs of another model there; or, after
        all others have been segmented, images that can't be read.
    """
    with locks.exclusive(output):
        files.remove_unfinished(output, older_s=0)
        version = artefact_layout.newest_version(model)
        about = artefact_layout.read_about(version)
        choice = choice._replace(rules=_rules(version, about, rules or {}))
        jobs, problems = find_jobs(source, output)
        names, more = _outputs_of(jobs, choice, output)
        problems += more
        record = _record(version, choice, runtime, tta or about.get("tta", False))
        there = files.updated_in(output)
        _check_record(output, record, overwrite)
        seen = Seen(output, record)
        if not overwrite:
            problems += _take_out_others(names, seen, output)
        todo = [
            job
            for job in names
            if overwrite or not seen.is_done(job, names[job], there)
        ]
        if todo:
            loaded = runtimes.load(version, runtime=runtime, tta=tta, devices=devices)
            if overwrite:
                # Or a stopped run would leave another model's outputs as its own.
                made = {path for job in todo for path in names[job]}
                files.remove([path for path in made if path in there])
            json_files.write(files.join(output, RECORD_NAME), record)
            done = len(names) - len(todo)
            problems += _segment_all(todo, loaded, about, choice, output, seen, done)
        if problems:
            raise UserError(problems)
        return len(todo), len(names) - len(todo)


def _segment_all(
    todo: list[Job],
    loaded: list[runtimes.Runtime],
    about: dict[str, Any],
    choice: Choice,
    output: str,
    seen: Seen,
    done: int,
) -> list[str]:
    """Takes images through the pipeline; a line for each that could not be made."""
    stacks = Stacks(output)
    pipeline = Pipeline(
        todo,
        read=lambda job: _read(job, about),
        workers=[runtime.segment for runtime in loaded],
        write=lambda job, image, made: _write(
            job, result_of(image, made, choice), choice, output, stacks, seen
        ),
    )
    try:
        problems = _run(pipeline, stacks, done)
    finally:
        unfinished = stacks.close(choice)
    return problems + unfinished


def _outputs_of(
    jobs: list[Job], choice: Choice, output: str
) -> tuple[dict[Job, list[str]], list[str]]:
    """Paths of each image's outputs, and a line for each that can have none."""
    names: dict[Job, list[str]] = {}
    owners: dict[str, Job] = {}
    problems: list[str] = []
    for job in jobs:
        try:
            stack = stack_name(job, choice)
            own = [*encoders(job, choice), *([stack] if stack else [])]
            if too_long := [n for n in own if len(os.fsencode(n)) > files.MOST_BYTES]:
                raise UserError(
                    f"{job.page}: its output {too_long[0]} would have a name of more "
                    f"than {files.MOST_BYTES} bytes; rename the image"
                )
            own = [files.join(output, name) for name in own]
        except UserError as error:
            problems += error.problems
            continue
        others = [owners[name] for name in own if name in owners]
        if any(other.page.path != job.page.path for other in others):
            problems.append(
                f"{job.page}: its outputs would overwrite those of {others[0].page}; "
                "rename one of them"
            )
            continue
        owners |= dict.fromkeys(own, job)
        names[job] = own
    return names, problems


def _take_out_others(names: dict[Job, list[str]], seen: Seen, output: str) -> list[str]:
    """Takes out images whose outputs would replace another's; a line for each."""
    others = {job: path for job in names if (path := seen.other_image(job))}
    for job in others:
        del names[job]
    return [
        f"{job.page}: {output} has outputs of that name of {path}; give another "
        "--output, or --overwrite"
        for job, path in others.items()
    ]


def _rules(
    version: str, about: dict[str, Any], changes: Mapping[str, Any]
) -> InstanceRules:
    """The model's rules with some changed."""
    own = about.get("postprocessing", {})
    return rules_from({**own, **changes}, files.join(version, artefact_layout.EXTRA))


def _record(version: str, choice: Choice, runtime: str, tta: bool) -> dict[str, Any]:
    """What outputs hang on, the images apart."""
    content = {
        "model_sha256": [
            files.sha256_of(path) for path in runtimes.model_files(version, runtime)
        ],
        "runtime": runtime,
        "tta": tta,
        **choice._asdict(),
        "rules": choice.rules._asdict(),
    }
    return json_files.as_read(content)


def _check_record(output: str, record: dict[str, Any], overwrite: bool) -> None:
    """Refuses to mix the outputs of two models, or of two settings, in one folder."""
    path = files.join(output, RECORD_NAME)
    if overwrite or not files.exists(path):
        return
    try:
        there = json_files.parse(files.read_bytes(path))
    except ValueError:
        there = {}
    if lines := json_files.differences(there, record, ""):
        raise UserError(
            f"{output}: holds outputs made otherwise ({'; '.join(lines)[:300]}); "
            "give another --output, or --overwrite"
        )


def _read(job: Job, about: dict[str, Any]) -> np.ndarray:
    """Reads an image whose intensities mean what they meant in training."""
    if about["normalization"] and is_spread(job.page):
        raise UserError(
            f"{job.page}: neither 8 nor 16 bit unsigned, where this model takes the "
            "training frames' mean and deviation for its intensities; convert it"
        )
    return read_image(job.page, about["channels"])


def _write(
    job: Job, result: Result, choice: Choice, output: str, stacks: Stacks, seen: Seen
) -> None:
    for name, encode in encoders(job, choice).items():
        files.write_bytes(files.join(output, name), encode(result))
    if not (stack := stack_name(job, choice)):
        seen.add({job.name: seen.image(job)})
    elif stacks.add(stack, job, result):
        pages = page_names(job.stack, job.pages)
        seen.add(dict.fromkeys(pages, seen.image(job)))


def _run(pipeline: Pipeline, stacks: Stacks, skipped: int) -> list[str]:
    """Runs a pipeline of jobs under a progress bar.

    Returns:
      A line for each image that could not be read, segmented or written.
    """
    problems: list[str] = []
    total = len(pipeline.items) + skipped
    running = pipeline.run()
    with (
        contextlib.closing(running),
        bars.bar(total=total, initial=skipped, unit="image") as bar,
    ):
        for job, error in running:
            if error is not None and _stops_all(error):
                raise UserError([*problems, *_lines_of(job, error)]) from error
            if error is not None and not isinstance(error, Exception):
                raise error  # Ctrl-C in a thread
            if error is not None:
                problems += _lines_of(job, error)
                stacks.abandon(job)
            bar.update()
    return problems


def _stops_all(error: BaseException) -> bool:
    """Whether the next image would fare no better: a full or read-only disk."""
    return isinstance(error, OSError) and error.errno in FATAL


def _lines_of(job: Job, error: BaseException) -> list[str]:
    """The lines of an error, each with its image."""
    if isinstance(error, OSError) and (text := of_disk(error)):
        return [f"{job.page}: {text}"]
    if not isinstance(error, UserError):
        text = " ".join(str(error).split())[:200]
        return [f"{job.page}: {type(error).__name__}: {text}"]
    return [
        line if line.startswith(job.page.path) else f"{job.page}: {line}"
        for line in error.problems
    ]
