"""CSV tables that people open in a spreadsheet."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any


def as_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """A table as CSV, lines ended by a line feed.

    Args:
      header: the columns' names.
      rows: values; None is an empty cell.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def not_a_formula(text: str) -> str:
    """Text that a spreadsheet takes for text; the quotation mark is the usual way.

    >>> not_a_formula("=cmd/folder/a"), not_a_formula("HeLa/01/t000")
    ("'=cmd/folder/a", 'HeLa/01/t000')
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
