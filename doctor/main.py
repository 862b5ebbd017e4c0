"""Looks at this machine, its packages, GPUs and the given places; names the cures.

Exit code 0: all is fine; 1: something is not.
"""

import argparse
import sys
from collections.abc import Sequence

from doctor import devices, host, packages, places
from doctor.finding import Finding

WRONG = 1


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="./launch.sh doctor", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--input", default="", help="folder of images, local or gs://")
    parser.add_argument("--output", default="", help="folder to write to, or gs://")
    given = parser.parse_args(argv)
    remote = [path for path in (given.input, given.output) if "://" in path]
    local_output = "" if "://" in given.output else given.output
    looks = (
        host.look(local_output),
        packages.look(),
        devices.look(remote),
        places.look(given.input, given.output),
    )
    wrong = sum(not show(finding) for look in looks for finding in look)
    print(f"{wrong} to mend" if wrong else "all fine")
    return WRONG if wrong else 0


def show(finding: Finding) -> bool:
    """Prints a line; returns whether it is fine."""
    mark = "WRONG" if finding.cure else "fine "
    print(f"{mark}  {finding.what}: {finding.says}", flush=True)
    if finding.cure:
        print(f"       -> {finding.cure}", flush=True)
    return not finding.cure


def run() -> None:
    """Entry point of `unet-doctor` and `python -m doctor.main`."""
    sys.exit(main())


if __name__ == "__main__":
    run()
