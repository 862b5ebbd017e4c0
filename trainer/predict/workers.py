"""Reading, working and writing side by side, with bounded memory."""

import os
import queue
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

# Threads for each worker, which leave Python's lock in what they call: encoding a mask
# and its overlay takes longer than a GPU takes for the image.
READERS, WRITERS = 1, 2
LEAST = 2  # threads of each kind
AHEAD = 2  # items read ahead of each worker


class Pipeline:
    """Takes items through read, one of several workers, and write.

    Workers take the next item whenever they are free: they share what there is.
    """

    def __init__(
        self,
        items: Sequence[Any],
        *,
        read: Callable[[Any], Any],
        workers: Sequence[Callable[[Any], Any]],
        write: Callable[[Any, Any, Any], None],
    ):
        """Sets up the stages; nothing runs yet.

        Args:
          items: what is to be done.
          read: item to content.
          workers: content to result, each in a thread of its own.
          write: (item, content, result) to nothing.
        """
        self.items = items
        self.read = read
        self.workers = workers
        self.write = write
        cores = len(os.sched_getaffinity(0))
        most = max(LEAST, cores)  # more only wait for each other
        self.readers = min(max(LEAST, READERS * len(workers)), most)
        self.writers = min(max(LEAST, WRITERS * len(workers)), most)
        self.room = threading.Semaphore(len(workers) * (1 + AHEAD) + self.writers)
        self.coming: queue.Queue[tuple[Any, Future] | None] = queue.Queue()
        self.ended: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue()
        self.stop = threading.Event()

    def run(self) -> Generator[tuple[Any, BaseException | None], None, None]:
        """Each item with what went wrong with it, as they end.

        Where the caller stops listening, items not yet read are left.
        """
        with (
            ThreadPoolExecutor(self.readers) as readers,
            ThreadPoolExecutor(self.writers) as pool,
        ):
            threads = [threading.Thread(target=self._feed, args=(readers,))]
            threads += [
                threading.Thread(target=self._work, args=(worker, pool))
                for worker in self.workers
            ]
            for thread in threads:
                thread.start()
            try:
                for _ in self.items:
                    yield self.ended.get()
            finally:
                self.stop.set()
                self.room.release()  # the feeder may be waiting for it
                for thread in threads:
                    thread.join()

    def _feed(self, readers: ThreadPoolExecutor) -> None:
        for item in self.items:
            self.room.acquire()
            if self.stop.is_set():
                break
            self.coming.put((item, readers.submit(self.read, item)))
        for _ in self.workers:
            self.coming.put(None)

    def _work(self, worker: Callable[[Any], Any], writers: ThreadPoolExecutor) -> None:
        while (next_one := self.coming.get()) is not None:
            item, reading = next_one
            if self.stop.is_set():
                continue
            try:
                content = reading.result()
                result = worker(content)
            except BaseException as error:
                self._end(item, error)
            else:
                writers.submit(self._write, item, content, result)

    def _write(self, item: Any, content: Any, result: Any) -> None:
        try:
            self.write(item, content, result)
        except BaseException as error:
            self._end(item, error)
        else:
            self._end(item, None)

    def _end(self, item: Any, error: BaseException | None) -> None:
        self.room.release()
        self.ended.put((item, error))
