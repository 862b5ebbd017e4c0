"""Stores on loopback: an emulator each, with a front before it that can do harm.

gs:// fake-gcs-server (Go), s3:// moto (Python), az:// azurite (Node), and a plain web
server, which is a folder. `.ci/engines` fetches the first and the third.
"""

import contextlib
import functools
import http.server
import io
import json
import logging
import os
import pathlib
import socket
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator

import pytest

from tests.cloud.front import POLL_S, Front
from tests.ports import free_port

ENGINES = pathlib.Path(__file__).parents[2] / ".engines"
GCS_SERVER = ENGINES / "fake-gcs-server"
AZURE_SERVER = ENGINES / "node/node_modules/azurite/dist/src/blob/main.js"
BUCKET = "models"
START_S = 60  # until a server must answer
# Everybody's: that of Microsoft's emulators.
AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBek"
    "soGMGw=="
)


class Store(Front):
    """An empty bucket.

    Attributes:
      root: its address, without a slash at its end.
      environment: how a process is led to it.
      reads: "METHOD path" of a request for an object's bytes, for `harm`.
      lists: the same of a request for a list.
      writes: the same of a request that sends bytes.
    """

    root: str
    environment: dict[str, str]
    reads: str
    lists: str
    writes: str

    def reads_of(self, name: str) -> str:
        """A pattern of requests for the bytes of objects with this in their names."""
        return self.reads.replace(" ", f" (?=.*{name})", 1)

    def names(self, prefix: str = "") -> list[str]:
        """Lists the objects. This method and the next two bypass the faults."""
        raise NotImplementedError

    def put(self, name: str, content: bytes) -> None:
        raise NotImplementedError

    def get(self, name: str) -> bytes:
        raise NotImplementedError

    def upload(self, folder: pathlib.Path, prefix: str) -> None:
        """Lays a folder's files into the bucket."""
        for path in filter(pathlib.Path.is_file, sorted(folder.rglob("*"))):
            self.put(f"{prefix}/{path.relative_to(folder)}", path.read_bytes())

    def fetch(self, prefix: str, folder: pathlib.Path) -> pathlib.Path:
        """Copies what begins with a prefix to a folder."""
        for name in self.names(prefix):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.get(name))
        return folder


class GoogleStore(Store):
    root = f"gs://{BUCKET}"
    reads, lists, writes = "GET .*alt=media", "GET .*/o([?]|$)", "(POST|PUT) /upload"

    def __init__(self) -> None:
        super().__init__()
        self.environment = {
            "STORAGE_EMULATOR_HOST": self.address,
            "GOOGLE_CLOUD_PROJECT": "test",
            "NO_GCE_CHECK": "true",
            # Google's client asks another host of its own about the account.
            "GOOGLE_AUTH_TRUST_BOUNDARY_ENABLED": "false",
        }

    def _object(self, name: str) -> str:
        return f"/storage/v1/b/{BUCKET}/o/{urllib.parse.quote(name, safe='')}"

    def make_bucket(self) -> None:
        kind = {"Content-Type": "application/json"}
        told = self.ask(
            "POST", "/storage/v1/b", kind, f'{{"name":"{BUCKET}"}}'.encode()
        )
        assert told[0] == 200, told

    def names(self, prefix: str = "") -> list[str]:
        query = urllib.parse.urlencode({"prefix": prefix})
        told = self.ask("GET", f"/storage/v1/b/{BUCKET}/o?{query}", {}, b"")[2]
        return sorted(item["name"] for item in json.loads(told).get("items", []))

    def put(self, name: str, content: bytes) -> None:
        query = urllib.parse.urlencode({"uploadType": "media", "name": name})
        kind = {"Content-Type": "application/octet-stream"}
        path = f"/upload/storage/v1/b/{BUCKET}/o?{query}"
        assert self.ask("POST", path, kind, content)[0] == 200

    def get(self, name: str) -> bytes:
        told = self.ask("GET", f"{self._object(name)}?alt=media", {}, b"")
        assert told[0] == 200, (name, told[0])
        return told[2]

    def generation(self, name: str) -> int:
        """Which of the objects that had this name one after another it is."""
        return int(
            json.loads(self.ask("GET", self._object(name), {}, b"")[2])["generation"]
        )


