"""Files as TensorFlow reads and writes them: on this machine's disks alone.

Files of a store are copied to this machine first, or to the store afterwards.
"""

import errno
import functools
import os
import re

from absl import flags

from unet_tfrecords.command import cli
from unet_tfrecords.command.errors import ADVICE, UserError
from unet_tfrecords.storage import files

PATTERNS = "[]*?\\"  # in names, to TensorFlow's file systems
DISK_REASONS = {
    os.strerror(number): number
    for number in (*ADVICE, errno.EPERM, errno.EIO, errno.ENOENT, errno.ENOTDIR)
}
DISK = re.compile(rf"(?:^|}}}} )([^;{{}}]+); ({'|'.join(DISK_REASONS)})")


def explained(run: cli.Run) -> cli.Run:
    """Wraps a command: a full disk, or another error of a disk, becomes one line."""

    @functools.wraps(run)
    def told(values: flags.FlagValues, rest: list[str]) -> None:
        try:
            run(values, rest)
        except Exception as error:
            if of_disk := disk_error(error):
                raise of_disk from error
            raise

    return told


def check_name(name: str) -> None:
    """Refuses what TensorFlow takes for a pattern, and finds nothing below.

    Raises:
      UserError: of weights below such a folder.
    """
    if not files.is_remote(name) and set(name) & set(PATTERNS):
        raise UserError(
            f"{name}: TensorFlow finds no weights below a name with {PATTERNS}; "
            "take another"
        )


def disk_error(error: Exception) -> OSError | None:
    """Returns the error that Python raises for the same problem of a disk, if any.

    Args:
      error: TensorFlow's, which says "PATH; REASON" among other things.
    """
    if not (found := DISK.search(str(getattr(error, "message", "")))):
        return None
    return OSError(DISK_REASONS[found[2]], found[2], found[1])
