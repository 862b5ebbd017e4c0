"""Segments all images of a folder: reads, segments and writes several at a time."""

import collections
import errno
import itertools
import os
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np

from trainer.export import artefact_layout
from trainer.inference.instances import InstanceRules, rules_from
from trainer.predict import object_table, outputs, runtimes
from trainer.predict.blocks import results, segment
from trainer.predict.blocks.results import Setup, is_by_blocks
from trainer.predict.blocks.scratch import DoneElsewhere, Scratch
from trainer.predict.inputs import Job, find_jobs, with_neighbours
from trainer.predict.ordered_map import ordered_map
from trainer.predict.prediction_record import PredictionRecord, inside_image
from unet_tfrecords.command import bars
from unet_tfrecords.command.errors import UserError, of_disk
from unet_tfrecords.dataset.images.formats import FOLDER_ENDING, is_spread, read_images
from unet_tfrecords.dataset.images.pages import Planes
from unet_tfrecords.storage import files, json_files, local_copies, locks

FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# Images in work for each device: one on it, some read ahead, some being encoded, since
# a mask and its overlay take longer than a GPU takes for the image.
AHEAD, WRITERS, LEAST_WRITERS = 2, 2, 2
BLOCK_PX = 2048
WINDOW = 16  # images, times those in work, that may be done before a slow one is


def predict(
    model: str,
    source: str,
    output: str,
    choice: outputs.Choice,
    *,
    runtime: str = "tensorflow",
    tta: bool = False,
    devices: int = 0,
    overwrite: bool = False,
    rules: Mapping[str, Any] | None = None,
    edge_px: int | None = None,
    level: int | None = None,
    times: tuple[int, ...] = (),
    slices: tuple[int, ...] = (),
    block_px: int = BLOCK_PX,
    is_shared: bool = False,
) -> tuple[int, int]:
    """Segments every image that has not been segmented yet.

    Args:
      model: a SavedModel's folder, or the folder of its versions.
      source: a folder or glob of images, or one file.
      output: the folder for what is written.
      choice: what that is; its rules are the model's own.
      runtime: tensorflow or onnx.
      tta: averages over the eight symmetries of the square.
      devices: above 0, into how many logical ones the first device is split.
      overwrite: whether what is there is made again.
      rules: those of `InstanceRules` that are to be other than the model's.
      edge_px: see `outputs.Choice`; None takes the model's, whose data set has one.
      level: of OME-Zarrs, which resolution; None takes the model's.
      times, slices: of OME-Zarrs, which images; () takes all.
      block_px: side of the blocks of images that are segmented by blocks.
      is_shared: whether other processes share these blocks, with the same output.

    Returns:
      How many images were segmented, and how many had been before.

    Raises:
      UserError: no model or no images, or outputs of another model there; or, after
        all others have been segmented, images that can't be read.
    """
    if is_shared and overwrite:
        raise UserError(
            "--overwrite: with --shared nobody can tell what is made again already; "
            "remove the outputs instead"
        )
    with locks.shared(output) if is_shared else locks.exclusive(output):
        version = artefact_layout.newest_version(model)
        about = artefact_layout.read_about(version)
        choice = choice._replace(
            rules=_rules(version, about, rules or {}),
            selected_channels=tuple(about.get("selected_channels", ())),
            edge_px=_edge_px(choice, about, edge_px),
        )
        is_chosen = level is not None or times or slices
        level = about.get("level", 0) if level is None else level
        planes = Planes(level, times, slices) if is_chosen else None
        jobs, problems = find_jobs(source, output, planes, level=level)
        if offsets := tuple(about.get("neighbours", ())):
            jobs, alone = with_neighbours(jobs, offsets)
            problems += alone
        names, more = _outputs_of(jobs, choice, output)
        problems += more
        if is_shared and (whole := [j for j in names if not is_by_blocks(j, choice)]):
            raise UserError(
                f"{whole[0].page}: is segmented in one piece, which --shared does not "
                "share; give --format=ome-zarr or ome-tiff"
            )
        written = {os.path.dirname(path) for paths in names.values() for path in paths}
        for folder in {output, *written} if not is_shared else ():
            files.remove_unfinished(folder, older_s=0)
        tta = tta or about.get("tta", False)
        settings = _settings(version, choice, runtime, tta, level)
        there = files.updated_below(output)
        there |= {
            path: 0.0
            for paths in names.values()
            for path in paths
            # Hidden, or not below the output.
            if results.is_marker(path) and files.exists(path)
        }
        record = PredictionRecord(
            output, settings, overwrite=overwrite, is_shared=is_shared
        )
        if not overwrite:
            problems += _take_out_others(names, record, output)
        todo = _unfinished(names, choice, record, there, overwrite)
        if todo:
            loaded = runtimes.load(version, runtime=runtime, tta=tta, devices=devices)
            # Or a stopped run would leave outputs of before beside new ones.
            old = [path for job in todo for path in names[job] if path in there]
            if old and record.is_new and not overwrite and not is_shared:
                raise UserError(
                    f"{old[0]}: is there, and no predict.json says of which image; "
                    "give another --output, or --overwrite"
                )
            apart = [job for job in todo if is_by_blocks(job, choice)]
            todo_whole = [job for job in todo if not is_by_blocks(job, choice)]
            if not is_shared:  # or others have noted some of these meanwhile
                record.forget(job.name for job in todo)
                record.write()
            files.remove([p for j in todo_whole for p in names[j] if p in there])
            done = len(names) - len(todo)
            setup = Setup(about, choice, loaded, tta, output, block_px, is_shared)
            try:
                if todo_whole:
                    problems += _segment_all(
                        todo_whole, loaded, about, choice, output, record, done
                    )
                for job in apart:
                    problems += _segment_by_blocks(job, setup, record)
            finally:  # without hiding what ended it
                problems += _written(record)
        if choice.table:
            object_table.join(output, (job.name for job in names))
        if problems:
            raise UserError(problems)
        return len(todo), len(names) - len(todo)


