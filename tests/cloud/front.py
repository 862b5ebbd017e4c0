"""A server on loopback that passes requests on to another, and does harm as told.

It stands before an emulator of a store. It wants tokens if told so, breaks connections,
answers with errors and takes its time; and it keeps count of what came.
"""

import contextlib
import functools
import http.client
import http.server
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

POLL_S = 0.02  # until a front that is to stop has noticed
HOPS = ("transfer-encoding", "content-length", "connection", "keep-alive")


class Request(NamedTuple):
    """What came to the front."""

    method: str
    path: str
    status: int


class Fault(NamedTuple):
    """What befalls a request.

    Attributes:
      status: is answered at once; 0 lets the request through.
      reason: of the store's error, such as rateLimitExceeded.
      reset_after: bytes of the answer's body, after which the connection breaks.
      pause_s: seconds before each 16 kB of the body.
    """

    status: int = 0
    reason: str = "backendError"
    reset_after: int | None = None
    pause_s: float = 0.0


class Front:
    """Passes requests on to `upstream`, and keeps count of them."""

    def __init__(self) -> None:
        self.upstream = ("", 0)
        self.lock = threading.Lock()
        self.seen: list[Request] = []
        # What befalls an object's bytes on their way.
        self.tamper: Callable[[str, bytes], bytes] = lambda path, body: body
        self.latency_s = 0.0  # before each answer
        self.faults: list[tuple[re.Pattern, list[Fault]]] = []
        self.tokens: set[str] | None = None  # that are good; None: none is asked for
        self.tokens_given = 0
        self.token_lasts_s = 3600
        self.server = _Server(("127.0.0.1", 0), _Handler)
        self.server.front = self
        serve = functools.partial(self.server.serve_forever, poll_interval=POLL_S)
        threading.Thread(target=serve, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def harm(self, pattern: str, *faults: Fault) -> None:
        """The next requests whose "METHOD path" matches meet these, one each."""
        self.faults.append((re.compile(pattern), list(faults)))

    def heal(self) -> None:
        """Forgets all faults."""
        self.faults.clear()

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
        answer = {"access_token": token, "token_type": "Bearer"}
        return json.dumps({**answer, "expires_in": self.token_lasts_s}).encode()

    def ask(self, method: str, path: str, headers, body: bytes):
        """Asks the store itself, past all faults: status, headers, body."""
        connection = http.client.HTTPConnection(*self.upstream, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    front: Front

    def handle_error(self, *_) -> None:
        """A client that hung up is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _pass_on(self) -> None:
        front = self.server.front
        body = self._body()
        fault = front.fault_of(f"{self.command} {self.path}")
        if front.latency_s:
            time.sleep(front.latency_s)
        if self.path.endswith("/token"):
            answer = 200, [("Content-Type", "application/json")], front.give_token()
        elif not self._may():
            answer = _refusal(401, "authError", "Invalid Credentials")
        elif fault.status:
            answer = _refusal(fault.status, fault.reason, fault.reason)
        else:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in HOPS}
            body = front.tamper(self.path, body)
            answer = front.ask(self.command, self.path, headers, body)
        status, answered, content = answer
        front.seen.append(Request(self.command, self.path, status))
        self.send_response_only(status)
        told = {key.lower(): value for key, value in answered}
        for key, value in answered:
            if key.lower() not in HOPS:
                self.send_header(key, value)
        size: int | str = len(content)
        if self.command == "HEAD":  # has the length of what it does not send
            size, content = told.get("content-length", 0), b""
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self._send(content, fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _pass_on

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


def _refusal(status: int, reason: str, message: str):
    """An error as Google's servers send it; clients of other stores read the status."""
    content = {
        "code": status,
        "message": message,
        "errors": [{"reason": reason, "message": message, "domain": "global"}],
    }
    return status, [], json.dumps({"error": content}).encode()
