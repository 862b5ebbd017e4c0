"""Images and labels in, augmented overlap-tile TFRecord shards out (Apache Beam).

Every Beam option can follow, such as --runner=DataflowRunner --region=europe-west4.
Without one, Beam's local runner uses all cores.
"""

import collections
import contextlib
import itertools
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable

if __name__ == "__main__" and (
    signal.getsignal(signal.SIGINT) is not signal.SIG_IGN  # as in the background
):
    # Ctrl-C before all is imported ends it without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import ml_collections
from absl import flags

from preprocess import plan
from preprocess.beam import job_errors, preflight, progress, runners
from unet_tfrecords.command import cli, cli_flags, signals
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset import splits, tfds_files
from unet_tfrecords.dataset.data_settings import check_data_config, data_config
from unet_tfrecords.dataset.dataset_info import (
    INFO_NAME,
    DatasetInfo,
    Skipped,
    Source,
    read_info,
)
from unet_tfrecords.dataset.images.frames import Frame, FrameListing
from unet_tfrecords.dataset.shards import damaged_files, reopen, shard_files
from unet_tfrecords.storage import files, json_files, locks

JOB_NAME = files.TEMPORARY + "job.json"  # the config of a job that has not ended


def preprocess(values: flags.FlagValues, beam_args: list[str]) -> None:
    """The command: checks, runs the Beam job, sums up."""
    config = cli.config_of(values)
    if values.on_bad_frame:
        config.data.on_bad_frame = values.on_bad_frame
    check_data_config(config)
    folder, output = values.input, values.output
    keys = [f"config.{key}" for key in json_files.flat(config.to_dict())]
    options = runners.parse_options(beam_args, [*values, *keys])
    preflight.check_places(options, folder, output)
    preflight.check_buckets(options)
    if not files.is_remote(folder):
        folder = os.path.abspath(folder)

    planned = plan.plan_dataset(folder, config, show=print)
    if planned.labels_reason:
        print(f"{'labels':>10}  {config.data.labels}: {planned.labels_reason}")
    with locks.exclusive(output):
        if values.overwrite:
            with locks.unread(output):
                _clear(output)
        info, damaged = find_existing(output, config, planned.frames, folder)
        if info and not damaged:
            if not files.is_remote(output):  # left by a kill at the very end
                files.remove(files.glob_in(output, files.TEMPORARY + "*"))
            print(f"{files.join(output, INFO_NAME)}: complete already, nothing to do")
            return
        if info:
            _reopen(output, info, damaged)
        started = time.monotonic()
        expected = _announce(planned.frames, config)
        counters = _make(options, folder, output, config, planned)
        _summarise(output, time.monotonic() - started, counters, expected)


def _make(options, folder, output, config, planned: FrameListing) -> dict[str, int]:
    """Runs the job, noting its config while it has not ended; returns its counters.

    Raises:
      UserError: all that is wrong with the frames; nothing was made.
    """
    from preprocess.beam import pipeline

    json_files.write(files.join(output, JOB_NAME), data_config(config))
    job = None
    try:
        parts = runners.parts_of(options)
        job = pipeline.prepare(folder, output, config, planned, parts)
        planned.frames.clear()  # the workers have their own, and need the room
        counters = _run_pipeline(job, options)
        problems_path = files.join(output, pipeline.PROBLEMS_NAME)
        if files.exists(problems_path):
            problems = json_files.read(problems_path, cure="run it again", kind=list)
            files.remove([problems_path])
            raise UserError(problems)
    except Exception as error:
        if not isinstance(error, runners.JobMayContinue):
            with contextlib.suppress(Exception):  # the first failure is the one to tell
                _clear_up(output, job)
        raise
    return counters


def _clear_up(output: str, job) -> None:
    """Removes a failed job's plan, and its note where no shard belongs to it."""
    files.remove(job.plan_files if job else [])
    if not files.glob_in(output, files.TEMPORARY + "*.tfrecord.json"):
        files.remove([files.join(output, JOB_NAME)])


def _announce(
    frames: list[Frame], config: ml_collections.ConfigDict
) -> collections.Counter[str]:
    """Says what will be made; returns how many frames each split has."""
    numbers = collections.Counter(frame.split for frame in frames)
    counts = ", ".join(f"{numbers[s]} {s}" for s in splits.SPLITS if numbers[s])
    print(
        f"{counts} frames; {config.data.augmentations} augmentations of each training "
        f"frame; tiles of {config.data.tile_size} px",
        flush=True,
    )
    return numbers


def find_existing(
    output: str,
    config: ml_collections.ConfigDict,
    frames: list[Frame],
    folder: str,
) -> tuple[DatasetInfo | None, list[str]]:
    """Looks at what is in the output folder; changes nothing.

    Returns:
      what a finished data set says of itself, None if there is none; names of its files
      that are missing or not as they were written.

    Raises:
      UserError: another data set is there, finished or not, naming what differs.
    """
    cure = "give another --output, or --overwrite to start over"
    job_path, info, there, what = files.join(output, JOB_NAME), None, None, ""
    if files.exists(files.join(output, INFO_NAME)):
        info = read_info(output)
        there = info.config
    elif files.exists(job_path):
        there, what = json_files.read(job_path, cure=cure), "unfinished, "
    mine = data_config(config)
    if changed := json_files.differences(
        mine if there is None else there, mine, "config."
    ):
        raise UserError([f"{output}: {what}{line}; {cure}" for line in changed])
    if info is None:
        return None, []
    damaged = damaged_files(output, info)
    readable = not {part.name for part in info.source_parts} & set(damaged)
    if readable and (changed := _changed_sources(output, info, frames, folder)):
        raise UserError([f"{line}; {cure}" for line in changed])
    return info, damaged


