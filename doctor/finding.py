"""What one look found."""

from typing import NamedTuple


class Finding(NamedTuple):
    """One line of the report.

    Attributes:
      what: was looked at.
      says: what was found.
      cure: a command, or what to do; "" where all is well.
    """

    what: str
    says: str
    cure: str = ""
