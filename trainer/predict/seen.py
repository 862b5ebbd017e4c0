"""Which version of each image was segmented, by the time of its last change.

Times of outputs would not tell: clocks step back, and a file that is copied over
another may be the older one.
"""

import json

from preprocess import files
from trainer.predict.images import Job

NAME = ".predict-images.jsonl"  # [name, time of the image] a line, the last one counts


class Seen:
    """The images whose outputs lie in a folder; of a remote one nothing is noted."""

    def __init__(self, output: str):
        self.path = files.join(output, NAME)
        self.kept = not files.is_remote(output)
        self.times: dict[str, float] = {}
        if self.kept and files.exists(self.path):
            for line in files.read_bytes(self.path).splitlines():
                try:
                    name, time = json.loads(line)
                except ValueError:  # cut off by a kill, or by a full disk
                    continue
                self.times[name] = time

    def add(self, names: list[str], updated: float) -> None:
        """Notes images whose outputs are there.

        Args:
          names: the jobs'.
          updated: when their file was last changed, s since 1970.
        """
        if self.kept:
            lines = "".join(f"\n{json.dumps([name, updated])}" for name in names)
            with files.naming(self.path), open(self.path, "ab", buffering=0) as file:
                file.write(lines.encode())

    def is_done(self, job: Job, paths: list[str], there: dict[str, float]) -> bool:
        """Whether all outputs are there, and of the image as it is.

        Args:
          job: the image.
          paths: of its outputs.
          there: when each file in the folder was last changed.
        """
        if not all(path in there for path in paths):
            return False
        if job.name in self.times:
            return self.times[job.name] == job.updated
        return all(there[path] >= job.updated for path in paths)
