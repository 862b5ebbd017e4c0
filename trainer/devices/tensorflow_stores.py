"""Object stores as TensorFlow reaches them: by clients of its own, not by Beam's.

gs:// is built in. Others come with tensorflow-io, whose plug-ins load into TensorFlow
2.17 alone. What these clients raise becomes one line, as in storage.object_store.
"""

import atexit
import contextlib
import errno
import functools
import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence

from absl import flags

from unet_tfrecords.command import cli, signals
from unet_tfrecords.command.errors import ADVICE, UserError
from unet_tfrecords.storage import files
from unet_tfrecords.storage.object_store import (
    NO_GOOD_ANSWER,
    NO_OBJECT,
    reason_of,
    scheme_of,
    store_error,
)

PATTERNS = "[]*?\\"  # in names, to TensorFlow's file systems
PLUGINS = "tensorflow_io"
PLUGINS_WANT = "2.17."
ENVIRONMENT = f"UNET_FLAVOUR=io ./launch.sh has TensorFlow {PLUGINS_WANT}x, which does"
# What only a store's client says: its answer, or why there was none.
ANSWERED = re.compile(r"HTTP response code (\d{3})")
NO_ANSWER = re.compile(r"libcurl code \d+ meaning '([^']+)'|curlCode: \d+, ([\w ]+)")
STORE = re.compile(
    "executing an HTTP request|curlCode|No response body|NoSuch(Bucket|Key)|"
    "AccessDenied|InvalidAccessKeyId"
)
PATH = re.compile(r"\b(?!https?:)[a-z][a-z0-9]*://[^\s'\"`,;)\]{}]+")
DISK_REASONS = {
    os.strerror(number): number
    for number in (*ADVICE, errno.EPERM, errno.EIO, errno.ENOENT, errno.ENOTDIR)
}
DISK = re.compile(rf"(?:^|}}}} )([^;{{}}]+); ({'|'.join(DISK_REASONS)})")
STATUS = {  # of tf.errors without an HTTP status; 503 for all others
    "UnauthenticatedError": 401,
    "PermissionDeniedError": 403,
    "NotFoundError": 404,
}
ENVIRONMENT_OF = {  # what tensorflow-io reads: what everybody else does
    "S3_ENDPOINT": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "S3_CA_FILE": ("AWS_CA_BUNDLE",),
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
        _load_plugins()
    if scheme_of(path) not in known():
        ways = f"{instead}, or take another: {ENVIRONMENT}" if instead else ENVIRONMENT
        raise UserError(
            f"{path}: TensorFlow {tf.__version__} can't reach {scheme_of(path)}://; "
            f"{ways} (docs/storage.md)"
        )


def _load_plugins() -> None:
    """Loads tensorflow-io, if it is here; it registers its schemes."""
    for theirs, names in ENVIRONMENT_OF.items():
        if given := [os.environ[name] for name in names if name in os.environ]:
            os.environ.setdefault(theirs, given[0])
    with contextlib.suppress(ImportError):
        importlib.import_module(PLUGINS)


def explained(run: cli.Run) -> cli.Run:
    """A command that tells of a store in one line; all other errors pass."""

    @functools.wraps(run)
    def told(values: flags.FlagValues, rest: list[str]) -> None:
        try:
            run(values, rest)
        except Exception as error:
            given = [values[name].value for name in values]
            places = [v for v in given if isinstance(v, str) and files.is_remote(v)]
            if line := line_of(error, places):
                raise store_error(line) from error
            if of_disk := disk_error(error):
                raise of_disk from error
            raise

    return told


def check_name(name: str) -> None:
    """Refuses what TensorFlow takes for a pattern, and finds nothing below.

    Raises:
      UserError: of weights below such a folder.
    """
    if set(name) & set(PATTERNS):
        raise UserError(
            f"{name}: TensorFlow finds no weights below a name with {PATTERNS}; "
            "take another"
        )


def line_of(error: Exception, places: Sequence[str] = ()) -> str:
    """What a store's client in TensorFlow has said, in one line; "" if it is not one's.

    Args:
      error: whatever was raised; TensorFlow passes such on as several classes.
      places: what the command was given, for clients that don't name the object.
    """
    message = " ".join(str(error).split())
    named = PATH.findall(message) or list(places)
    if not (STORE.search(message) and named):
        return ""
    path = named[0].rstrip(".:")
    if found := NO_ANSWER.search(message):
        return f"{path}: {NO_GOOD_ANSWER.format((found[1] or found[2]).strip())}"
    answered = ANSWERED.search(message)
    kind = type(error).__name__
    status = int(answered[1]) if answered else STATUS.get(kind, 503)
    if status == 404 and "NoSuchBucket" not in message:
        return NO_OBJECT.format(path)
    return f"{path}: {reason_of(status, path, message)}"


def disk_error(error: Exception) -> OSError | None:
    """What Python would have raised where TensorFlow met a full disk or the like.

    Args:
      error: TensorFlow's, which says "PATH; REASON" among other things.
    """
    if not (found := DISK.search(str(getattr(error, "message", "")))):
        return None
    return OSError(DISK_REASONS[found[2]], found[2], found[1])


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
    signals.leave(code)


def entry_point(command: cli.Command) -> Callable[[], None]:
    """What a console script calls."""
    return lambda: leave(lambda: cli.main(command))