def _segment_by_blocks(job: Job, setup: Setup, record: PredictionRecord) -> list[str]:
    """Segments and writes an image; returns a line for what was wrong with it."""
    folder, _, name = job.name.rpartition("/")
    parts = (*([folder] if folder else []), f".{name}.blocks")
    paths = results.paths_of(job, setup.choice, setup.output)
    if setup.is_shared and record.is_done_elsewhere(job):
        return []
    note = record.note_of(job)
    made_by = {
        "image": msgspec.to_builtins(note),
        "block_px": setup.block_px,
        "tta": setup.tta,
    }
    place = files.join(setup.output, *parts)
    before = _state_of(job)
    try:
        while True:
            scratch = Scratch(place, made_by, is_shared=setup.is_shared)
            try:
                segment.segment(job, setup, scratch)
            except DoneElsewhere:
                break
            if _state_of(job) != before:
                raise UserError("has changed since this began; run it again")
            if all(map(files.exists, paths)):
                record.add([job.name], note)
                record.write()
                scratch.remove()
                break
            scratch.remove()  # somebody has removed outputs that were there
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FATAL:
            raise
        return _lines_of(job, error)
    record.add([job.name], note)
    return []


def _state_of(job: Job) -> list[Any]:
    """What becomes another when a file of an image changes, wherever it is."""
    paths = dict.fromkeys(page.path for page in (job.page, *job.neighbours))
    return [
        inside_image(path)
        if path.lower().endswith(FOLDER_ENDING)
        else local_copies.version_of(path, is_new=True)
        for path in paths
    ]


def _unfinished(
    names: dict[Job, list[str]],
    choice: outputs.Choice,
    record: PredictionRecord,
    there: Mapping[str, float],
    overwrite: bool,
) -> list[Job]:
    """The images to segment; of a stack that is one output, all pages or none."""
    todo = {
        job
        for job, paths in names.items()
        if overwrite
        or not (all(path in there for path in paths) and record.is_done(job))
    }
    stacks = {outputs.stack_name(job, choice) for job in todo} - {None}
    return [
        job for job in names if job in todo or outputs.stack_name(job, choice) in stacks
    ]


def _written(record: PredictionRecord) -> list[str]:
    """Writes the record; returns a line if that fails."""
    try:
        record.write()
    except OSError as error:
        return [of_disk(error) or str(error)]
    except UserError as error:
        return error.problems
    return []


class _GiveUp(UserError):
    """The next image would fare no better."""


class _Stopped(Exception):
    """The run is ending: this image is left."""


