"""TensorFlow's start, when a command needs it and not before."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from preprocess import cli

# Keras loads these for helpers that nothing here calls, a third of a second to a whole
# one each, wherever they are installed.
NOT_CALLED = ("matplotlib.pyplot", "pandas", "sklearn")


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """TensorFlow's start, with oneDNN's fast kernels and without what it says there.

    Its C++ part writes a few lines to stderr before it reads any log level; they are
    taken out, everything else passes.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # leave room for others
    chatter = (
        b"oneDNN custom operations",
        b"absl::InitializeLog",
        b"cpu_feature_guard",
    )
    stderr = os.dup(2)
    with (
        tempfile.TemporaryFile() as caught,
        cli.deaf(),
        cli.loading("tensorflow"),
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
                if not any(words in line for words in chatter):
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
