"""Saves checkpoints in a thread, while training goes on."""

import threading
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from trainer.run import checkpoints
from trainer.training.step import State
from unet_tfrecords.command.errors import UserError, warn


class Saver:
    """Copies a state and writes the copy; one save at a time.

    A copy takes as long as the values need to reach the host; writing, digests and
    uploading happen beside the next steps. `tf.train.CheckpointOptions` has a way to do
    this, which fails for Keras 3 at the second save (TensorFlow 2.21).
    """

    def __init__(
        self, state: State, folder: str, *, keep: int, make: Callable[[], State]
    ):
        """Prepares to save.

        Args:
          state: what is saved.
          folder: of the checkpoints.
          keep: how many of the newest stay, besides the best.
          make: makes another state like it, on the host, when the first save is due.
        """
        self.state = state
        self.folder = folder
        self.keep = keep
        self.make = make
        self.copy: State | None = None
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None

    def save(self, step: int, progress: dict[str, Any]) -> None:
        """Takes a copy of the state as it is now, and has it written.

        Args:
          step: steps made.
          progress: see `checkpoints.About`; its `best_step` is kept.

        Raises:
          UserError, OSError: the save before this one has failed.
        """
        try:
            self.wait()
        finally:  # even then: this state may be the last
            self._begin(step, progress)

    def _begin(self, step: int, progress: dict[str, Any]) -> None:
        if self.copy is None:
            with tf.device("/cpu:0"):
                self.copy = self.make()
        pairs = zip(
            self.copy.variables_saved(), self.state.variables_saved(), strict=True
        )
        for to, source in pairs:
            to.assign(source)
        checkpoint = self.copy.checkpoint()

        def write() -> None:
            try:
                checkpoints.save(checkpoint, self.folder, step, progress)
                checkpoints.prune(self.folder, self.keep, progress["best_step"])
            except BaseException as error:
                self.error = error

        # A daemon, so that a second Ctrl-C need not wait for a slow disk or bucket.
        self.thread = threading.Thread(target=write, name="checkpoint", daemon=True)
        self.thread.start()

    def note_progress(self, step: int, progress: dict[str, Any]) -> None:
        """Renews the progress in the checkpoint of a step."""
        self.wait()
        checkpoints.note_progress(self.folder, step, progress)
        checkpoints.prune(self.folder, self.keep, progress["best_step"])

    def check(self) -> None:
        """Says what went wrong with a save that has ended.

        Raises:
          UserError, OSError: it has failed.
        """
        if self.thread and not self.thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Returns when the last save is complete.

        Raises:
          UserError, OSError: it has failed.
        """
        if self.thread:
            self.thread.join()
        self.thread, error, self.error = None, self.error, None
        if error:
            raise error

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Waits for the last save, unless a second Ctrl-C asks to end at once."""
        if kind is KeyboardInterrupt:
            return
        try:
            self.wait()
        except (UserError, OSError) as own:
            if kind is None:
                raise
            warn(f"not saved: {own}")  # and why it ends, after that