class AmazonStore(Store):
    root = f"s3://{BUCKET}"
    reads, lists, writes = f"GET /{BUCKET}/.", "GET .*list-type=2", f"PUT /{BUCKET}/"

    def __init__(self) -> None:
        super().__init__()
        self.environment = {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def make_bucket(self) -> None:
        import boto3

        self.client = boto3.client(
            "s3",
            endpoint_url="http://{}:{}".format(*self.upstream),
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        # All of moto's servers in a process have the same buckets.
        assert self.ask("POST", "/moto-api/reset", {}, b"")[0] == 200
        self.client.create_bucket(Bucket=BUCKET)

    def names(self, prefix: str = "") -> list[str]:
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return [entry["Key"] for entry in found.get("Contents", [])]

    def put(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=name, Body=content)

    def get(self, name: str) -> bytes:
        return self.client.get_object(Bucket=BUCKET, Key=name)["Body"].read()


class AzureStore(Store):
    root = f"az://{BUCKET}"
    account = "devstoreaccount1"
    reads = f"GET /{account}/{BUCKET}/."
    lists = f"GET /{account}/{BUCKET}[?].*comp=list"
    writes = f"PUT /{account}/{BUCKET}/"

    def __init__(self) -> None:
        super().__init__()
        self.environment = {
            "AZURE_STORAGE_CONNECTION_STRING": self._login(self.address)
        }

    def _login(self, address: str) -> str:
        return (
            f"DefaultEndpointsProtocol=http;AccountName={self.account};"
            f"AccountKey={AZURE_KEY};BlobEndpoint={address}/{self.account};"
        )

    def make_bucket(self) -> None:
        from azure.storage.blob import ContainerClient

        login = self._login("http://{}:{}".format(*self.upstream))
        self.client = ContainerClient.from_connection_string(login, BUCKET)
        self.client.create_container()

    def names(self, prefix: str = "") -> list[str]:
        return sorted(self.client.list_blob_names(name_starts_with=prefix))

    def put(self, name: str, content: bytes) -> None:
        self.client.upload_blob(name, content, overwrite=True)

    def get(self, name: str) -> bytes:
        return self.client.download_blob(name).readall()


class WebStore(Store):
    """A web server's folder, which can be read only."""

    reads, lists, writes = "GET .*[.]", "GET .*/$", "PUT never"
    environment: dict[str, str] = {}

    def __init__(self, folder: pathlib.Path):
        super().__init__()
        self.folder = folder
        self.root = f"{self.address}/{BUCKET}"

    def make_bucket(self) -> None:
        (self.folder / BUCKET).mkdir()

    def names(self, prefix: str = "") -> list[str]:
        paths = (self.folder / BUCKET).rglob("*")
        found = (str(p.relative_to(self.folder / BUCKET)) for p in paths if p.is_file())
        return sorted(name for name in found if name.startswith(prefix))

    def put(self, name: str, content: bytes) -> None:
        path = self.folder / BUCKET / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def get(self, name: str) -> bytes:
        return (self.folder / BUCKET / name).read_bytes()


@contextlib.contextmanager
def _process(*command: str, port: int) -> Iterator[None]:
    """A server that is a process, until the block ends."""
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            end = time.monotonic() + START_S
            while True:
                assert server.poll() is None and time.monotonic() < end, command
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                time.sleep(0.02)
            yield
        finally:
            server.kill()


@contextlib.contextmanager
def google(folder: pathlib.Path) -> Iterator[GoogleStore]:
    if not GCS_SERVER.exists():
        pytest.skip("no fake-gcs-server here (.ci/engines fetches it)")
    port = free_port()
    with contextlib.closing(GoogleStore()) as store:
        store.upstream = ("127.0.0.1", port)
        command = [str(GCS_SERVER), "-scheme", "http", "-host", "127.0.0.1"]
        command += ["-port", str(port), "-backend", "memory", "-log-level", "error"]
        # Addresses that it makes then lead to the front, not past it.
        command += ["-external-url", store.address]
        command += ["-public-host", store.address.removeprefix("http://")]
        with _process(*command, port=port):
            store.make_bucket()
            yield store


@contextlib.contextmanager
def amazon(folder: pathlib.Path) -> Iterator[AmazonStore]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    with contextlib.closing(AmazonStore()) as store:
        store.upstream = server.get_host_and_port()
        try:
            store.make_bucket()
            yield store
        finally:
            store.client.close()
            server.stop()


@contextlib.contextmanager
def azure(folder: pathlib.Path) -> Iterator[AzureStore]:
    if not AZURE_SERVER.exists():
        pytest.skip("no azurite here (.ci/engines fetches it)")
    port = free_port()
    command = ["node", str(AZURE_SERVER), "--inMemoryPersistence", "--silent"]
    command += ["--blobHost", "127.0.0.1", "--blobPort", str(port)]
    command += ["--skipApiVersionCheck", "--disableTelemetry"]
    with contextlib.closing(AzureStore()) as store:
        store.upstream = ("127.0.0.1", port)
        with _process(*command, port=port):
            store.make_bucket()
            try:
                yield store
            finally:
                store.client.close()


@contextlib.contextmanager
def web(folder: pathlib.Path) -> Iterator[WebStore]:
    handler = functools.partial(_Ranges, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    serve = functools.partial(server.serve_forever, poll_interval=POLL_S)
    threading.Thread(target=serve, daemon=True).start()
    with contextlib.closing(WebStore(folder)) as store:
        store.upstream = server.server_address
        try:
            store.make_bucket()
            yield store
        finally:
            server.shutdown()
            server.server_close()


class _Ranges(http.server.SimpleHTTPRequestHandler):
    """Python's own server, with ranges, which it lacks and others have."""

    protocol_version = "HTTP/1.1"

    def send_head(self):
        asked = self.headers.get("Range", "")
        path = self.translate_path(self.path)
        if not asked or not os.path.isfile(path):
            return super().send_head()
        content = pathlib.Path(path).read_bytes()
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last or len(content)) + 1, len(content))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        return io.BytesIO(content[start:stop])

    def log_message(self, *_) -> None:
        pass


def google_account(folder: pathlib.Path, store: GoogleStore) -> pathlib.Path:
    """A service account's key, whose tokens the store gives."""
    import trustme

    key = trustme.CA().issue_cert("account.test", key_type=trustme.KeyType.RSA)
    account = {
        "type": "service_account",
        "client_email": "test@test.iam.gserviceaccount.com",
        "client_id": "1",
        "project_id": "test",
        "private_key_id": "1",
        "private_key": key.private_key_pem.bytes().decode(),
        "token_uri": f"{store.address}/token",
    }
    path = folder / "account.json"
    path.write_text(json.dumps(account))
    return path


OPENERS: dict[str, Callable] = {"gs": google, "s3": amazon, "az": azure, "http": web}
