"""Shards of a store, brought to this machine's disk ahead of being read.

The order of reading is known, so the next shards are fetched while some are read; those
read longest ago go when there is no more room.
"""

import collections
import os
import shutil
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import tensorflow as tf

from trainer.input.reading_order import ShardFile
from trainer.input.shard_files import bring
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.storage import files

Group = tuple[int, int, Sequence[str]]  # its epoch, its number in it, its shards
AHEAD = 3  # groups that a reader needs at once: one it reads, one ready, one on its way
AT_ONCE = 16  # fetches
CLOSING_S = 5.0  # most shards arrive sooner; a silent store is not waited for


class Arrivals:
    """A bounded folder of copies.

    Attributes:
      problem: why a fetch failed; TensorFlow, which reads the copies, knows only that
        there are no more.
      queues: between threads that fetch and TensorFlow.
    """

    def __init__(self, shards: Iterable[ShardFile], folder: str, room: int):
        """Fetches nothing yet.

        Args:
          shards: of a store, of which some will be asked for.
          folder: of this machine, for this process alone.
          room: bytes that copies may take, if those that are read at once take less.
        """
        self.shards = {shard.path: shard for shard in shards}
        self.folder, self.room = folder, room
        self.problem: Exception | None = None
        self.queues: list[tf.queue.FIFOQueue] = []
        self._copies: collections.OrderedDict[str, Future[str]] = (
            collections.OrderedDict()
        )
        self._readers: weakref.WeakSet[GroupReader] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="arrivals")

    def reader(self) -> "GroupReader":
        """Somebody who reads shards group by group."""
        reader = GroupReader(self)
        with self._lock:
            self._readers.add(reader)
        return reader

    def in_turn(self, paths: Sequence[str]) -> Iterator[str]:
        """Copies of shards, one after another; the next is fetched meanwhile."""
        reader = self.reader()
        for index, path in enumerate(paths):
            yield reader.fetch([path], ahead=paths[index + 1 : index + 2])[0]

    def close(self) -> None:
        """Fetches no more, and waits a moment for what is on its way.

        What still arrives later finds the folder gone, and is nobody's.
        """
        for queue in self.queues:
            queue.close(cancel_pending_enqueues=True)
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            copies = list(self._copies.values())
        wait(copies, timeout=CLOSING_S)

    def _ask(self, paths: Sequence[str]) -> list[Future[str]]:
        """Has copies be made that aren't there or on their way; of a store's shards."""
        with self._lock:
            for path in paths:
                copy = self._copies.pop(path, None)
                if copy is None or copy.done() and not _is_there(copy):
                    copy = self._pool.submit(self._fetch, path)
                self._copies[path] = copy  # the last one used
            self._make_room()
            return [self._copies[path] for path in paths]

    def _fetch(self, path: str) -> str:
        shard = self.shards[path]
        copy = os.path.join(self.folder, shard.entry.name)
        bring(shard, copy)
        return copy

    def _make_room(self) -> None:
        """Removes what was used longest ago, of what no reader needs now."""
        needed = {path for reader in list(self._readers) for path in reader.held}
        taken = sum(self.shards[path].entry.bytes for path in self._copies)
        for path in list(self._copies):
            if taken <= self.room:
                return
            copy = self._copies[path]
            if path in needed or not copy.done():
                continue
            del self._copies[path]
            taken -= self.shards[path].entry.bytes
            if _is_there(copy):
                os.remove(copy.result())


def _is_there(copy: "Future[str]") -> bool:
    return copy.exception() is None and os.path.exists(copy.result())


class GroupReader:
    """Asks for groups of shards in the order in which it reads them."""

    def __init__(self, arrivals: Arrivals):
        self.arrivals = arrivals
        self.groups: collections.deque[list[str]] = collections.deque(maxlen=AHEAD)

    @property
    def held(self) -> list[str]:
        """Shards whose copies must stay."""
        return [path for group in list(self.groups) for path in group]

    def fetch(self, paths: Sequence[str], ahead: Sequence[str] = ()) -> list[str]:
        """Waits until copies are there; they stay until two more groups were asked for.

        Args:
          paths: a group of shards.
          ahead: others, which are not waited for.

        Raises:
          Exception: a copy can't be had, and why.
        """
        group = [path for path in (*paths, *ahead) if files.is_remote(path)]
        self.groups.append(group)
        try:
            coming = dict(zip(group, self.arrivals._ask(group), strict=True))
            return [coming[p].result() if p in coming else p for p in paths]
        except Exception as error:
            self.arrivals.problem = error
            raise

    def feed(self, groups: Iterator[Group]) -> tf.queue.FIFOQueue:
        """Fetches groups in a thread of their own, and puts copies into a queue.

        TensorFlow reads the queue without Python. A function of ours in its graph would
        need Python's lock, which the main thread holds while it drops an iterator and
        waits for that function.

        Args:
          groups: in the order of reading, without end.

        Returns:
          A queue of (epoch, number, copies), int64 [], int64 [], string [shards]. It
          is closed where a shard cannot be fetched: see `Arrivals.problem`.
        """
        with tf.device("/cpu:0"):
            # One is read, one waits here, one is being fetched: see AHEAD.
            queue = tf.queue.FIFOQueue(1, [tf.int64, tf.int64, tf.string])
        self.arrivals.queues.append(queue)

        def run() -> None:
            try:
                for epoch, number, paths in groups:
                    queue.enqueue([epoch, number, self.fetch(paths)])
            except (tf.errors.CancelledError, tf.errors.AbortedError):
                pass  # it was closed: nobody reads on
            except Exception as error:
                self.arrivals.problem = self.arrivals.problem or error
            finally:
                queue.close(cancel_pending_enqueues=True)

        threading.Thread(target=run, name="arrivals", daemon=True).start()
        return queue


def room_for(
    readers: Iterable[tuple[Sequence[ShardFile], int]], folder: str, wanted: int
) -> int:
    """Bytes that copies may take of a disk.

    Args:
      readers: the shards of each, and how many of them make a group.
      folder: where copies go.
      wanted: bytes, if the disk has them.

    Raises:
      UserError: not even those that are read at once have room.
    """
    least = 0
    for shards, together in readers:
        sizes = sorted((shard.entry.bytes for shard in shards), reverse=True)
        least += sum(sizes[: AHEAD * together])
    free = int(0.9 * shutil.disk_usage(folder).free)
    if least > free:
        raise UserError(
            f"{folder}: {free / 1e6:,.0f} MB of room, the shards that are read at once "
            f"take {least / 1e6:,.0f} MB; have TMPDIR name a larger disk"
        )
    return max(least, min(wanted, free))
