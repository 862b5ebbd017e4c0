"""The training loop: what is due after which step, and stopping in between.

A custom loop, because Keras' own fails under MirroredStrategy with several steps a
call, and under MultiWorkerMirroredStrategy at once. Keras supplies layers and
schedules; TensorFlow the distribution and the checkpoints.
"""

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_collections
import tensorflow as tf

from trainer.devices import gpus, strategy
from trainer.devices.startup import explaining
from trainer.run import checkpoints, workdir
from trainer.training.metric_writers import Logbook
from trainer.training.saver import Saver
from trainer.training.step import State
from trainer.training.stopping import Stop
from trainer.training.trainer import Trainer
from trainer.training.validate import Validation
from unet_tfrecords.command.errors import UserError, warn
from unet_tfrecords.storage import files, locks

HIGHER_IS_BETTER = {"mean_iou": True, "pixel_error": False, "cross_entropy": False}
KEYS_SHOWN = 8
MOST_OVERFLOWS = 50  # steps; from its first value to 1 the loss scale needs 15
VALIDATIONS = 20  # in a training whose config leaves their number open


def validation_period(train: ml_collections.ConfigDict) -> int:
    """Steps between two validations.

    By steps, never by time: the chosen checkpoint must not depend on the speed.
    """
    return train.validate_every_steps or math.ceil(train.steps / VALIDATIONS)


class TrainOptions(NamedTuple):
    """How this call runs, which is not the run's config.

    Attributes:
      on_bad_record: fail or skip.
      cache: "", memory or a folder.
      extend_steps: the run's new number of steps; 0 leaves it.
      profile_steps: the first and last step to profile; () profiles nothing.
      command: the flags that were given, for the report to say.
      report: writes the report of the run in a folder, when training ends.
      stream_gb: of this machine's disk, for shards of a store on their way.
    """

    on_bad_record: str = "fail"
    cache: str = ""
    extend_steps: int = 0
    profile_steps: tuple[int, ...] = ()
    command: tuple[str, ...] = ()
    report: Callable[[str], object] | None = None
    stream_gb: float = 20.0


@dataclasses.dataclass
class Progress:
    """What the loop must know to go on as if nothing had been, besides the weights.

    Attributes:
      losses, norms: of the steps since the last line of metrics.jsonl.
      best, best_step: the best score so far and when.
      since_best: validations since then.
      unlooked: whether a stop came before what was due at this step.
      records: of each training shard, less those that were skipped.
    """

    losses: list[float] = dataclasses.field(default_factory=list)
    norms: list[float] = dataclasses.field(default_factory=list)
    best: float | None = None
    best_step: int | None = None
    since_best: int = 0
    unlooked: bool = False
    records: list[int] = dataclasses.field(default_factory=list)

    def judge(self, score: float | None, step: int, *, higher: bool) -> bool:
        """Takes a validation's score in; whether it is the best."""
        sign = 1 if higher else -1
        found = math.nan if score is None else sign * score
        best = -math.inf if self.best is None else sign * self.best
        if best < found < math.inf:  # NaN is on neither side
            self.best, self.best_step, self.since_best = score, step, 0
            return True
        self.since_best += 1
        return False


