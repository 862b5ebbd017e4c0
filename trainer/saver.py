"""Saves checkpoints in a thread, while training goes on."""

import concurrent.futures
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from trainer import checkpoints
from trainer.step import State


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
        self.thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self.running: concurrent.futures.Future | None = None

    def save(self, step: int, progress: dict[str, Any]) -> None:
        """Takes a copy of the state as it is now, and has it written.

        Args:
          step: steps made.
          progress: see `checkpoints.About`; its `best_step` is kept.

        Raises:
          UserError, OSError: the save before this one has failed.
        """
        self.wait()
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
            checkpoints.save(checkpoint, self.folder, step, progress)
            checkpoints.prune(self.folder, self.keep, progress["best_step"])

        self.running = self.thread.submit(write)

    def note_progress(self, step: int, progress: dict[str, Any]) -> None:
        """Renews the progress in the checkpoint of a step."""
        self.wait()
        checkpoints.note_progress(self.folder, step, progress)
        checkpoints.prune(self.folder, self.keep, progress["best_step"])

    def wait(self) -> None:
        """Returns when the last save is complete.

        Raises:
          UserError, OSError: it has failed.
        """
        running, self.running = self.running, None
        if running:
            running.result()

    def close(self) -> None:
        """Waits, and ends the thread."""
        try:
            self.wait()
        finally:
            self.thread.shutdown()
