"""`python -m doctor.main`, also where nothing is installed: then it says so."""

import sys

from doctor import host, packages
from doctor.finding import show


def run() -> None:
    """Entry point of `unet-doctor`."""
    try:
        from doctor import examine
    except ImportError as error:
        show(host.look(""))
        sys.exit(show([packages.not_installed(str(error))]))
    examine.run()


if __name__ == "__main__":
    run()