class Loop:
    """One call of train: its data, its logs, and the state it moves forward."""

    def __init__(self, trainer: Trainer, folder: str, options: TrainOptions):
        self.trainer = trainer
        self.train = trainer.config.train
        self.folder = folder
        self.options = options
        self.validate_every_steps = validation_period(trainer.config.train)
        self.saved = files.join(folder, workdir.CHECKPOINTS)
        self.progress = Progress()
        self.step = self._restore()
        self.saved_at = (self.step, time.monotonic())
        self.saver = Saver(
            trainer.state,
            self.saved,
            keep=self.train.keep_checkpoints,
            make=lambda: State(trainer.config, trainer.precision),
        )
        self.seen = 0  # steps since the clock below
        self.since = time.monotonic()
        self.stop = Stop()
        self.profiling = False
        self.compiled = False
        self.overflows = 0  # steps in a row

    def _restore(self) -> int:
        """Goes back to the newest whole checkpoint, the same on all workers."""
        cluster, about = self.trainer.cluster, None
        if cluster.is_chief:
            checkpoints.clear_unfinished(self.saved)
            about = checkpoints.newest_whole(self.saved)
            checkpoints.forget_newer(self.saved, about.step if about else 0)
        step = strategy.chiefs(self.trainer.devices, about.step if about else 0)
        if step:
            about = about or checkpoints.chosen(self.saved, str(step))
            checkpoint = self.trainer.state.checkpoint()
            status = checkpoints.restore(checkpoint, self.saved, step)
            status.assert_consumed()
            self.progress = Progress(**about.progress)
        records = [shard.records for shard in self.trainer.data.training_shards]
        if cluster.is_chief:
            workdir.trim_metrics(self.folder, step - self.progress.unlooked)
            if step and self.progress.records != records:
                warn(
                    "other records are skipped than before: tiles come in another "
                    "order from here"
                )
            if step:
                print(f"going on after step {step}", flush=True)
        self.progress.records = records
        return step

    def run(self) -> None:
        """Trains to the end, or until asked to stop.

        Raises:
          UserError: the loss is not finite, or a shard is damaged.
          KeyboardInterrupt: on Ctrl-C, after the checkpoint.
        """
        self.book = Logbook(
            self.folder,
            steps=self.train.steps,
            step=self.step,
            silent=not self.trainer.cluster.is_chief,
        )
        with contextlib.closing(self.book), self.saver, self.stop.listening():
            ended = self._steps()
            self._profile(ended=True)
            self._save()
            self.saver.wait()
            if self.options.report and self.trainer.cluster.is_chief:
                with locks.in_turn(self.folder):
                    self.options.report(self.folder)
            strategy.chiefs(self.trainer.devices, 0)  # all wait here
        if self.stop.asked is signal.SIGINT and self.progress.unlooked:
            raise KeyboardInterrupt
        print(ended, flush=True)

    def _steps(self) -> str:
        """Makes steps; why it made no more."""
        if self.progress.unlooked:
            self.progress.unlooked = False
            self._look()  # saves nothing: this step is saved
            self._note_progress()
        iterator = self.trainer.iterator(self.step) if self._more() else None
        while self._more():
            count = self._until_look()
            self._profile()
            asked = self.stop.asked is not None
            with self._compiling() if not self.compiled else contextlib.nullcontext():
                results = self.trainer.make_steps(iterator, count, stop=asked)
            self.compiled = True
            self.saver.check()
            losses = results.losses.numpy().tolist()
            norms = results.norms.numpy().tolist()
            self._stop_on_nan(losses, norms)
            self.step += count
            self.seen += count
            self.progress.losses += losses
            self.progress.norms += norms
            self.book.advance(count, loss=losses[-1], images_per_s=self._speed())
            alone = self.trainer.cluster.size == 1  # others would have to know at once
            if int(results.stops) or (alone and self.stop.asked):
                # Whoever takes the machine away may not wait for a validation.
                self.progress.unlooked = True
                name = self.stop.asked.name if self.stop.asked else "another's"
                return (
                    f"{name} signal: saved after step {self.step}; the same command "
                    "goes on"
                )
            self._look()
        if self.step < self.train.steps:
            best = self.progress.best
            than = f" than {best:.4f}" if best is not None else ""
            return (
                f"stopped early after step {self.step}: no better "
                f"{self.train.best_metric}{than} (step {self.progress.best_step}) in "
                f"{self.train.patience} validations"
            )
        return self.saved

    def _compiling(self) -> contextlib.AbstractContextManager[None]:
        """The first call of a graph builds, and may compile, all of it."""
        slow = gpus.starts_slowly(strategy.capabilities())
        return explaining("the first step", self.book.say, compiles_kernels=slow)

    def _more(self) -> bool:
        tired = self.train.patience and self.progress.since_best >= self.train.patience
        return self.step < self.train.steps and not tired

    def _until_look(self) -> int:
        """Steps until something is due: a line, validation, checkpoint or the end."""
        train = self.train
        periods = [
            train.log_every_steps,
            self.validate_every_steps,
            train.checkpoint_every_steps,
        ]
        due = [period - self.step % period for period in periods if period]
        due += [s - self.step for s in self.options.profile_steps if s > self.step]
        return min(train.steps_per_call, train.steps - self.step, *due)

    def _profile(self, ended: bool = False) -> None:
        """Starts the profiler before the first step asked for, ends it after the last.

        TensorBoard's Profile page shows it.
        """
        if not self.options.profile_steps or not self.trainer.cluster.is_chief:
            return
        first, last = self.options.profile_steps
        if self.step == first and not ended:
            tf.profiler.experimental.start(self.book.logs.near)
            self.profiling = True
        elif self.profiling and (ended or self.step == last):
            tf.profiler.experimental.stop()
            self.profiling = False
            self.book.say(f"steps {first} to {self.step} profiled: see TensorBoard")

    def _look(self) -> None:
        """Writes, validates and saves whatever is due."""
        validates = self._due(self.validate_every_steps)
        logs = validates or self._due(self.train.log_every_steps)
        validation = self.trainer.validate() if validates else None
        if logs:
            self._record(validation)
        best = validation is not None and self._judge(validation)
        due = self._due(self.train.checkpoint_every_steps) or self._time_to_save()
        if best or due:
            self._save()
        if logs or due:
            self.seen, self.since = 0, time.monotonic()

    def _due(self, period: int) -> bool:
        """Whether something is to be done now; period 0 is at the end alone."""
        at_period = period and self.step % period == 0
        return bool(at_period) or self.step == self.train.steps

    def _time_to_save(self) -> bool:
        minutes = self.train.checkpoint_every_minutes
        return minutes > 0 and time.monotonic() - self.saved_at[1] >= 60 * minutes

    def _speed(self) -> float | None:
        """Images a second over all replicas since the last line, if any were seen."""
        if not self.seen:
            return None
        return self.seen * self.train.global_batch / (time.monotonic() - self.since)

    def _record(self, validation: Validation | None) -> None:
        losses, norms = self.progress.losses, self.progress.norms
        norm = sum(norms) / len(norms)
        line: dict[str, Any] = {
            "step": self.step,
            "loss": sum(losses) / len(losses),
            "learning_rate": float(self.trainer.state.schedule(self.step - 1)),
            # JSON knows no infinity; half precision meets it before its scale settles.
            "gradient_norm": norm if math.isfinite(norm) else None,
            "images_per_s": self._speed(),
        }
        self.progress.losses, self.progress.norms = [], []
        self.book.record(line, validation)

    def _judge(self, validation: Validation) -> bool:
        metric = self.train.best_metric
        return self.progress.judge(
            validation.scores[metric], self.step, higher=HIGHER_IS_BETTER[metric]
        )

    def _save(self) -> None:
        """Saves unless this step is saved already; the chief alone writes."""
        if self.saved_at[0] == self.step:
            return
        self.saved_at = (self.step, time.monotonic())
        if not self.trainer.cluster.is_chief:
            return
        self._check_weights()
        self.book.keep()
        self.saver.save(self.step, dataclasses.asdict(self.progress))

    def _note_progress(self) -> None:
        """Tells this step's checkpoint what has been looked at since."""
        if self.trainer.cluster.is_chief:
            self.book.keep()
            self.saver.note_progress(self.step, dataclasses.asdict(self.progress))

    def _check_weights(self) -> None:
        """A checkpoint never holds what can't be gone on from."""
        for variable in self.trainer.state.network.trainable_variables:
            if not bool(tf.reduce_all(tf.math.is_finite(variable))):
                raise UserError(
                    f"weights of {variable.path} are not finite after step "
                    f"{self.step}; nothing was saved; lower config.train.learning_rate "
                    "and train into another --workdir"
                )

    def _stop_on_nan(self, losses: list[float], norms: list[float]) -> None:
        # In float16 infinite gradients are usual: the loss scale then goes down.
        scaled = self.trainer.precision == "mixed_float16"
        for norm in norms:
            self.overflows = 0 if math.isfinite(norm) else self.overflows + 1
        if scaled and self.overflows >= MOST_OVERFLOWS:
            raise UserError(
                f"the gradients of {self.overflows} steps up to "
                f"{self.step + len(norms)} were infinite, whatever the loss scale, "
                "and changed nothing; lower "
                "config.train.learning_rate or take another config.train.precision, in "
                "another --workdir"
            )
        for index, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
            if math.isfinite(loss) and (scaled or math.isfinite(norm)):
                continue
            keys = self.trainer.data.keys_of(self.step + index)
            shown = ", ".join(keys[:KEYS_SHOWN])
            more = f" and {len(keys) - KEYS_SHOWN} more" if keys[KEYS_SHOWN:] else ""
            earlier = [*self.progress.norms, *norms[:index]]
            before = f"{earlier[-1]:.3g}" if earlier else "none"
            rate = float(self.trainer.state.schedule(self.step + index))
            raise UserError(
                f"the loss is {loss} at step {self.step + index + 1}, learning rate "
                f"{rate:.3g}, gradient norm {norm:.3g} (the step before: {before}), "
                f"tiles {shown}{more}; lower "
                "config.train.learning_rate or set config.train.clip_norm, and train "
                "into another --workdir"
            )
