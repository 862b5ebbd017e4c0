"""Mistakes that a user can fix: shown as lines without a traceback, exit code 2."""

import errno
import os
import sys
from collections.abc import Sequence


class UserError(Exception):
    """One or several problems in what the user gave: files, flags or config.

    Each line names the thing, the fact and what to do.
    """

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


def warn(text: str) -> None:
    """Prints a line on stderr at once, for what is no reason to stop."""
    print(text, file=sys.stderr, flush=True)


FREE_SOME = "; free some, then run it again"
ADVICE = {
    errno.ENOSPC: FREE_SOME,
    errno.EDQUOT: FREE_SOME,
    errno.EROFS: "; give another folder",
    errno.EACCES: "; give another folder, or yourself the right to it",
    errno.ENAMETOOLONG: "; give shorter names",
}


def of_disk(error: OSError) -> str:
    """Which file the system refused, why, and what to do; "" where it says no file.

    >>> of_disk(OSError(errno.ENOSPC, "No space left on device", "a.png"))
    'a.png: No space left on device; free some, then run it again'
    """
    if not error.errno or error.filename is None:
        return ""
    name = os.fsdecode(error.filename)
    return f"{name}: {error.strerror}{ADVICE.get(error.errno, '')}"
