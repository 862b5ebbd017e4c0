"""What one look found."""

import sys
from collections.abc import Iterable
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


def show(findings: Iterable[Finding]) -> int:
    """Prints findings as they come; returns how many are wrong."""
    wrong = 0
    for finding in findings:
        print(f"{'WRONG' if finding.cure else 'fine '}  {finding.what}: {finding.says}")
        if finding.cure:
            print(f"       -> {finding.cure}")
            wrong += 1
        sys.stdout.flush()
    return wrong
