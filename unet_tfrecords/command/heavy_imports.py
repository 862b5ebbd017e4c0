"""Imports of big libraries, which take seconds."""

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def loading(library: str) -> Iterator[None]:
    """Loads a big library in four fifths of the time or less (docs/decisions.md).

    What is loaded stays: garbage is not looked for among it, then or later. The first
    time only: later, it would keep what went before forever.
    """
    if library in sys.modules:
        yield
        return
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()
