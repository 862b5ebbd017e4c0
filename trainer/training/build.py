"""All that steps and validation need, built from config and data."""

from typing import Any, NamedTuple

import ml_collections
import tensorflow as tf

from trainer.devices import strategy
from trainer.input import input_pipeline, whole_frames
from trainer.input.reading_order import ShardFile, deal_lanes, part_of
from trainer.input.shard_files import Access, bring_near, damage, find_shards
from trainer.training.losses import class_weights
from trainer.training.optimizers import highest_rate
from trainer.training.step import Made, State, make_steps
from trainer.training.train_settings import check_batch, check_fit, check_train_config
from trainer.training.validate import Validation, Validator
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.data_settings import check_data_config
from unet_tfrecords.dataset.dataset_info import DatasetInfo, read_info


class Built(NamedTuple):
    """A run before its first step.

    Attributes:
      config: the whole config.
      info: of the data set.
      devices: the strategy over them.
      cluster: which worker this is.
      precision: the Keras dtype policy.
      xla: whether steps are compiled.
      state: what training changes.
      lanes: the training shards in the order in which they are read.
      run_steps: see `step.make_steps`.
      validator: None where the data set has no validation split.
      validation_shards: those that this worker reads.
    """

    config: ml_collections.ConfigDict
    info: DatasetInfo
    devices: tf.distribute.Strategy
    cluster: strategy.Cluster
    precision: str
    xla: bool
    state: State
    lanes: list[list[ShardFile]]
    run_steps: Any
    validator: Validator | None
    validation_shards: list[ShardFile]

    def batches(self, start_step: int, **options) -> tf.data.Dataset:
        """`input_pipeline.training_batches` of this run."""
        train = self.config.train
        return input_pipeline.training_batches(
            self.lanes,
            self.info.geometry,
            global_batch=train.global_batch,
            shuffle_tiles=train.shuffle_tiles,
            seed=self.config.seed,
            augment=train.augment,
            start_step=start_step,
            **options,
        )

    def iterator(self, start_step: int):
        """This worker's batches on its devices, from a step on."""
        size = self.config.train.global_batch

        def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
            worker, workers = context.input_pipeline_id, context.num_input_pipelines
            return self.batches(
                start_step,
                part=part_of(worker, workers, size, len(self.lanes)),
                batch=context.get_per_replica_batch_size(size),
            )

        return iter(self.devices.distribute_datasets_from_function(of_worker))

    def keys_of(self, step: int) -> list[str]:
        """The tiles of one step's global batch, read again."""
        [batch] = self.batches(step, with_keys=True).take(1)
        return [key.decode() for key in batch["key"].numpy().tolist()]

    def make(self, iterator, count: int, stop: bool = False) -> Made:
        """Runs some steps.

        Raises:
          UserError: a shard is damaged.
        """
        try:
            return self.run_steps(iterator, tf.constant(count), tf.constant(stop))
        except tf.errors.OpError as error:
            self._explain([shard for lane in self.lanes for shard in lane], error)
            raise

    def validate(self, most: int = 0) -> Validation:
        """Scores whole frames, all or some.

        Raises:
          UserError: a shard is damaged.
        """
        assert self.validator
        try:
            return self.validator(most)
        except ValueError as error:
            self._explain(self.validation_shards, error)
            raise

    def _explain(self, shards: list[ShardFile], error: Exception) -> None:
        """Says which shard is damaged where, if that is why reading failed."""
        reading = (
            tf.errors.DataLossError,
            tf.errors.InvalidArgumentError,
            tf.errors.OutOfRangeError,
            ValueError,
        )
        if isinstance(error, reading):
            if problems := damage(shards, self.info.geometry):
                raise UserError(problems) from error

    def describe(self) -> str:
        """Parameters, devices, batch and, with several workers, who reads what."""
        lines = [
            f"{self.state.network.count_params():,} parameters; "
            + strategy.describe(self.devices, self.precision, self.xla)
        ]
        train = self.config.train
        batch, replicas = train.global_batch, self.devices.num_replicas_in_sync
        lines.append(
            f"{batch} tile{'s' * (batch > 1)} a step, {batch // replicas} on each "
            f"replica; learning rate up to {highest_rate(train):.3g}"
        )
        worker, size = self.cluster
        if size > 1:
            lanes = len(self.lanes)
            part = part_of(worker, size, batch, lanes)
            shards = sum(len(lane) for lane in self.lanes)
            lines.append(
                f"data sharded by file: this worker reads "
                f"{sum(len(self.lanes[i]) for i in part.lanes)} of {shards} shards"
                if part.by_file
                else f"data sharded by record: {shards} shards with a global batch of "
                f"{batch} make {lanes} lane(s), which {size} workers can't share out"
            )
        return "\n".join(lines)


