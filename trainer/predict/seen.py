"""Which image each output was made of, and how.

Times of outputs would not tell: clocks step back, a file that is copied over another
may be the older one, and two folders can hold images of the same name.
"""

import json
import os
from typing import Any

from trainer.predict.inputs import Job
from unet_tfrecords.storage import files, json_files

NAME = ".predict-images.jsonl"  # [job's name, Image] a line; the last one counts
Image = tuple[str, int, float, str]  # path, bytes, time of its last change, how


class Seen:
    """The images whose outputs lie in a folder; of a remote one nothing is noted."""

    def __init__(self, output: str, record: dict[str, Any]):
        """Reads what is noted.

        Args:
          output: the folder.
          record: how outputs are made now, the images apart.
        """
        self.path = files.join(output, NAME)
        self.kept = not files.is_remote(output)
        self.how = json_files.fingerprint([record])
        self.images: dict[str, Image] = {}
        if self.kept and files.exists(self.path):
            for line in files.read_bytes(self.path).splitlines():
                try:
                    name, (path, size, updated, how) = json_files.parse(line)
                    self.images[str(name)] = (str(path), size, updated, how)
                except (ValueError, TypeError):  # cut off by a kill, or by a full disk
                    continue

    def image(self, job: Job) -> Image:
        """What is noted of an image."""
        path = job.page.path
        if files.is_remote(path):
            return path, 0, job.updated, self.how
        return os.path.abspath(path), files.size_of(path), job.updated, self.how

    def add(self, jobs: dict[str, Image]) -> None:
        """Notes images, by their jobs' names, whose outputs are there."""
        if self.kept:
            lines = "".join(f"\n{json.dumps(each)}" for each in jobs.items())
            # Not through a link: it might lead to any other file.
            how = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            with files.naming(self.path):
                with open(os.open(self.path, how, 0o666), "ab", buffering=0) as file:
                    file.write(lines.encode())

    def other_image(self, job: Job) -> str:
        """The path of another image, still there, that this job's outputs are of."""
        path = self.images.get(job.name, ("",))[0]
        if not path or path == self.image(job)[0]:
            return ""
        # Of what is gone the image may be the same, moved.
        return path if files.is_remote(path) or os.path.exists(path) else ""

    def is_done(self, job: Job, paths: list[str], there: dict[str, float]) -> bool:
        """Whether all outputs are there, and of the image as it is, made as now.

        Args:
          job: the image; it may have been moved since.
          paths: of its outputs.
          there: when each file in the folder was last changed.
        """
        if not all(path in there for path in paths):
            return False
        if job.name in self.images:
            return self.images[job.name][1:] == self.image(job)[1:]
        return all(there[path] >= job.updated for path in paths)
