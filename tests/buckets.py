"""A bucket on loopback that honours preconditions, for tests.

gcp-storage-emulator ignores `ifGenerationMatch`; a front before it enforces what it
says of objects that must not exist, one request at a time, as Google's servers do.
"""

import contextlib
import http.client
import http.server
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from typing import NamedTuple

from gcp_storage_emulator.server import create_server

BUCKET = "models"


class Request(NamedTuple):
    """What came to the front."""

    method: str
    path: str
    status: int


class Front(http.server.ThreadingHTTPServer):
    """Passes requests on to the emulator, and keeps count of them."""

    daemon_threads = True

    def __init__(self, emulator: tuple[str, int]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.emulator = emulator
        self.lock = threading.Lock()
        self.seen: list[Request] = []
        # What befalls an object's bytes on their way, and what is told of objects.
        self.tamper: Callable[[str, bytes], bytes] = lambda name, body: body
        self.retell: Callable[[str, bytes], bytes] = lambda path, content: content

    def handle_error(self, *_) -> None:
        """A client that hung up is no news."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def ask(self, method: str, path: str, headers, body: bytes):
        connection = http.client.HTTPConnection(*self.emulator, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def exists(self, name: str) -> bool:
        path = f"/storage/v1/b/{BUCKET}/o/{urllib.parse.quote(name, safe='')}"
        return self.ask("GET", path, {}, b"")[0] == 200


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)
        must_be_new = query.get("ifGenerationMatch") == ["0"]
        headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
        with self.server.lock:
            name = query.get("name", [_name_in(body)])[0]
            if must_be_new and self.server.exists(name):
                answer = (
                    412,
                    [],
                    b'{"error": {"code": 412, "message": "conditionNotMet"}}',
                )
            else:
                body = self.server.tamper(name, body)
                answer = self.server.ask(self.command, self.path, headers, body)
            status, answered, content = answer
            content = self.server.retell(self.path, content)
            self.server.seen.append(Request(self.command, name or self.path, status))
        self.send_response(status)
        for key, value in answered:
            if key.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = _pass_on

    def log_message(self, *_) -> None:
        pass


def _name_in(body: bytes) -> str:
    """An object's name, from the metadata of a multipart upload."""
    marker = b'"name": "'
    if marker not in body:
        return ""
    return body.split(marker, 1)[1].split(b'"', 1)[0].decode()


@contextlib.contextmanager
def bucket() -> Iterator[Front]:
    """An empty bucket for as long as the block lasts."""
    emulator = create_server("127.0.0.1", 0, in_memory=True, default_bucket=BUCKET)
    emulator.start()
    front = Front(emulator._api._httpd.server_address)
    thread = threading.Thread(target=front.serve_forever, daemon=True)
    thread.start()
    try:
        yield front
    finally:
        front.shutdown()
        front.server_close()
        emulator.stop()
