"""All workers meet before TensorFlow starts, with a time limit.

TensorFlow's own wait for the others has no limit that names who is missing, and is deaf
to SIGTERM and Ctrl-C. So the chief first counts the workers at its own address of
TF_CONFIG, and lets all of them go at once.
"""

import contextlib
import socket
import time
from collections.abc import Sequence

from unet_tfrecords.command.errors import UserError

NOT_ALL_CAME = 75  # EX_TEMPFAIL of sysexits.h: the same command may do better later
HELLO = b"unet-train worker %d of %d\n"
GO = b"go\n"
SHORT_S = 0.5  # between two tries, and for a greeting
LATER_S = 2.0  # the chief tells the others why it gives up; they wait a little longer


def meet(hosts: Sequence[str], worker: int, minutes: float) -> None:
    """Returns once all workers have called it.

    Args:
      hosts: HOST:PORT of all workers; the first is the chief.
      worker: which of them this is.
      minutes: how long to wait; 0 forever.

    Raises:
      UserError: the time is over; names who has not come. Its exit code is 75.
    """
    ends = time.monotonic() + 60 * minutes if minutes else float("inf")
    missing = _gather(hosts, ends) if worker == 0 else _report(hosts, worker, ends)
    if missing:
        error = UserError(
            f"worker {worker} of {len(hosts)}: waited {minutes:g} minutes; not there: "
            f"{missing}; start all, look into their logs and firewall, or give "
            "--wait_minutes"
        )
        error.exit_code = NOT_ALL_CAME
        raise error


def _gather(hosts: Sequence[str], ends: float) -> str:
    """The chief's part: counts the others; who is missing, or "" once all were here."""
    there: list[tuple[int, socket.socket]] = []  # one that was restarted comes again
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listen(hosts[0]))
        wanted = set(range(1, len(hosts)))
        while wanted - {i for i, _ in there} and time.monotonic() < ends:
            with contextlib.suppress(OSError):
                connection, _ = server.accept()
                with contextlib.ExitStack() as strangers:
                    strangers.enter_context(connection)
                    if index := _greeted(connection, len(hosts)):
                        there.append((index, connection))
                        stack.push(strangers.pop_all())
            there = [(i, c) for i, c in there if not _has_gone(c)]
        absent = sorted(wanted - {i for i, _ in there})
        missing = ", ".join(f"worker {index} ({hosts[index]})" for index in absent)
        for _, connection in there:
            with contextlib.suppress(OSError):
                connection.sendall(f"{missing}\n".encode() if missing else GO)
    return missing


def _listen(host: str) -> socket.socket:
    port = int(host.rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    server = socket.create_server(
        ("", port),
        family=socket.AF_INET6 if both else socket.AF_INET,
        dualstack_ipv6=both,
    )
    server.settimeout(SHORT_S)
    return server


def _greeted(connection: socket.socket, size: int) -> int:
    """Which worker of our cluster this is; 0 for anybody else."""
    connection.settimeout(SHORT_S)
    said = connection.recv(80)
    return next((i for i in range(1, size) if said == HELLO % (i, size)), 0)


def _has_gone(connection: socket.socket) -> bool:
    """Whether the other side, which has no more to say, has hung up."""
    connection.setblocking(False)
    try:
        return not connection.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _report(hosts: Sequence[str], worker: int, ends: float) -> str:
    """The others' part: tells the chief; who is missing, or "" where all go."""
    name, _, port = hosts[0].rpartition(":")
    ends += LATER_S
    while time.monotonic() < ends:
        with contextlib.suppress(OSError, ValueError):
            address = (name.strip("[]"), int(port))
            with socket.create_connection(address, SHORT_S) as connection:
                connection.sendall(HELLO % (worker, len(hosts)))
                connection.settimeout(SHORT_S)
                answer = b""
                while time.monotonic() < ends and not answer.endswith(b"\n"):
                    with contextlib.suppress(TimeoutError):
                        if not (more := connection.recv(4096)):
                            break  # the chief has ended; another may come
                        answer += more
                if answer == GO:
                    return ""
                if answer.startswith(b"worker ") and answer.endswith(b"\n"):
                    return answer.decode().strip()
        time.sleep(SHORT_S)
    return f"worker 0 ({hosts[0]}), the chief, or it does not answer"
