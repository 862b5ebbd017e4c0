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
        self.writer = (
            tf.summary.create_noop_writer()
            if silent
            else tf.summary.create_file_writer(
                files.join(folder, workdir.LOGS), max_queue=QUEUE, flush_millis=DAY_MS
            )
        )
        self.metrics = None if silent else workdir.MetricsLog(folder)
        # To a store each flush writes the whole file again.
        self.flush_every_s = workdir.REMOTE_EVERY_S if files.is_remote(folder) else 0
        self.flushed_at = 0.0
        self.bar = bars.bar(total=steps, initial=step, unit="step", disable=silent)

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
        step = line["step"]
        pictures: dict[str, Any] = {}
        if validation:
            line |= {f"val_{name}": v for name, v in validation.scores.items()}
            pictures = validation.pictures
            shown = ", ".join(
                f"{k} {v:.4f}" for k, v in validation.scores.items() if v is not None
            )
            self.say(f"step {step}: validation {shown}")
        if not self.metrics:
            return
        self.metrics.add(line)
        with self.writer.as_default(step=step):
            for name, value in line.items():
                if name != "step" and value is not None:
                    tf.summary.scalar(name, value)
            for key, picture in pictures.items():
                name = f"input, truth, probability, error/{key}"
                tf.summary.image(name, picture[None])
        if time.monotonic() - self.flushed_at >= self.flush_every_s:
            self.writer.flush()
            self.flushed_at = time.monotonic()

    def keep(self) -> None:
        """Has every line of metrics.jsonl be there, whatever happens next."""
        if self.metrics:
            self.metrics.flush()

    def close(self) -> None:
        """Ends the bar's line and the files."""
        self.keep()
        self.bar.close()
        self.writer.close()