def build(
    config: ml_collections.ConfigDict,
    data: str,
    devices: tf.distribute.Strategy,
    access: Access,
) -> Built:
    """Checks everything, then builds it.

    Args:
      config: the whole config; takes over what the data says of bad frames.
      data: folder of a finished data set.
      devices: the strategy over them.
      access: how shards are reached.

    Raises:
      UserError: data, model and devices don't fit, or shards are not whole.
    """
    info = read_info(data)
    check_data_config(config)
    check_train_config(config)
    if config.train.deterministic:
        tf.config.experimental.enable_op_determinism()
    check_fit(info, config)
    config.data.on_bad_frame = info.settings.on_bad_frame
    check_batch(config.train, devices.num_replicas_in_sync)
    cluster = strategy.read_cluster()
    lanes = _lanes(config, info, data, cluster, access)
    precision = strategy.resolve_precision(config.train.precision)
    xla = strategy.resolve_xla(config.train.xla)
    with devices.scope():
        state = State(config, precision)
    weights = class_weights(
        info.splits["train"].class_pixels, config.train.class_weights
    )
    run_steps = make_steps(
        state,
        devices,
        info.geometry,
        weights,
        config.train,
        xla=xla,
    )
    validator, validation_shards = None, []
    if info.splits["validation"].shards:
        validation_shards = _validation_shards(info, data, cluster, access)
        validator = _validator(config, info, data, devices, validation_shards, state)
    elif config.train.patience:
        raise UserError(
            f"config.train.patience={config.train.patience}: {data} has no validation "
            "split to judge by"
        )
    return Built(
        config,
        info,
        devices,
        cluster,
        precision,
        xla,
        state,
        lanes,
        run_steps,
        validator,
        validation_shards,
    )


def _lanes(config, info, data, cluster, access) -> list[list[ShardFile]]:
    """The lanes; those that this worker reads, as and where it reads them."""
    whole = access.on_bad_record == "fail"
    shards = find_shards(info, data, "train", whole=whole)
    batch = config.train.global_batch
    lanes = deal_lanes(shards, batch)
    own = part_of(cluster.worker, cluster.size, batch, len(lanes)).lanes
    near = iter(bring_near([s for i in own for s in lanes[i]], info.geometry, access))
    for i in own:
        lanes[i] = [shard for shard in (next(near) for _ in lanes[i]) if shard.records]
        if not lanes[i]:
            raise UserError(
                f"{data}: no whole record is left in a lane of the training shards; "
                "run preprocess again to mend them"
            )
    return lanes


def _validation_shards(info, data, cluster, access) -> list[ShardFile]:
    whole = access.on_bad_record == "fail"
    shards = find_shards(info, data, "validation", whole=whole)
    own = shards[cluster.worker :: cluster.size]
    return bring_near(own, info.geometry, access)


def _validator(config, info, data, devices, shards, state) -> Validator:
    sizes = whole_frames.frame_sizes(data, info, "validation")
    chosen = whole_frames.spread(sorted(sizes), config.train.validate_frames)

    def frames():
        return whole_frames.read_frames(
            [shard.path for shard in shards],
            info.geometry,
            {key: sizes[key] for key in chosen},
        )

    return Validator(state.averaged, devices, frames, config.model)
