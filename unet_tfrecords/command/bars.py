"""Progress bars, on stderr: drawn often on a terminal, seldom in a log."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

EVERY_S = 1.0  # a bar on a terminal is drawn again this often at most
EVERY_S_IN_FILE = 30.0  # and where it is a log that somebody scrolls through


def bar(items: Iterable[Any] | None = None, **named: Any) -> tqdm:
    """A bar over items, or one that its caller moves; `named` as tqdm takes it."""
    every = EVERY_S if sys.stderr.isatty() else EVERY_S_IN_FILE
    return tqdm(items, file=sys.stderr, mininterval=every, maxinterval=every, **named)
