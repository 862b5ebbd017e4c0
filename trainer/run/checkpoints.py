"""Checkpoints: a folder each, complete or not there.

checkpoints/step-00000120/state.index, state.data-00000-of-00001   TensorFlow's
                          about.json   written last: the training loop's progress

TensorFlow's files hold a checksum of each value, which is checked as values are read.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from typing import Any

import msgspec
import tensorflow as tf

from trainer.devices import tensorflow_files
from unet_tfrecords.command.errors import UserError, warn
from unet_tfrecords.storage import files, json_files, local_copies

ABOUT = "about.json"
STATE = "state"
PATTERN = re.compile(r"step-([0-9]{8,})")
# What TensorFlow raises for a damaged checkpoint. Other errors are of the disk.
DAMAGE = {
    tf.errors.DataLossError: "values have changed since they were written",
    tf.errors.NotFoundError: "a file is missing",
    tf.errors.OutOfRangeError: "a file is cut",
    tf.errors.InvalidArgumentError: "a file is broken",
    tf.errors.OpError: "a file is broken",  # itself, none of its kinds
    ValueError: "a file is broken",
}


class About(msgspec.Struct, frozen=True):
    """What a checkpoint says of itself.

    Attributes:
      step: steps made.
      progress: what the loop must know to continue, as JSON.
    """

    step: int
    progress: dict[str, Any]


def name_of(step: int) -> str:
    """The folder's name of a step.

    >>> name_of(120)
    'step-00000120'
    """
    return f"step-{step:08d}"


def complete_steps(folder: str) -> list[int]:
    """Steps with a complete checkpoint, rising."""
    found = []
    for name in files.list_folders(folder):
        match = PATTERN.match(name)
        if match and files.exists(files.join(folder, name, ABOUT)):
            found.append(int(match[1]))
    return sorted(found)


def read_about(folder: str, step: int) -> About:
    """Reads what the checkpoint of a step says of itself, and checks its values.

    Raises:
      ValueError: the checkpoint is damaged, and how.
    """
    inside = files.join(folder, name_of(step))
    try:
        about = _about_in(inside)
    except (ValueError, TypeError, msgspec.ValidationError) as error:
        raise ValueError(f"{ABOUT} is broken: {error}") from None
    if about.step != step:
        raise ValueError(f"{ABOUT} is of step {about.step}")
    try:
        with _near(inside) as state:
            # TensorFlow's error for an index that cannot be read does not say why.
            files.read_bytes(f"{state}.index")
            _read_values(state)
    except FileNotFoundError:
        raise ValueError("a file is missing") from None
    except (tf.errors.OpError, ValueError) as error:
        if type(error) not in DAMAGE:
            raise
        raise ValueError(DAMAGE[type(error)]) from None
    return about


@contextlib.contextmanager
def _near(inside: str) -> Iterator[str]:
    """The prefix of a checkpoint's values, or of copies of them on this machine."""
    names = [files.basename(p) for p in files.glob_in(inside, f"{STATE}.*")]
    with local_copies.copied(inside, names) as folder:
        yield files.join(folder, STATE)


def _read_values(path: str) -> None:
    """Reads all values once, one at a time, which checks their checksums."""
    reader = tf.train.load_checkpoint(path)
    for name, dtype in reader.get_variable_to_dtype_map().items():
        # Not reader.get_tensor, whose errors do not tell damage from a failing disk.
        tf.raw_ops.RestoreV2(
            prefix=path, tensor_names=[name], shape_and_slices=[""], dtypes=[dtype]
        )


def _about_in(inside: str) -> About:
    content = json_files.parse(files.read_bytes(files.join(inside, ABOUT)))
    json_files.check_sealed(content)
    return msgspec.convert(content, About)


def _write_about(inside: str, about: About) -> None:
    json_files.write(
        files.join(inside, ABOUT), json_files.sealed(msgspec.to_builtins(about))
    )


def save(
    checkpoint: tf.train.Checkpoint, folder: str, step: int, progress: dict[str, Any]
) -> None:
    """Writes the checkpoint of a step: aside and renamed, or remotely the mark last."""
    inside, about = files.join(folder, name_of(step)), About(step, progress)
    if files.is_remote(folder):
        with tempfile.TemporaryDirectory(prefix="unet-checkpoint-") as scratch:
            paths = _write_state(checkpoint, scratch)
            remove(folder, step)
            for path in paths:
                files.copy(path, files.join(inside, files.basename(path)))
            _write_about(inside, about)
        return
    written = files.join(folder, files.TEMPORARY + name_of(step))
    files.remove([written])
    files.make_folder(written)
    for path in _write_state(checkpoint, written):
        files.flush(path)
    _write_about(written, about)
    remove(folder, step)
    os.replace(written, inside)
    files.flush(folder)


