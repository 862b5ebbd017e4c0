"""Checkpoints: a folder each, complete or not there, checked before it is believed.

checkpoints/step-00000120/state.index, state.data-00000-of-00001   TensorFlow's
                          about.json   written last: files with sha256, progress
"""

import hashlib
import os
import re
import sys
import tempfile
from typing import Any, NamedTuple

import tensorflow as tf

from trainer.devices import tensorflow_stores
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.storage import files, json_files

ABOUT = "about.json"
STATE = "state"
PATTERN = re.compile(r"step-([0-9]{8,})")
STATE_FILE = re.compile(rf"{STATE}\.[-a-z0-9]+")


class About(NamedTuple):
    """What a checkpoint says of itself.

    Attributes:
      step: steps made.
      progress: what the loop must know to go on, as JSON.
      sizes, digests: of each file by name.
    """

    step: int
    progress: dict[str, Any]
    sizes: dict[str, int]
    digests: dict[str, str]


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
    """What the checkpoint of a step says of itself, its files compared with it.

    Raises:
      ValueError: the checkpoint is damaged, and how.
    """
    inside = files.join(folder, name_of(step))
    try:
        about = _about_in(inside)
        digests = dict(about.digests)
        sizes = {name: about.sizes[name] for name in digests}
        # A name may lead out of the folder.
        if strange := [name for name in digests if not STATE_FILE.fullmatch(name)]:
            raise ValueError(f"{', '.join(strange)}: no file of a checkpoint")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{ABOUT} is broken: {error}") from None
    if about.step != step:
        raise ValueError(f"{ABOUT} is of step {about.step}")
    for name, digest in digests.items():
        path = files.join(inside, name)
        if not files.exists(path):
            raise ValueError(f"{name} is missing")
        if files.size_of(path) != sizes[name]:
            raise ValueError(f"{name} is cut")
        if files.sha256_of(path) != digest:
            raise ValueError(f"{name} has changed since it was written")
    return about


def _about_in(inside: str) -> About:
    content = json_files.parse(files.read_bytes(files.join(inside, ABOUT)))
    if content.pop(json_files.OWN_DIGEST) != json_files.own_digest(content):
        raise ValueError("changed since it was written")
    return About(**content)


def _write_about(inside: str, about: About) -> None:
    json_files.write(files.join(inside, ABOUT), json_files.sealed(about._asdict()))


def save(
    checkpoint: tf.train.Checkpoint, folder: str, step: int, progress: dict[str, Any]
) -> None:
    """Writes the checkpoint of a step: aside and renamed, or remotely the mark last.

    What goes to a store is written to this machine first, so that nothing has to be
    read back from there for its digest.
    """
    if files.is_remote(folder):
        with tempfile.TemporaryDirectory(prefix="unet-checkpoint-") as scratch:
            sizes = _write_state(checkpoint, scratch)
            inside = files.join(folder, name_of(step))
            remove(folder, step)
            digests = {
                name: _uploaded(os.path.join(scratch, name), files.join(inside, name))
                for name in sizes
            }
            _write_about(inside, About(step, progress, sizes, digests))
        return
    written = files.join(folder, files.TEMPORARY + name_of(step))
    files.remove([written])
    files.make_folder(written)
    sizes = _write_state(checkpoint, written)
    digests = {name: files.sha256_of(files.join(written, name)) for name in sizes}
    for name in sizes:
        _flush(files.join(written, name))
    _write_about(written, About(step, progress, sizes, digests))
    remove(folder, step)
    os.replace(written, files.join(folder, name_of(step)))
    _flush(folder)


def _write_state(checkpoint: tf.train.Checkpoint, folder: str) -> dict[str, int]:
    """Has TensorFlow write into a folder of this machine; sizes of its files.

    Raises:
      UserError, OSError: it could not: a full disk, no permission.
    """
    try:
        checkpoint.write(os.path.join(folder, STATE))
    except tf.errors.OpError as error:
        if of_disk := tensorflow_stores.disk_error(error):
            raise of_disk from error
        reason = " ".join(error.message.split())[:200]
        raise UserError(f"{folder}: checkpoint not written: {reason}") from error
    paths = files.list_files(folder)
    return {files.basename(path): files.size_of(path) for path in paths}


def _uploaded(path: str, destination: str) -> str:
    """Copies a file and returns its sha256, of one reading."""
    digest = hashlib.sha256()
    with files.open_atomic(destination) as file:
        for block in files.read_blocks(path):
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def note_progress(folder: str, step: int, progress: dict[str, Any]) -> None:
    """Renews the progress that a whole checkpoint tells of; its values stay untouched.

    Written anew it would be gone for a while, with what the last signal has saved.
    """
    inside = files.join(folder, name_of(step))
    _write_about(inside, _about_in(inside)._replace(progress=progress))


def _flush(path: str) -> None:
    """Has the system write a file or a folder's entries to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
            print(f"{line}; taking the one before it", file=sys.stderr, flush=True)
        return about
    if problems:
        raise UserError(
            [*problems, f"{folder}: no whole checkpoint; remove it to start afresh"]
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
    if which == "newest":
        return newest
    if which == "best":
        step = newest.progress["best_step"]
        if step is None:
            return newest  # nothing was validated
        if step not in complete_steps(folder):
            print(  # it went with a damaged newer one
                f"{files.join(folder, name_of(step))}: the best one is gone; taking "
                f"the newest, of step {newest.step}",
                file=sys.stderr,
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
    return checkpoint.read(files.join(folder, name_of(step), STATE))
