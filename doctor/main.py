"""Looks at this machine, its packages, GPUs and the given places; names the cures.

Exit code 0: all is fine; 1: something is not; 2: not asked as it can be.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from doctor import devices, host, packages, places
from doctor.finding import Finding

WRONG = 1
INTERRUPTED = 130  # 128 + SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="./launch.sh doctor", description=__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "--input", default="", help="folder of images, local, gs:// or s3://"
    )
    parser.add_argument(
        "--output", default="", help="folder to write to, local, gs:// or s3://"
    )
    given = parser.parse_args(argv)
    for name in ("input", "output"):
        if getattr(given, name) == "" and f"--{name}=" in (argv or sys.argv):
            parser.error(f"--{name} is empty")
    logging.disable(logging.WARNING)  # of clients: what matters is in our lines
    local_output = "" if "://" in given.output else given.output
    remote = {path for path in (given.input, given.output) if "://" in path}
    wrong = 0
    for look in (
        host.look(local_output),
        packages.look(),
        places.look(given.input, given.output),
    ):
        for finding in look:
            if not show(finding):
                wrong += 1
                remote -= {path for path in remote if path in finding.what}
    wrong += sum(not show(finding) for finding in devices.look(sorted(remote)))
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
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\ndoctor: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    run()
