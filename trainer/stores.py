"""Object stores as TensorFlow reaches them: by clients of its own, not by Beam's.

gs:// is built in. Others come with tensorflow-io, whose plug-ins load into TensorFlow
2.17 alone. What these clients raise becomes one line, as in preprocess.object_store.
"""

import atexit
import functools
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from preprocess import cli, files
from preprocess.errors import UserError
from preprocess.object_store import bucket_of, reason_of, scheme_of

PLUGINS = "tensorflow_io"
PLUGINS_WANT = "2.17."
ENVIRONMENT = f"UNET_EXTRA=io ./launch.sh has TensorFlow {PLUGINS_WANT}x, which does"
# Of tf.errors, where no HTTP status is told: 0 where it has to be.
STATUS = {
    "PermissionDeniedError": 403,
    "UnauthenticatedError": 401,
    "NotFoundError": 404,
    "UnavailableError": 503,
    "DeadlineExceededError": 504,
    "AbortedError": 503,
    "FailedPreconditionError": 0,
    "UnknownError": 0,
    "InternalError": 0,
    "UnimplementedError": 0,
}


def reach(path: str | None, instead: str = "") -> None:
    """Has TensorFlow know a path's scheme, loading tensorflow-io where that does it.

    Args:
      path: that TensorFlow will read or write.
      instead: what to do without.

    Raises:
      UserError: this TensorFlow doesn't reach such paths.
    """
    import tensorflow as tf

    if not path or not files.is_remote(path):
        return
    known = tf.io.gfile.get_registered_schemes
    if scheme_of(path) not in known() and tf.__version__.startswith(PLUGINS_WANT):
        try:
            import tensorflow_io  # noqa: F401  registers its schemes
        except ImportError:
            pass
    if scheme_of(path) not in known():
        ways = f"{instead}, or take another: {ENVIRONMENT}" if instead else ENVIRONMENT
        raise UserError(
            f"{path}: TensorFlow {tf.__version__} can't reach {scheme_of(path)}://; "
            f"{ways} (docs/storage.md)"
        )


def explained(run: cli.Run) -> cli.Run:
    """A command that tells of a store in one line; all other errors pass."""

    @functools.wraps(run)
    def told(*arguments: Any) -> None:
        try:
            run(*arguments)
        except Exception as error:
            if line := line_of(error):
                raise UserError(line) from error
            raise

    return told


def line_of(error: Exception) -> str:
    """What a store's client in TensorFlow says, in one line; "" where it is not one's.

    Such errors name an object and, unlike those of a graph, no status below 400.
    """
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None or not isinstance(error, tensorflow.errors.OpError):
        return ""
    message = " ".join(error.message.split())
    named = re.search(r"\b[a-z][a-z0-9]*://[^\s'\"`,;)\]]+", message)
    status = STATUS.get(type(error).__name__)
    if named is None or status is None:
        return ""
    path = named[0].rstrip(".:")
    if answered := re.search(r"HTTP response code (\d{3})", message):
        status = int(answered[1])
    if status == 404 and path.rstrip("/") != bucket_of(path):
        return f"{path}: no such object, or no bucket"
    reason = reason_of(status, path, message)
    return f"{path}: {reason}" if reason else ""


def leave(run: Callable[[], int]) -> None:
    """Runs a command and ends the process with its exit code.

    With tensorflow-io in it a process aborts at its very end, when all is done
    (tensorflow/io#1912), which would make a failure of every success: it ends before.
    """
    code = 1  # of a traceback

    def end() -> None:
        if PLUGINS in sys.modules:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    atexit.register(end)  # before all others, so it comes after them
    try:
        code = run()
    except SystemExit as asked:
        code = asked.code if isinstance(asked.code, int) else int(bool(asked.code))
        raise
    sys.exit(code)
