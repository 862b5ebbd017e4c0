"""Ports of loopback, and clusters on them."""

import json
import random
import socket

# Below those that Linux gives to programs that ask for any port, so that no other test
# is given this one before the server starts on it.
PORTS = range(10_000, 32_000)


def free_port() -> int:
    while True:
        try:
            port = random.SystemRandom().choice(PORTS)
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue


def cluster_of(number: int) -> list[dict[str, str]]:
    """The environment of each of so many workers, as TensorFlow reads it."""
    cluster = {"worker": [f"127.0.0.1:{free_port()}" for _ in range(number)]}
    tasks = [{"type": "worker", "index": index} for index in range(number)]
    return [
        {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})} for task in tasks
    ]
