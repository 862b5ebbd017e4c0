"""Google Cloud Storage on loopback: an emulator, and a front that it lacks.

gcp-storage-emulator ignores `ifGenerationMatch`, knows no tokens and never fails. The
front before it enforces what is said of objects that must not exist, one request at a
time, as Google's servers do; it wants tokens if told so, and does harm as told.
"""

import contextlib
import functools
import http.client
import http.server
import json
import pathlib
import re
import socket
import ssl
import struct
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import NamedTuple

from gcp_storage_emulator.server import create_server

BUCKET = "models"
POLL_S = 0.02  # until a front that is to stop has noticed


class Request(NamedTuple):
    """What came to the front."""

    method: str
    path: str
    status: int


class Fault(NamedTuple):
    """What befalls a request.

    Attributes:
      status: is answered at once; 0 lets the request through.
      reason: of Google's error, such as rateLimitExceeded.
      reset_after: bytes of the answer's body, after which the connection breaks.
      pause_s: seconds before each 16 kB of the body.
    """

    status: int = 0
    reason: str = "backendError"
    reset_after: int | None = None
    pause_s: float = 0.0


class Front:
    """Passes requests on to the emulator, and keeps count of them."""

    def __init__(self, emulator: tuple[str, int]):
        self.emulator = emulator
        self.lock = threading.Lock()
        self.seen: list[Request] = []
        # What befalls an object's bytes on their way, and what is told of objects.
        self.tamper: Callable[[str, bytes], bytes] = lambda name, body: body
        self.retell: Callable[[str, bytes], bytes] = lambda path, content: content
        self.faults: list[tuple[re.Pattern, list[Fault]]] = []
        self.tokens: set[str] | None = None  # that are good; None: none is asked for
        self.tokens_given = 0
        self.servers: list[http.server.ThreadingHTTPServer] = []
        self.address = f"http://127.0.0.1:{self._serve('127.0.0.1', 0)}"

    def _serve(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        server = _Server((host, port), _Handler)
        server.front = self
        if tls:
            server.socket = tls.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        serve = functools.partial(server.serve_forever, poll_interval=POLL_S)
        threading.Thread(target=serve, daemon=True).start()
        self.servers.append(server)
        return server.server_address[1]

    def serve_tls(self, host: str, certificate: pathlib.Path) -> None:
        """Also answers at port 443 of an address, as Google's own hosts."""
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        self._serve(host, 443, tls)

    def close(self) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def harm(self, pattern: str, *faults: Fault) -> None:
        """The next requests whose "METHOD path" matches meet these, one each."""
        self.faults.append((re.compile(pattern), list(faults)))

    def fault_of(self, request: str) -> Fault:
        with self.lock:
            for pattern, faults in self.faults:
                if faults and pattern.search(request):
                    return faults.pop(0)
        return Fault()

    @property
    def untouched(self) -> int:
        """Faults that have met no request yet."""
        return sum(len(faults) for _, faults in self.faults)

    def give_token(self) -> bytes:
        with self.lock:
            self.tokens_given += 1
            token = f"token-{self.tokens_given}"
            if self.tokens is not None:
                self.tokens.add(token)
        answer = {"access_token": token, "expires_in": 3600, "token_type": "Bearer"}
        return json.dumps(answer).encode()

    def ask(self, method: str, path: str, headers, body: bytes):
        connection = http.client.HTTPConnection(*self.emulator, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def exists(self, name: str) -> bool:
        path = f"/storage/v1/b/{BUCKET}/o/{urllib.parse.quote(name, safe='')}"
        return self.ask("GET", path, {}, b"")[0] == 200

    def names(self, prefix: str = "") -> list[str]:
        """What lies in the bucket."""
        path = f"/storage/v1/b/{BUCKET}/o?prefix={prefix}"
        items = json.loads(self.ask("GET", path, {}, b"")[2]).get("items", [])
        return sorted(item["name"] for item in items)

    def put(self, name: str, content: bytes) -> None:
        """Lays an object into the bucket, past all faults."""
        path = f"/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={name}"
        # Addresses that the emulator makes then lead to the front, not past it.
        host = self.address.removeprefix("http://")
        kind = {"Content-Type": "application/octet-stream", "Host": host}
        assert self.ask("POST", path, kind, content)[0] == 200

    def upload(self, folder: pathlib.Path, prefix: str) -> None:
        """Lays a folder's files into the bucket."""
        for path in filter(pathlib.Path.is_file, folder.rglob("*")):
            self.put(f"{prefix}/{path.relative_to(folder)}", path.read_bytes())

    def fetch(self, prefix: str, folder: pathlib.Path) -> pathlib.Path:
        """Copies what begins with a prefix to a folder."""
        for name in self.names(prefix):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.get(name))
        return folder

    def get(self, name: str) -> bytes:
        """An object's bytes, past all faults."""
        status, _, content = self.ask("GET", f"/{BUCKET}/{name}", {}, b"")
        assert status == 200, (name, status)
        return content


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    front: Front

    def handle_error(self, *_) -> None:
        """A client that hung up is no news."""


def _error(status: int, reason: str):
    content = {
        "code": status,
        "message": reason,
        "errors": [{"reason": reason, "message": reason, "domain": "global"}],
    }
    return status, [], json.dumps({"error": content}).encode()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _pass_on(self) -> None:
        front = self.server.front
        body = self._body()
        query = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)
        name = query.get("name", [_name_in(body)])[0]
        fault = front.fault_of(f"{self.command} {self.path}")
        if self.path.endswith("/token"):
            answer = 200, [("Content-Type", "application/json")], front.give_token()
        elif not self._may():
            answer = _error(401, "authError")
        elif fault.status:
            answer = _error(fault.status, fault.reason)
        else:
            with front.lock:
                answer = self._answer(query, name, body)
        status, answered, content = answer
        content = front.retell(self.path, content)
        front.seen.append(Request(self.command, name or self.path, status))
        self.send_response(status)
        for key, value in answered:
            if key.lower() == "location" and isinstance(self.connection, ssl.SSLSocket):
                there = f"https://{self.headers['Host']}"
                value = value.replace(front.address, there)
            if key.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self._send(content, fault)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _pass_on

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _may(self) -> bool:
        tokens = self.server.front.tokens
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return tokens is None or given in tokens

    def _answer(self, query: dict, name: str, body: bytes):
        front = self.server.front
        if query.get("ifGenerationMatch") == ["0"] and front.exists(name):
            return _error(412, "conditionNotMet")
        skipped = ("transfer-encoding", "content-length", "host")
        headers = {k: v for k, v in self.headers.items() if k.lower() not in skipped}
        # What the emulator tells of further addresses then leads here, not past.
        headers["Host"] = front.address.removeprefix("http://")
        body = front.tamper(name, body)
        if query.get("uploadType") == ["media"] and not body:
            # The emulator breaks down at an empty body, which marks a folder.
            path = self.path.replace("uploadType=media", "uploadType=multipart")
            headers["Content-Type"] = "multipart/related; boundary=empty"
            part = "--empty\r\nContent-Type: {}\r\n\r\n{}\r\n"
            parts = (("application/json", "{}"), ("application/octet-stream", ""))
            body = ("".join(part.format(*p) for p in parts) + "--empty--").encode()
            return front.ask(self.command, path, headers, body)
        return front.ask(self.command, self.path, headers, body)

    def _send(self, content: bytes, fault: Fault) -> None:
        if fault.reset_after is not None:
            self.wfile.write(content[: fault.reset_after])
            self.wfile.flush()
            linger = struct.pack("ii", 1, 0)  # closing sends a reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            self.connection.close()
            return
        if not fault.pause_s:
            self.wfile.write(content)
            return
        for start in range(0, len(content), 1 << 14):
            time.sleep(fault.pause_s)
            self.wfile.write(content[start : start + (1 << 14)])

    def log_message(self, *_) -> None:
        pass


def _name_in(body: bytes) -> str:
    """An object's name, from the metadata of a multipart upload."""
    found = re.search(rb'"name": *"([^"]*)"', body[:4096])
    return found[1].decode() if found else ""


@contextlib.contextmanager
def bucket() -> Iterator[Front]:
    """An empty bucket for as long as the block lasts."""
    emulator = create_server("127.0.0.1", 0, in_memory=True, default_bucket=BUCKET)
    emulator.start()
    front = Front(emulator._api._httpd.server_address)
    try:
        yield front
    finally:
        front.close()
        # Beside, for it looks only every half second whether it is to stop.
        threading.Thread(target=emulator.stop).start()
