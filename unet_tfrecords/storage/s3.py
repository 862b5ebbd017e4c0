"""What Beam's s3:// lacks: one client for all calls, a look at the bucket first.

Beam makes a client of boto3's for each call, which takes longer than most calls, and
repeats for ten minutes what no repeating mends: no login, a host that isn't there.
"""

import copy
import functools
from typing import Any

CLIENTS: dict[str, Any] = {}  # Beam's, by its options of S3


def prepare(bucket: str) -> None:
    """Makes Beam, which has options by now, ready for a bucket; asks for it once.

    Args:
      bucket: scheme included.
    """
    _share_client()
    _look(bucket)


@functools.cache
def _share_client() -> None:
    """Gives each call a copy of Beam's one client, with boto3's client inside shared.

    Boto3's is made to be shared by threads; Beam's keeps a place in a download.
    """
    from apache_beam.io.aws.clients.s3 import boto3_client
    from apache_beam.options.pipeline_options import S3Options

    make = boto3_client.Client

    def client(options: Any) -> Any:
        view = options.view_as(S3Options)
        names = sorted(name for name in dir(view) if name.startswith("s3_"))
        chosen = str([getattr(view, name) for name in names])
        if chosen not in CLIENTS:
            CLIENTS[chosen] = make(options)
        return copy.copy(CLIENTS[chosen])

    # A function in a class's place, which Beam only calls.
    boto3_client.Client = client  # type: ignore[misc, assignment]


@functools.cache
def _look(bucket: str) -> None:
    """Asks boto3 for a bucket, which tells at once what Beam tells after minutes.

    Raises:
      Exception: boto3's, of no login, no answer or no bucket.
    """
    from apache_beam.io.aws import s3io
    from apache_beam.io.filesystems import FileSystems
    from botocore.exceptions import ClientError

    client = s3io.S3IO(options=FileSystems._pipeline_options).client.client
    try:
        client.head_bucket(Bucket=bucket.removeprefix("s3://"))
    except ClientError as error:
        # Who may read objects need not have the right to ask for the bucket.
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            raise
