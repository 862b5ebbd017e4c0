"""S3 on loopback: moto's server, a bucket in it, and how each client is led there."""

import contextlib
import pathlib
import urllib.request
from collections.abc import Iterator

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "models"


class Store:
    """A server with one bucket."""

    def __init__(self, address: str):
        # Beam's boto3 and tensorflow-io alike; the latter learns the address of us.
        self.environment = {
            "AWS_ENDPOINT_URL": address,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.client = boto3.client(
            "s3",
            endpoint_url=address,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        # All of moto's servers in a process have the same buckets.
        request = urllib.request.Request(f"{address}/moto-api/reset", method="POST")
        urllib.request.urlopen(request, timeout=30).close()
        self.client.create_bucket(Bucket=BUCKET)

    def names(self, prefix: str = "") -> list[str]:
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return [entry["Key"] for entry in found.get("Contents", [])]

    def upload(self, folder: pathlib.Path, prefix: str) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name = f"{prefix}/{path.relative_to(folder)}"
                self.client.put_object(Bucket=BUCKET, Key=name, Body=path.read_bytes())

    def fetch(self, prefix: str, folder: pathlib.Path) -> pathlib.Path:
        for name in self.names(f"{prefix}/"):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            answer = self.client.get_object(Bucket=BUCKET, Key=name)
            path.write_bytes(answer["Body"].read())
        return folder / prefix


@contextlib.contextmanager
def store() -> Iterator[Store]:
    """An empty bucket for as long as the block lasts."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield Store(f"http://{host}:{port}")
    finally:
        server.stop()