def _write_state(checkpoint: tf.train.Checkpoint, folder: str) -> list[str]:
    """Has TensorFlow write into a folder of this machine; returns its files.

    Raises:
      UserError, OSError: it could not: a full disk, no permission.
    """
    try:
        checkpoint.write(os.path.join(folder, STATE))
    except tf.errors.OpError as error:
        if of_disk := tensorflow_files.disk_error(error):
            raise of_disk from error
        reason = " ".join(error.message.split())[:200]
        raise UserError(f"{folder}: checkpoint not written: {reason}") from error
    return files.list_files(folder)


def note_progress(folder: str, step: int, progress: dict[str, Any]) -> None:
    """Renews the progress that a whole checkpoint tells of; its values stay untouched.

    Written again it would be gone for a while, with what the last signal has saved.
    """
    inside = files.join(folder, name_of(step))
    _write_about(inside, About(_about_in(inside).step, progress))


def remove(folder: str, step: int) -> None:
    """Removes a step's checkpoint, its mark first: half of it is never taken for it."""
    inside = files.join(folder, name_of(step))
    files.remove([files.join(inside, ABOUT)])
    files.remove(files.list_files(inside) if files.is_remote(folder) else [inside])


def prune(folder: str, keep: int, best: int | None) -> None:
    """Keeps the newest and the best."""
    steps = complete_steps(folder)
    for step in steps[:-keep]:
        if step != best:
            remove(folder, step)


def forget_newer(folder: str, step: int) -> None:
    """Removes checkpoints of later steps: damaged, since they were not gone back to.

    They would count among those that are kept, in place of whole ones.
    """
    for later in complete_steps(folder):
        if later > step:
            remove(folder, later)


def clear_unfinished(folder: str) -> None:
    """Removes what a killed run had not finished."""
    if files.is_remote(folder):
        return
    for name in files.list_folders(folder):
        unmarked = PATTERN.match(name) and not os.path.exists(
            files.join(folder, name, ABOUT)
        )
        if name.startswith(files.TEMPORARY) or unmarked:
            files.remove([files.join(folder, name)])
        else:
            files.remove_unfinished(files.join(folder, name), older_s=0)


def newest_whole(folder: str) -> About | None:
    """The newest checkpoint that is whole; says of newer ones why they are not.

    Raises:
      UserError: there are checkpoints, and none is whole.
    """
    problems = []
    for step in reversed(complete_steps(folder)):
        try:
            about = read_about(folder, step)
        except FileNotFoundError:  # a training has pruned it
            continue
        except ValueError as error:  # not an OSError: a disk that fails damages nothing
            inside = files.join(folder, name_of(step))
            if files.exists(files.join(inside, ABOUT)):
                problems.append(f"{inside}: damaged: {error}")
            continue
        for line in problems:
            warn(f"{line}; taking the one before it")
        return about
    if problems:
        raise UserError(
            [*problems, f"{folder}: no whole checkpoint; remove it to start over"]
        )
    return None


def chosen(folder: str, which: str) -> About:
    """A checkpoint by name: best, newest or a step.

    Raises:
      UserError: there is no such checkpoint, or it is damaged.
    """
    newest = newest_whole(folder)
    if newest is None:
        raise UserError(f"{folder}: no checkpoint; train to the first one")
    if which in ("newest", str(newest.step)):
        return newest
    if which == "best":
        step = newest.progress["best_step"]
        if step in (None, newest.step):  # nothing was validated, or the newest is it
            return newest
        if step not in complete_steps(folder):
            warn(  # it went with a damaged newer one
                f"{files.join(folder, name_of(step))}: the best one is gone; taking "
                f"the newest, of step {newest.step}"
            )
            return newest
    elif which.isdecimal():
        step = int(which)
    else:
        raise UserError(f"--checkpoint={which}: best, newest or the number of a step")
    if step not in complete_steps(folder):
        known = ", ".join(map(str, complete_steps(folder)))
        raise UserError(f"{folder}: no checkpoint of step {step}; there are {known}")
    try:
        return read_about(folder, step)
    except ValueError as error:
        raise UserError(
            f"{files.join(folder, name_of(step))}: damaged: {error}; "
            "give --checkpoint=newest or another step"
        ) from None


def restore(checkpoint: tf.train.Checkpoint, folder: str, step: int):
    """Reads a step's values; TensorFlow's status, for the caller to assert."""
    with _near(files.join(folder, name_of(step))) as state:
        return checkpoint.read(state)
