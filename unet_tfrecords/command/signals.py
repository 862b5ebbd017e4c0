"""Signals: SIGTERM and SIGHUP end a command as Ctrl-C does, after its cleaning up."""

import atexit
import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

# Exit codes: 128 and the signal's number.
ENDINGS = {130: "interrupted", 143: "terminated", 129: "its terminal has gone"}
PARENT = "UNET_PARENT"  # the process that a command is part of, and ends with
_PR_SET_PDEATHSIG = 1  # of Linux' prctl


class Terminated(KeyboardInterrupt):
    """A SIGTERM or SIGHUP: it ends a command as Ctrl-C does, after its cleaning up."""

    def __init__(self, number: int = signal.SIGTERM):
        super().__init__()
        self.number = number


def code_of(stop: KeyboardInterrupt) -> tuple[int, str]:
    """Returns the exit code of a command that was stopped, and what stopped it."""
    number = stop.number if isinstance(stop, Terminated) else signal.SIGINT
    return 128 + number, ENDINGS[128 + number]


def hear_signals() -> None:
    """Has SIGTERM and SIGHUP raise Terminated in the main thread; a second kills."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(number) is signal.SIG_DFL
        ):
            signal.signal(number, _terminate)


def _terminate(number: int, _) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise Terminated(number)


@contextlib.contextmanager
def deaf() -> Iterator[None]:
    """Has signals end the process at once, without a word, while a library is loaded.

    An exception in the midst of C++ code that sets itself up would abort it.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            if signal.getsignal(number) in (_terminate, signal.default_int_handler):
                before[number] = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Raises KeyboardInterrupt or Terminated for the signals of the block's time.

    Afterwards they end the process without a traceback while Python ends.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # of an entry point
        signal.signal(signal.SIGINT, signal.default_int_handler)
    hear_signals()
    try:
        _end_with_parent()
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)


def _end_with_parent() -> None:
    """Takes the end of the command that this one is part of, by kill -9, as a SIGTERM.

    Raises:
      Terminated: it is gone already.
    """
    parent = os.environ.pop(PARENT, "")
    if parent.isdecimal() and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):
            raise Terminated


def leave(code: int) -> NoReturn:
    """Ends the process with a command's exit code.

    After a signal at once: threads of libraries are still at work then. When Python
    takes itself apart under them they abort the process (exit code 134), or hold a lock
    that its end waits for without end.
    """
    if code in ENDINGS:
        atexit._run_exitfuncs()
        with contextlib.suppress(OSError):  # of a terminal that is gone
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
