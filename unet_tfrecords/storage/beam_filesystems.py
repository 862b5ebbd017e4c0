"""Beam's file systems: the only module of the shared rooms that imports Beam.

Two things are not in Beam's public API and are isolated here:

* `FileSystems._pipeline_options`: there is no other way to see whether a job has set
  options already, which hold its credentials.
* `boto3_client.Client`: Beam makes a boto3 client for each call, which takes longer
  than most calls, and retries for ten minutes what cannot succeed: no login, a host
  that doesn't exist. So one client is shared, and the bucket is asked for first.
"""

import copy
import functools
import os
from typing import Any

CLIENTS: dict[str, Any] = {}  # Beam's, by its S3 options


def file_systems(scheme: str) -> Any:
    """Returns Beam's `FileSystems`, with options, for a scheme such as gs or s3."""
    # Else Google's client asks for the bucket's own metadata before each request.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    from apache_beam.io.filesystems import FileSystems

    if FileSystems._pipeline_options is None and scheme != "gs":
        from apache_beam.options.pipeline_options import PipelineOptions

        FileSystems.set_options(PipelineOptions([]))  # the others refuse to have none
    return FileSystems


def uncompressed() -> str:
    """Returns Beam's word for bytes as they are stored."""
    from apache_beam.io.filesystem import CompressionTypes

    return CompressionTypes.UNCOMPRESSED


def prepare_s3(bucket: str) -> None:
    """Shares one client, and asks for the bucket once.

    Args:
      bucket: as s3://NAME.

    Raises:
      Exception: boto3's, for no login, no answer or no bucket.
    """
    _share_client()
    check_bucket(bucket)


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
    boto3_client.Client = client  # type: ignore[misc, assignment]  # a subclass takes its place


@functools.cache
def check_bucket(bucket: str) -> None:
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
