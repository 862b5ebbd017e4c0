"""The trainer's commands by name: `python -m trainer.main COMMAND --flag=value ...`."""

import signal
import sys

if __name__ == "__main__" and (
    signal.getsignal(signal.SIGINT) is not signal.SIG_IGN  # as in the background
):
    # Ctrl-C before all is imported ends it without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from trainer.commands import (
    compare,
    cross_validate,
    evaluate,
    export,
    predict,
    summary,
    train,
)

MODULES = (train, evaluate, cross_validate, compare, export, predict, summary)
COMMANDS = {module.COMMAND.name: module.COMMAND for module in MODULES}


def run() -> None:
    """Runs the command that the first argument names."""
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        print(
            f"usage: python -m trainer.main {'|'.join(COMMANDS)} ...", file=sys.stderr
        )
        sys.exit(2)
    [chosen] = [module for module in MODULES if module.COMMAND.name == name]
    chosen.run()


if __name__ == "__main__":
    run()
