"""Signals that ask a training to stop once it has saved."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


class Stop:
    """Notes SIGTERM, SIGHUP and Ctrl-C while they are listened for.

    Attributes:
      asked: the last of them, or None.
    """

    asked: signal.Signals | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Notes signals in the block; a second Ctrl-C raises as ever.

        What is ignored (in the background, under nohup) stays ignored.
        """
        before: dict[int, Any] = {}

        def note(number, _):
            self.asked = signal.Signals(number)
            if number == signal.SIGINT:
                signal.signal(number, before[number])

        for wanted in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            if signal.getsignal(wanted) is not signal.SIG_IGN:
                before[wanted] = signal.signal(wanted, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
