"""Ports of loopback, and clusters on them."""

import json
import socket


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def cluster_of(number: int) -> list[dict[str, str]]:
    """The environment of each of so many workers, as TensorFlow reads it."""
    cluster = {"worker": [f"127.0.0.1:{free_port()}" for _ in range(number)]}
    tasks = [{"type": "worker", "index": index} for index in range(number)]
    return [
        {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})} for task in tasks
    ]
