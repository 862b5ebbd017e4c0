"""`Executor.map` with bounded prefetch: results in order, errors as values."""

import collections
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


def ordered_map(
    function: Callable[[Item], Outcome],
    items: Iterable[Item],
    *,
    threads: int,
    window: int,
) -> Generator[tuple[Item, Outcome | BaseException], None, None]:
    """Applies a function to items in threads.

    Args:
      function: called in any of the threads.
      items: taken only as far as there is room for them.
      threads: how many items are in work at a time.
      window: how many may be in work or wait for their turn to be returned, so that
        one slow item does not stop the others.

    Yields:
      Each item, in order, with what the function returned or raised. If the caller
      stops, items that were not started are left.
    """
    waiting: collections.deque[tuple[Item, Future[Outcome]]] = collections.deque()

    def oldest() -> tuple[Item, Outcome | BaseException]:
        item, future = waiting.popleft()
        error = future.exception()
        return item, future.result() if error is None else error

    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) == window:
                yield oldest()
        while waiting:
            yield oldest()
    finally:
        pool.shutdown(cancel_futures=True)