def _segment_all(
    todo: list[Job],
    loaded: list[runtimes.Runtime],
    about: dict[str, Any],
    choice: outputs.Choice,
    output: str,
    record: PredictionRecord,
    done: int,
) -> list[str]:
    """Segments and writes images; returns a line for each that could not be made."""
    free: queue.SimpleQueue[runtimes.Runtime] = queue.SimpleQueue()
    for runtime in loaded:
        free.put(runtime)
    stopping = threading.Event()

    def process(job: Job) -> np.ndarray | None:
        """Writes an image's outputs; returns its page of a stack."""
        image = _read(job, about, choice.selected_channels)
        runtime = free.get()
        try:
            if stopping.is_set():
                raise _Stopped
            made = runtime.segment(image)
        finally:
            free.put(runtime)
        own = image[..., : image.shape[2] // (1 + len(job.neighbours))]
        result = outputs.result_of(own, made, choice)
        for name, encode in outputs.encoders(job, choice).items():
            files.write_bytes(files.join(output, name), encode(result))
        if outputs.stack_name(job, choice):  # the caller makes one file of the pages
            return np.ascontiguousarray(made.probabilities[..., 1])
        record.add([job.name], record.note_of(job))
        return None

    problems: list[str] = []
    threads = threads_for(len(loaded))
    has_pages = any(outputs.stack_name(job, choice) for job in todo)
    window = threads if has_pages else WINDOW * threads
    outcomes = ordered_map(process, todo, threads=threads, window=window)
    try:
        checked = _checked(outcomes, problems, len(todo) + done, done)
        for stack, pages in itertools.groupby(
            checked, key=lambda outcome: outputs.stack_name(outcome[0], choice)
        ):
            if stack is None:
                collections.deque(pages, maxlen=0)  # each has noted itself
            else:
                problems += _write_stack(files.join(output, stack), pages, record)
    finally:
        stopping.set()
        outcomes.close()
    return problems


def _write_stack(
    path: str,
    pages: Iterator[tuple[Job, np.ndarray | None]],
    record: PredictionRecord,
) -> list[str]:
    """Writes a stack and notes its pages; returns a line if it could not be written."""
    first, page = next(pages)
    names = list[str]()

    def noted(
        found: Iterable[tuple[Job, np.ndarray | None]],
    ) -> Iterator[tuple[Job, np.ndarray | None]]:
        for job, each in found:
            names.append(job.name)
            yield job, each

    try:
        outputs.write_stack(path, noted(itertools.chain([(first, page)], pages)))
        record.add(names, record.note_of(first))
    except outputs.PageMissing as error:
        return error.problems
    except _GiveUp:
        raise
    except (OSError, UserError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in FATAL:
            raise
        return _lines_of(first, error)
    return []


def threads_for(devices: int) -> int:
    """Returns how many images are in work at a time."""
    cores = len(os.sched_getaffinity(0))
    writers = min(max(LEAST_WRITERS, WRITERS * devices), max(LEAST_WRITERS, cores))
    return devices * (1 + AHEAD) + writers


def _checked(
    outcomes: Iterable[tuple[Job, np.ndarray | None | BaseException]],
    problems: list[str],
    total: int,
    done: int,
) -> Iterator[tuple[Job, np.ndarray | None]]:
    """Moves a progress bar, and turns errors into lines; None is a page that failed.

    Raises:
      UserError: the next image would fare no better.
    """
    with bars.bar(total=total, initial=done, unit="image") as bar:
        for job, outcome in outcomes:
            page = None
            if isinstance(outcome, BaseException):
                if not isinstance(outcome, Exception):
                    raise outcome  # Ctrl-C in a thread
                problems += _lines_of(job, outcome)
                if isinstance(outcome, OSError) and outcome.errno in FATAL:
                    raise _GiveUp(problems) from outcome
            else:
                page = outcome
            bar.update()
            yield job, page


def _outputs_of(
    jobs: list[Job], choice: outputs.Choice, output: str
) -> tuple[dict[Job, list[str]], list[str]]:
    """Paths of each image's outputs, and a line for each that can have none."""
    names: dict[Job, list[str]] = {}
    owners: dict[str, Job] = {}
    problems: list[str] = []
    for job in jobs:
        try:
            own = _paths_of(job, choice, output)
            lengths = {n: len(os.fsencode(files.basename(n))) for n in own}
            if too_long := [n for n in own if lengths[n] > files.MOST_BYTES]:
                raise UserError(
                    f"{job.page}: its output {files.basename(too_long[0])} would have "
                    f"a name of more than {files.MOST_BYTES} bytes; rename the image"
                )
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


def _paths_of(job: Job, choice: outputs.Choice, output: str) -> list[str]:
    if is_by_blocks(job, choice):
        return results.paths_of(job, choice, output)
    if choice.into_image:
        raise UserError(
            f"{job.page}: is segmented in one piece; --into_image takes "
            "--format=ome-zarr"
        )
    stack = outputs.stack_name(job, choice)
    own = [*outputs.encoders(job, choice), *([stack] if stack else [])]
    return [files.join(output, name) for name in own]


def _take_out_others(
    names: dict[Job, list[str]], record: PredictionRecord, output: str
) -> list[str]:
    """Takes out images whose outputs would replace another's; a line for each."""
    others = {job: path for job in names if (path := record.other_image(job))}
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


def _edge_px(choice: outputs.Choice, about: dict[str, Any], given: int | None) -> int:
    """Only the challenge's format leaves instances out."""
    if choice.format != "ctc":
        return 0
    return about.get("edge_px", 0) if given is None else given


def _settings(
    version: str, choice: outputs.Choice, runtime: str, tta: bool, level: int
) -> dict[str, Any]:
    """What outputs depend on besides the images."""
    content = {
        "model_sha256": [
            files.sha256_of(path) for path in runtimes.model_files(version, runtime)
        ],
        "runtime": runtime,
        "tta": tta,
        **choice._asdict(),
        "rules": choice.rules._asdict(),
    }
    for later in ("edge_px", "into_image"):  # as it was noted before there was one
        if not content[later]:
            del content[later]
    if level:
        content["level"] = level
    return json_files.as_read(content)


def _read(job: Job, about: dict[str, Any], selected: tuple[int, ...]) -> np.ndarray:
    """Reads an image whose intensities mean what they meant in training."""
    pages = [job.page, *job.neighbours]
    spread = [page for page in dict.fromkeys(pages) if is_spread(page)]
    if about["normalization"] and spread:
        raise UserError(
            f"{spread[0]}: neither 8 nor 16 bit unsigned, where this model takes the "
            "training frames' mean and deviation for its intensities; convert it"
        )
    return read_images(pages, about["channels"], selected=selected)


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
