"""The shards that a run reads: training batches, validation frames, damage in them."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator

import ml_collections
import tensorflow as tf

from trainer.devices.strategy import Cluster
from trainer.input import input_pipeline, whole_frames
from trainer.input.arrivals import Arrivals, room_for
from trainer.input.reading_order import ShardFile, deal_lanes, part_of
from trainer.input.shard_files import Access, bring_near, damage, find_shards
from trainer.input.whole_frames import WholeFrame
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.dataset_info import DatasetInfo
from unet_tfrecords.storage import files

# What TensorFlow's reader raises where a shard is damaged; ours raises ValueError.
READ_ERRORS = (
    tf.errors.DataLossError,
    tf.errors.InvalidArgumentError,
    tf.errors.OutOfRangeError,
)


@dataclasses.dataclass(eq=False)
class TrainingData:
    """A data set as one worker reads it.

    Attributes:
      config: the whole config.
      info: of the data set.
      folder: of the data set.
      cluster: which worker this is.
      access: how shards are reached.
      lanes: the training shards in the order in which they are read; this worker's
        own as and where it reads them.
      validation_shards: those that this worker reads; none without such a split.
      arrivals: brings shards of a store to this machine; None where none lies in one.
    """

    config: ml_collections.ConfigDict
    info: DatasetInfo
    folder: str
    cluster: Cluster
    access: Access

    def __post_init__(self):
        """Finds the shards, and copies them where `access` says so.

        Raises:
          UserError: shards are missing or damaged.
        """
        self.lanes = deal_lanes(self._find("train"), self.config.train.global_batch)
        self._bring_lanes_near()
        self.validation_shards = self._find_validation()
        self.arrivals = self._arrivals()
        sizes: dict[str, tuple[int, int]] = {}
        if self.info.splits["validation"].shards:
            sizes = whole_frames.frame_sizes(self.folder, self.info, "validation")
        chosen = whole_frames.spread(sorted(sizes), self.config.train.validate_frames)
        self.frame_sizes = {key: sizes[key] for key in chosen}

    def _find(self, split: str) -> list[ShardFile]:
        whole = self.access.on_bad_record == "fail"
        return find_shards(self.info, self.folder, split, whole=whole)

    def _bring_lanes_near(self) -> None:
        own, lanes = self._own_lanes(), self.lanes
        wanted = [shard for i in own for shard in lanes[i]]
        near = iter(bring_near(wanted, self.info.geometry, self.access))
        for i in own:
            own_near = itertools.islice(near, len(lanes[i]))
            lanes[i] = [shard for shard in own_near if shard.records]
            if not lanes[i]:
                raise UserError(
                    f"{self.folder}: no whole record is left in a lane of the training "
                    "shards; run preprocess again to repair them"
                )

    def _find_validation(self) -> list[ShardFile]:
        if not self.info.splits["validation"].shards:
            return []
        own = self._find("validation")[self.cluster.worker :: self.cluster.size]
        return bring_near(own, self.info.geometry, self.access)

    def _arrivals(self) -> Arrivals | None:
        """Returns what fetches this worker's shards, if any is in a store."""
        together = input_pipeline.shards_together(len(self.lanes))
        readers = [(self.lanes[index], together) for index in self._own_lanes()]
        readers.append((self.validation_shards, 1))
        readers = [
            ([shard for shard in shards if files.is_remote(shard.path)], number)
            for shards, number in readers
        ]
        far = [shard for shards, _ in readers for shard in shards]
        if not far:
            return None
        folder, wanted = self.access.scratch, int(self.access.stream_gb * 1e9)
        return Arrivals(far, folder, room_for(readers, folder, wanted))

    def _own_lanes(self) -> range:
        """Returns the numbers of the lanes that this worker reads."""
        batch, workers = self.config.train.global_batch, self.cluster.size
        return part_of(self.cluster.worker, workers, batch, len(self.lanes)).lanes

    @property
    def training_shards(self) -> list[ShardFile]:
        """Those of all lanes."""
        return [shard for lane in self.lanes for shard in lane]

    def batches(self, start_step: int, **options) -> tf.data.Dataset:
        """Returns `input_pipeline.training_batches` of this run."""
        train = self.config.train
        return input_pipeline.training_batches(
            self.lanes,
            self.info.geometry,
            global_batch=train.global_batch,
            shuffle_tiles=train.shuffle_tiles,
            seed=self.config.seed,
            augment=train.augment,
            start_step=start_step,
            arrivals=self.arrivals,
            **options,
        )

    def iterator(self, devices: tf.distribute.Strategy, start_step: int):
        """Returns this worker's batches on its devices, from a step on."""
        size = self.config.train.global_batch

        def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
            worker, workers = context.input_pipeline_id, context.num_input_pipelines
            return self.batches(
                start_step,
                part=part_of(worker, workers, size, len(self.lanes)),
                batch=context.get_per_replica_batch_size(size),
            )

        return iter(devices.distribute_datasets_from_function(of_worker))

    def keys_of(self, step: int) -> list[str]:
        """Returns the keys of the tiles of one step's global batch, read again."""
        [batch] = self.batches(step, with_keys=True).take(1)
        return [key.decode() for key in batch["key"].numpy().tolist()]

    def validation_frames(self) -> Iterator[WholeFrame]:
        """Yields this worker's whole frames of the validation split, all or some."""
        paths = [shard.path for shard in self.validation_shards]
        near = self.arrivals.in_turn(paths) if self.arrivals else paths
        return whole_frames.read_frames(near, self.info.geometry, self.frame_sizes)

    @contextlib.contextmanager
    def explaining(self, shards: list[ShardFile]) -> Iterator[None]:
        """Says which shard is damaged where, or can't be had, if the block fails by it.

        Args:
          shards: that the block reads.

        Raises:
          UserError: a shard is damaged, or does not arrive.
        """
        try:
            yield
        except tf.errors.OpError as error:
            if self.arrivals and self.arrivals.problem:
                raise self.arrivals.problem from error
            if not isinstance(error, READ_ERRORS):
                raise
            self._tell_damage(shards, error)
            raise
        except ValueError as error:
            self._tell_damage(shards, error)
            raise

    def _tell_damage(self, shards: list[ShardFile], error: Exception) -> None:
        if problems := damage(shards, self.info.geometry):
            raise UserError(problems) from error

    def close(self) -> None:
        """Has nothing more fetched."""
        if self.arrivals:
            self.arrivals.close()

    def describe(self) -> str:
        """Says who reads what, if there are several workers; "" otherwise."""
        worker, size = self.cluster
        if size == 1:
            return ""
        batch, lanes = self.config.train.global_batch, len(self.lanes)
        part = part_of(worker, size, batch, lanes)
        shards = len(self.training_shards)
        if part.by_file:
            own = sum(len(self.lanes[i]) for i in part.lanes)
            return f"data sharded by file: this worker reads {own} of {shards} shards"
        return (
            f"data sharded by record: {shards} shards with a global batch of {batch} "
            f"make {lanes} lane(s), which {size} workers can't share out"
        )
