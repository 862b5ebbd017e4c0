"""A Dataflow worker: it has nothing but what a job has staged in its bucket."""

import pathlib

from tests.cloud import dataflow
from tests.cloud.stores import BUCKET
from tests.commands import process
from unet_tfrecords.storage import files


def as_whole(value):
    """Numbers of the JSON that the API takes, where all are doubles."""
    if isinstance(value, dict):
        return {name: as_whole(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [as_whole(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Worker:
    """What a job's workers do first: they fetch what it names, install it, run it."""

    def __init__(self, front, folder: pathlib.Path):
        self.front = front
        self.staged = folder / "staged"
        self.staged.mkdir()
        self.environment = folder / "environment"

    def fetch(self, address: str) -> pathlib.Path:
        path = self.staged / files.basename(address)
        path.write_bytes(self.front.get(address.removeprefix(f"gs://{BUCKET}/")))
        return path

    def __call__(self, job) -> dict[str, int]:
        options = as_whole(job["environment"]["sdkPipelineOptions"]["options"])
        for package in job["environment"]["workerPools"][0]["packages"]:
            place = package["location"].removeprefix("storage.googleapis.com/")
            assert files.basename(place) == package["name"]
            self.fetch(f"gs://{place}")
        self.python = dataflow.install(
            self.staged / "workflow.tar.gz", self.environment
        )
        return dataflow.work(self.fetch(options["pipelineUrl"]), options, self.python)

    def says(self, code: str) -> str:
        """What a line of Python prints there, elsewhere than in this checkout."""
        there = {"cwd": self.staged, "env": {"PYTHONPATH": ""}}
        done = process(self.python, "-c", code, **there)
        return (done.stdout + done.stderr).strip()
