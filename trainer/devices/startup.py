"""TensorFlow's start, when a command needs it and not before."""

import contextlib
import os
import pathlib
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

from trainer.devices import gpus
from unet_tfrecords.command import heavy_imports, signals
from unet_tfrecords.command.errors import warn

# Keras loads these for helpers that nothing here calls, a third of a second to a whole
# one each, wherever they are installed.
NOT_CALLED = ("matplotlib.pyplot", "pandas", "sklearn")
COMPILES = (
    "CUDA compiles kernels at the first start on such a GPU, for up to 30 minutes, and "
    "keeps them in {}"
)
FIRST_WORD_S, NEXT_WORD_S = 10.0, 60.0  # after which a slow start explains itself


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """TensorFlow's start, with oneDNN's fast kernels and without what it says there.

    Its C++ part writes a few lines to stderr before it reads any log level; they are
    taken out, everything else passes.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # leave room for others
    gpus.set_environment()
    chatter = re.compile(
        b"oneDNN custom operations|absl::InitializeLog|cpu_feature_guard"
    )
    stderr = os.dup(2)
    with (
        tempfile.TemporaryFile() as caught,
        signals.deaf(),
        heavy_imports.loading("tensorflow"),
        _without_helpers(),
    ):
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            caught.seek(0)
            for line in caught:
                if not chatter.search(line):
                    os.write(2, line)


@contextlib.contextmanager
def _without_helpers() -> Iterator[None]:
    """Has Keras, while it is loaded, find none of NOT_CALLED."""
    hidden = [name for name in NOT_CALLED if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # refuses its import
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def load_tensorflow(devices: int = 0) -> None:
    """Starts TensorFlow; with `devices`, which must be told it before, half-way."""
    with starting():
        import tensorflow as tf

        if not devices:
            tf.config.list_logical_devices("CPU")  # the runtime's start says it again
    from trainer.devices import strategy

    found = tf.config.list_physical_devices("GPU")
    # Training is refused then; here it is only slow.
    if not found and (why := strategy.why_unseen()):
        warn(f"{why}; computing on the processor")
    folder = gpus.cache_folder()
    if gpus.starts_slowly(strategy.capabilities()) and not _megabytes(folder):
        warn(f"the first image takes longer: {COMPILES.format(folder)}")


@contextlib.contextmanager
def explaining(
    what: str, say: Callable[[str], None], *, compiles_kernels: bool = False
) -> Iterator[None]:
    """Says now and then that something still compiles, as long as the block runs.

    Args:
      what: that is compiled, as "the first step".
      say: prints a line.
      compiles_kernels: whether CUDA compiles TensorFlow's own kernels at this GPU's
        first start, see `gpus`.
    """
    ended = threading.Event()

    def words() -> None:
        started, wait = time.monotonic(), FIRST_WORD_S
        while not ended.wait(wait):
            wait = NEXT_WORD_S
            text = f"still compiling {what}, {time.monotonic() - started:.0f} s so far"
            if compiles_kernels:
                folder = gpus.cache_folder()
                kept = f"({_megabytes(folder):.0f} MB by now)"
                text += f"; {COMPILES.format(folder)} {kept}"
            say(text)

    thread = threading.Thread(target=words, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _megabytes(folder: str) -> float:
    found = 0
    for path in pathlib.Path(folder).rglob("*"):
        with contextlib.suppress(OSError):
            found += path.stat().st_size
    return found / 1e6
