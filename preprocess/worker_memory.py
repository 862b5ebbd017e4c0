"""What a worker does about memory."""

import contextlib
import ctypes
import threading
from collections.abc import Iterator

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images.formats import pixels_of
from unet_tfrecords.dataset.images.frames import Frame

LARGE_PIXELS = 2**25  # 5,800 x 5,800: some 200 MB with truth
_one_at_a_time = threading.Lock()


@contextlib.contextmanager
def room_for(frame: Frame) -> Iterator[None]:
    """Waits, if the frame is a large one, until no other is in memory.

    One at a time, however many threads the process has.
    """
    is_large = False
    with contextlib.suppress(UserError, OSError):  # the reader reports what is wrong
        is_large = sum(map(pixels_of, {*frame.images})) >= LARGE_PIXELS
    with _one_at_a_time if is_large else contextlib.nullcontext():
        yield


def keep_freed_memory() -> None:
    """Tells glibc to keep up to 64 MB of freed memory, where there is a glibc.

    Every tile needs arrays of the same few MB. By default each goes back to the system
    and comes again page by page, which took a tenth of the time.
    """
    trim_threshold, mmap_threshold = -1, -3  # from malloc.h
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 32 * 2**20)  # the most that it takes
        libc.mallopt(trim_threshold, 64 * 2**20)