def _reopen(output: str, info: DatasetInfo, damaged: list[str]) -> None:
    """Makes a damaged data set unfinished, so that the job makes what is missing."""
    print(f"missing or damaged, made again: {', '.join(damaged)}")
    # Noted first, so that a kill in between leaves no folder without a guard.
    with locks.unread(output):
        json_files.write(files.join(output, JOB_NAME), info.config)
        reopen(output, info)


def _changed_sources(
    output: str, info: DatasetInfo, frames: list[Frame], folder: str
) -> list[str]:
    """Source files that are not those which a finished data set was made from."""
    sources: Iterable[Source | Skipped]
    sources = itertools.chain(info.read_sources(output), info.skipped)
    recorded = {file.path: file.sha256 for source in sources for file in source.files}
    present = {page.path for frame in frames for page in frame.pages}
    names = {path: path.removeprefix(folder).lstrip("/") for path in sorted(present)}
    lines = [f"{name}: gone since" for name in sorted(recorded.keys() - names.values())]
    for path, name in names.items():
        if name not in recorded:
            lines.append(f"{path}: new since")
        elif recorded[name] != files.sha256_of(path):
            lines.append(f"{path}: changed since")
    return lines


def _clear(output: str) -> None:
    """Removes what an earlier job made, the mark of completeness first."""
    files.remove([files.join(output, INFO_NAME)])
    tfds_files.remove(output)
    stale = files.glob_in(output, files.TEMPORARY + "*")
    files.remove(shard_files(output) + stale)


def _run_pipeline(job, options) -> dict[str, int]:
    """Runs the job to its end, with bars; returns Beam's counters.

    Raises:
      UserError: a worker met a user's mistake after all checks, or the runner can't.
    """
    import apache_beam as beam

    from preprocess.beam.pipeline import build

    runners.quieten()
    given = options.get_all_options()  # some runners forget their own name
    engine, result = given["runner"], None
    try:
        pipeline = beam.Pipeline(options=options)
        with contextlib.ExitStack() as end:
            # Beam leaves it where it is interrupted before it runs.
            end.callback(shutil.rmtree, pipeline.local_tempdir, ignore_errors=True)
            build(pipeline, job)
            end.enter_context(progress.bars_of(job.output, job.frames))
            result = pipeline.run()
            runners.silence_job_servers()
            runners.wait_for(result)
    except Exception as error:
        local = engine == runners.LOCAL_RUNNER
        name = engine.rpartition(".")[2]
        told = job_errors.explained(error, name, local=local, given=given)
        if not local and runners.goes_on(result):
            told = runners.JobMayContinue(getattr(told, "problems", [str(told)]))
        if told is error:
            raise
        raise told from error
    return runners.counters_of(result)


def _summarise(
    output: str,
    seconds: float,
    counters: dict[str, int],
    expected: collections.Counter[str],
) -> None:
    info = read_info(output)
    for split, content in info.splits.items():
        pixels = content.class_pixels
        shares = ", ".join(f"{n / max(1, sum(pixels)):.1%}" for n in pixels)
        print(
            f"{split:>10}: {content.num_frames} frames, "
            f"{content.num_tiles} tiles, {len(content.shards)} shards, "
            f"{content.num_bytes / 1e6:.1f} MB; classes {shares or '-'}"
        )
        if content.num_frames == 0 < expected[split]:
            print(f"{split}: all of its frames were bad", file=sys.stderr)
    if unlabelled := info.unlabelled_images:
        print(f"{unlabelled} images without labels left out")
    for note in info.notes:
        print(f"{note.text}: {note.files} frames, {note.example} first")
    for left_out in info.skipped:
        for reason in left_out.reasons:
            print(f"skipped: {reason}", file=sys.stderr)
    tiles = sum(content.num_tiles for content in info.splits.values())
    if kept := counters.get("shards_kept"):
        print(f"{kept} shards of an earlier run kept")
    made = counters.get("tiles_written", tiles)
    print(
        f"{tiles} tiles, {made} of them made in {seconds:.1f} s "
        f"({made / seconds:.0f} tiles/s)"
    )
    stages = [
        f"{stage} {counters[f'{stage}_msec'] / 1000:.1f} s"
        for stage in ("inspect", "read", "render", "encode", "write")
        if f"{stage}_msec" in counters
    ]
    if stages:
        print(f"workers' time, added up: {', '.join(stages)}")
    print(files.join(output, INFO_NAME))


COMMAND = cli.Command(
    name="preprocess",
    summary=__doc__,
    flags=(
        cli_flags.string(
            "input", "data set's folder, on a disk or gs://, s3://, az://, https://"
        ),
        cli_flags.string(
            "output", "folder for shards, on a disk or gs://, s3://, az://"
        ),
        cli_flags.choice(
            "on_bad_frame",
            "fail: list all bad frames and stop; skip: leave them out and record them; "
            "without it, config.data.on_bad_frame",
            ("fail", "skip"),
            None,
        ),
        cli_flags.boolean("overwrite", "start over where there is a data set already"),
    ),
    run=preprocess,
    required=("input", "output"),
    takes_config=True,
    passes_on=True,
)


def run() -> None:
    """Entry point of `unet-preprocess` and `python -m preprocess.main`."""
    signals.leave(cli.main(COMMAND))


if __name__ == "__main__":
    run()
