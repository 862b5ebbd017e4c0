"""Mistakes that a user can mend: shown as lines without a traceback, exit code 2."""

from collections.abc import Sequence


class UserError(Exception):
    """One or several problems in what the user gave: files, flags or config.

    Each line names the thing, the fact and what to do.
    """

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))
