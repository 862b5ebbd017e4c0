"""What a run says while it runs: the bar, metrics.jsonl, TensorBoard.

Only the chief has one; other workers hold their tongue.
"""

import sys
import time
from typing import Any

import tensorflow as tf

from trainer.run import workdir
from trainer.training.validate import Validation
from unet_tfrecords.command import bars
from unet_tfrecords.storage import files

QUEUE, DAY_MS = 1_000_000, 86_400_000  # events are flushed here, not by TensorFlow


class Logbook:
    """Bar, lines and pictures of one call of train."""

    def __init__(self, folder: str, *, steps: int, step: int, silent: bool):
        """Opens everything.

        Args:
          folder: the work directory.
          steps: of the whole run.
          step: made already.
          silent: whether this is not the chief.
        """
        self.silent = silent
        self.bar = bars.bar(total=steps, initial=step, unit="step", disable=silent)
        if not silent:
            self.logs = workdir.LogFolder(folder)
            self.writer = tf.summary.create_file_writer(
                self.logs.near, max_queue=QUEUE, flush_millis=DAY_MS
            )
            self.metrics = workdir.MetricsLog(folder)
        # To a store each flush writes whole files again, and of one object Google Cloud
        # Storage takes a change a second.
        self.flush_every_s = workdir.REMOTE_EVERY_S if files.is_remote(folder) else 0
        self.flushed_at = 0.0

    def advance(self, steps: int, *, loss: float, images_per_s: float | None) -> None:
        """Moves the bar."""
        shown = f"loss {loss:.4f}"
        if images_per_s:
            shown += f", {images_per_s:.2f} images/s"
        self.bar.set_postfix_str(shown, refresh=False)
        self.bar.update(steps)

    def say(self, text: str) -> None:
        """A line beside the bar, on stderr."""
        if not self.silent:
            self.bar.write(text, file=sys.stderr)

    def record(self, line: dict[str, Any], validation: Validation | None) -> None:
        """A line in metrics.jsonl, the same in TensorBoard, pictures with scores."""
        if self.silent:
            return
        step = line["step"]
        pictures: dict[str, Any] = {}
        if validation:
            line |= {f"val_{name}": v for name, v in validation.scores.items()}
            pictures = validation.pictures
            self.say(f"step {step}: validation {validation.shown()}")
        self.metrics.add(line)
        with self.writer.as_default(step=step):
            for name, value in line.items():
                if name != "step" and value is not None:
                    tf.summary.scalar(name, value)
            for key, picture in pictures.items():
                name = f"input, truth, probability, error/{key}"
                tf.summary.image(name, picture[None])
        if time.monotonic() - self.flushed_at >= self.flush_every_s:
            self.keep()
            self.writer.flush()
            self.logs.send()
            self.flushed_at = time.monotonic()

    def keep(self) -> None:
        """Has every line of metrics.jsonl be there, whatever happens next."""
        if not self.silent:
            self.metrics.flush()

    def close(self) -> None:
        """Ends the bar's line and the files."""
        self.bar.close()
        if not self.silent:
            self.metrics.flush()
            self.writer.close()
            self.logs.close()
