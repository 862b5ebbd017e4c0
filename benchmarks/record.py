"""What a benchmark measured, in the form that they all share and the page draws.

A row is one side's samples of one quantity. `group` parts what is compared (a frame's
size, a data set); `at` is the amount of work where the question is how something grows.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import sys
from collections.abc import Callable, Sequence

from unet_tfrecords.command.errors import UserError


@dataclasses.dataclass(frozen=True)
class Row:
    quantity: str  # what was measured: "time of a step"
    unit: str
    side: str  # "this project", or a peer's name
    samples: list[float]
    group: str = ""
    at: float | None = None
    of: str = ""  # what `at` counts: "width"

    @property
    def median(self) -> float:
        return statistics.median(self.samples)


class Record:
    """Rows, and the sides that could not be measured."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.missing: dict[str, str] = {}

    def add(
        self,
        quantity: str,
        side: str,
        samples: Sequence[float],
        *,
        unit: str,
        group: str = "",
        at: float | None = None,
        of: str = "",
    ) -> None:
        """Takes what one side did."""
        row = Row(quantity, unit, side, list(map(float, samples)), group, at, of)
        self.rows.append(row)

    def lacks(self, side: str, why: str) -> None:
        """Says that a peer was not measured."""
        self.missing[side] = why

    def write(self, path: str) -> None:
        """Writes JSON; nowhere for an empty path."""
        if path:
            pathlib.Path(path).write_text(json.dumps(self.as_json(), indent=1) + "\n")

    def as_json(self) -> dict:
        return {"rows": list(map(_tidy, self.rows)), "missing": self.missing}


def _tidy(row: Row) -> dict:
    """Without what is empty, in six digits."""
    found = dataclasses.asdict(row)
    found["samples"] = [float(f"{sample:.6g}") for sample in row.samples]
    return {name: value for name, value in found.items() if value not in ("", None)}


def read(content: dict) -> list[Row]:
    """The rows of what `as_json` gave."""
    return [Row(**row) for row in content["rows"]]


def run(main: Callable[[], None]) -> None:
    """A script's main function, which Ctrl-C and bad input end with one line."""
    try:
        main()
    except UserError as error:
        for problem in error.problems:
            print(f"benchmark: {problem}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("\nbenchmark: interrupted; run it again to go on", file=sys.stderr)
        sys.exit(130)


def parser_of(doc: str) -> argparse.ArgumentParser:
    """What every benchmark's flags begin with, under its docstring."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", default="", help="also writes what was measured here")
    return parser
