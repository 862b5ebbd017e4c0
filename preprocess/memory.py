"""How many large frames a process holds: one, however many threads it has."""

import contextlib
import threading
from collections.abc import Iterator

from preprocess.errors import UserError
from preprocess.images import pixels_of
from preprocess.sources import Frame

LARGE_PIXELS = 2**25  # 5,800 x 5,800: some 250 MB with truth
_one_at_a_time = threading.Lock()


@contextlib.contextmanager
def room_for(frame: Frame) -> Iterator[None]:
    """Waits, if the frame is a large one, until no other is in memory."""
    with _one_at_a_time if _is_large(frame) else contextlib.nullcontext():
        yield


def _is_large(frame: Frame) -> bool:
    with contextlib.suppress(UserError, OSError):  # whoever reads it says what's wrong
        return pixels_of(frame.image) >= LARGE_PIXELS
    return False
