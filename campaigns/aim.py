"""Runs a command that ends itself, by a signal, at its n-th change of files.

    python -m campaigns.aim FOLDER COUNT_FILE AT SIGNAL DELAY_S \
        MODULE ARGUMENT...

Python tells an audit hook of each file that is opened to be written, renamed or removed
before that happens, and of each request sent. Those below FOLDER, and requests, are
counted; at number AT (from 1; 0: never) the signal comes, DELAY_S later. Their whole
number is left in COUNT_FILE where the command comes to its end.
"""

import atexit
import os
import runpy
import signal
import sys
import threading

signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command's own beginning
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")


class Aim:
    """An audit hook that counts, and shoots once."""

    def __init__(self, folder: str, at: int, number: int, delay_s: float):
        self.folder = folder
        self.at = at
        self.number = number
        self.delay_s = delay_s
        self.count = 0
        self.lock = threading.Lock()

    def __call__(self, event: str, arguments: tuple) -> None:
        if not self._counts(event, arguments):
            return
        with self.lock:
            self.count += 1
            now = self.count == self.at
        if now and self.delay_s:
            threading.Timer(self.delay_s, self._shoot).start()
        elif now:
            self._shoot()

    def _counts(self, event: str, arguments: tuple) -> bool:
        if event == "http.client.send":
            return True
        if event == "open":
            path, _, flags = arguments
            return bool(flags & WRITES) and self._inside(path)
        return event in CHANGES and self._inside(arguments[0])

    def _inside(self, path) -> bool:
        # A name without a folder is one that shutil.rmtree goes through.
        path = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
        return path.startswith(self.folder) or ("/" not in path and path != "")

    def _shoot(self) -> None:
        if self.number == signal.SIGINT:  # as a terminal: to all in the foreground
            os.killpg(0, self.number)
        else:
            os.kill(os.getpid(), self.number)


def main() -> None:
    folder, count_file, at, number, delay_s, module, *arguments = sys.argv[1:]
    aim = Aim(folder, int(at), int(number), float(delay_s))
    atexit.register(_leave_count, count_file, aim)
    sys.argv = [module, *arguments]
    sys.addaudithook(aim)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _leave_count(path: str, aim: Aim) -> None:
    with open(path, "w") as file:
        file.write(str(aim.count))


if __name__ == "__main__":
    main()
