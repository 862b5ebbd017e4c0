"""Everything that a training needs before its first step, from config and data."""

import ml_collections
import tensorflow as tf

from trainer.devices import strategy
from trainer.input.shard_files import Access
from trainer.training.losses import class_weights
from trainer.training.optimizers import highest_rate
from trainer.training.step import State, StepResults, TrainingSteps
from trainer.training.train_settings import check_batch, check_fit
from trainer.training.training_data import TrainingData
from trainer.training.validate import Validation, Validator
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.data_settings import check_data_config
from unet_tfrecords.dataset.dataset_info import read_info


class Trainer:
    """A network, its optimiser and its data on the devices of this worker.

    Attributes:
      config: the whole config.
      devices: the strategy over them.
      cluster: which worker this is.
      data: what is read.
      precision: the Keras dtype policy.
      xla: whether steps are compiled.
      state: what training changes.
      steps: makes steps.
      validator: None if the data set has no validation split.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        folder: str,
        devices: tf.distribute.Strategy,
        access: Access,
    ):
        """Checks everything, then builds it.

        Args:
          config: the whole config; takes over what the data says of bad frames.
          folder: of a finished data set.
          devices: the strategy over them.
          access: how shards are reached.

        Raises:
          UserError: data, model and devices don't fit, or shards are not whole.
        """
        info = read_info(folder)
        check_data_config(config)
        if config.train.deterministic:
            tf.config.experimental.enable_op_determinism()
        check_fit(info, config)
        config.data.on_bad_frame = info.settings.on_bad_frame
        check_batch(config.train, devices.num_replicas_in_sync)
        if config.train.patience and not info.splits["validation"].shards:
            raise UserError(
                f"config.train.patience={config.train.patience}: {folder} has no "
                "validation split to judge by"
            )
        self.config = config
        self.devices = devices
        self.cluster = strategy.read_cluster()
        self.data = TrainingData(config, info, folder, self.cluster, access)
        self.precision = strategy.resolve_precision(config.train.precision)
        self.xla = strategy.resolve_xla(config.train.xla)
        with devices.scope():
            self.state = State(config, self.precision)
        pixels = info.splits["train"].class_pixels
        weights = class_weights(pixels, config.train.class_weights)
        self.steps = TrainingSteps(
            self.state, devices, info.geometry, weights, config.train, xla=self.xla
        )
        self.validator = None
        if info.splits["validation"].shards:
            self.validator = Validator(
                self.state.averaged,
                devices,
                self.data.validation_frames,
                config.model,
                images=1 + len(config.data.neighbours),
            )

    def iterator(self, start_step: int):
        """Returns this worker's batches on its devices, from a step on."""
        return self.data.iterator(self.devices, start_step)

    def make_steps(self, iterator, count: int, stop: bool = False) -> StepResults:
        """Makes some steps.

        Raises:
          UserError: a shard is damaged.
        """
        with self.data.explaining(self.data.training_shards):
            return self.steps(iterator, count, stop)

    def validate(self, most: int = 0) -> Validation | None:
        """Scores whole frames, all or some; None without a validation split.

        Raises:
          UserError: a shard is damaged.
        """
        if not self.validator:
            return None
        with self.data.explaining(self.data.validation_shards):
            return self.validator(most)

    def describe(self) -> str:
        """Says parameters, devices, batch and, with several workers, who reads what."""
        train, replicas = self.config.train, self.devices.num_replicas_in_sync
        batch = train.global_batch
        lines = [
            f"{self.state.network.count_params():,} parameters; "
            + strategy.describe(self.devices, self.precision, self.xla),
            f"{batch} tile{'s' * (batch > 1)} a step, {batch // replicas} on each "
            f"replica; learning rate up to {highest_rate(train):.3g}",
            self.data.describe(),
        ]
        return "\n".join(filter(None, lines))
