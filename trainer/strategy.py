"""Devices, distribution and precision."""

import itertools
import json
import os
import re
from typing import Any, NamedTuple

import tensorflow as tf

from preprocess.errors import UserError
from trainer.graphs import graph_function

TF_CONFIG = "TF_CONFIG"
MOST_PORTS = 65535


class Cluster(NamedTuple):
    """Which worker of how many this process is; (0, 1) where it is alone.

    Attributes:
      worker: 0 is the chief, who alone writes.
      size: number of workers.
    """

    worker: int
    size: int

    @property
    def is_chief(self) -> bool:
        return self.worker == 0


def read_hosts(environment: dict[str, str] | os._Environ = os.environ) -> list[str]:
    """HOST:PORT of all workers that TF_CONFIG tells of, in their order."""
    cluster = json.loads(environment[TF_CONFIG])["cluster"]
    return [host for kind in ("chief", "worker") for host in cluster.get(kind, ())]


def read_cluster(environment: dict[str, str] | os._Environ = os.environ) -> Cluster:
    """What TF_CONFIG says, as Vertex AI, Kubernetes operators, Slurm wrappers set it.

    Raises:
      UserError: it is no cluster of workers, or this task is none of them.

    >>> read_cluster({})
    Cluster(worker=0, size=1)
    """
    text = environment.get(TF_CONFIG, "").strip()
    if not text:
        return Cluster(0, 1)
    try:
        content: dict[str, Any] = json.loads(text)
        cluster = content.get("cluster") or {}
        if not all(isinstance(hosts, list) for hosts in cluster.values()):
            raise ValueError("each kind of task wants a list of hosts")
        for host in itertools.chain(*cluster.values()):
            if (
                not re.fullmatch(r".+:\d{1,5}", host)
                or int(host.rpartition(":")[2]) > MOST_PORTS
            ):
                raise ValueError(f"{host}: each host is HOST:PORT")
        tasks = [
            (k, i) for k in ("chief", "worker") for i in range(len(cluster.get(k, ())))
        ]
        task = content.get("task") or {}
        mine = (task.get("type", "worker"), int(task.get("index", 0)))
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{TF_CONFIG} cannot be read ({error}): {text[:200]}") from None
    if len(tasks) <= 1 and mine[0] in ("chief", "worker", "master"):
        return Cluster(0, 1)  # Vertex AI describes a lone machine too
    if mine not in tasks:
        known = ", ".join(f"{kind} {index}" for kind, index in tasks) or "none"
        raise UserError(
            f"{TF_CONFIG}: this is task {mine[0]} {mine[1]}, and the cluster's workers "
            f"are: {known}; parameter servers and evaluators are not used"
        )
    return Cluster(tasks.index(mine), len(tasks))


def start(devices: int = 0) -> tf.distribute.Strategy:
    """The strategy for all there is; before TensorFlow has touched a device.

    With TF_CONFIG, MultiWorkerMirroredStrategy over all GPUs of all hosts; else
    MirroredStrategy over all GPUs of this host, or the one device there is.

    Args:
      devices: above 0, the first GPU, or else the processor, is split into so many
        logical ones, to try out what many do.

    Raises:
      UserError: a device can't be split so.
    """
    size = read_cluster().size
    if size > 1 and devices:
        raise UserError(
            f"--devices splits a lone machine's device, not with {TF_CONFIG}"
        )
    logical = split_first_device(devices) if devices else []
    if size > 1:
        return tf.distribute.MultiWorkerMirroredStrategy()
    if len(logical) > 1:
        return tf.distribute.MirroredStrategy(logical)
    gpus = tf.config.list_physical_devices("GPU")
    if len(gpus) > 1 and not logical:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.OneDeviceStrategy("/gpu:0" if gpus else "/cpu:0")


def device_names(devices: int = 0) -> list[str]:
    """The devices that share independent work: all GPUs, or else the processor.

    Args:
      devices: above 0, the logical devices that the first one is split into.
    """
    if devices:
        return split_first_device(devices)
    gpus = tf.config.list_logical_devices("GPU")
    return [gpu.name for gpu in gpus] or ["/cpu:0"]


def split_first_device(number: int) -> list[str]:
    """Splits the first GPU's memory, or else the processor, into logical devices."""
    if number < 0:
        raise UserError(f"--devices={number} must be positive")
    gpus = tf.config.list_physical_devices("GPU")
    device = gpus[0] if gpus else tf.config.list_physical_devices("CPU")[0]
    part = tf.config.LogicalDeviceConfiguration(
        memory_limit=_gpu_megabytes() * 9 // 10 // number if gpus else None
    )
    tf.config.set_logical_device_configuration(device, [part] * number)
    if gpus:
        tf.config.set_visible_devices(gpus[:1], "GPU")
    return [f"/{device.device_type.lower()}:{index}" for index in range(number)]


def _gpu_megabytes() -> int:
    """Memory of the first GPU, by its driver."""
    import subprocess

    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        return int(told.split()[0])
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError) as error:
        raise UserError(f"--devices: the GPU's memory is not known ({error})") from None


def resolve_precision(precision: str) -> str:
    """The Keras dtype policy for a config's precision.

    auto: mixed_bfloat16 where all GPUs compute in it (capability 8 and up),
    mixed_float16 on 7.x, float32 elsewhere. A processor without bf16 is six times
    slower with it.
    """
    if precision != "auto":
        return precision
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    return precision_for([d.get("compute_capability", (0, 0)) for d in details])


def precision_for(capabilities: list[tuple[int, int]]) -> str:
    """The precision for GPUs of these compute capabilities; the oldest decides.

    >>> precision_for([(9, 0)]), precision_for([(7, 5), (8, 0)]), precision_for([])
    ('mixed_bfloat16', 'mixed_float16', 'float32')
    """
    oldest = min((major for major, _ in capabilities), default=0)
    if oldest >= 8:
        return "mixed_bfloat16"
    return "mixed_float16" if oldest == 7 else "float32"


def resolve_xla(xla: str) -> bool:
    """Whether to compile the step: auto does on a processor, where it was measured."""
    return xla == "on" or xla == "auto" and not tf.config.list_physical_devices("GPU")


def describe(strategy: tf.distribute.Strategy, precision: str, xla: bool) -> str:
    """One line for the log: how many devices of which kind, in which precision."""
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    replicas, cluster = strategy.num_replicas_in_sync, read_cluster()
    line = f"{replicas} {kind} replica{'s' if replicas > 1 else ''}, {precision}"
    line += ", XLA" if xla else ""
    if cluster.size > 1:
        line += f", worker {cluster.worker} of {cluster.size}"
        line += " (the chief)" if cluster.is_chief else ""
    return line


def chiefs(devices: tf.distribute.Strategy, cluster: Cluster, value: int) -> int:
    """The chief's value of an integer, on all workers; each waits here for all."""
    if cluster.size == 1:
        return value
    own = tf.constant(value if cluster.is_chief else 0, tf.int64)
    local = len(devices.extended.worker_devices)

    @graph_function
    def add_up():
        total = devices.run(lambda: own)
        return devices.reduce(tf.distribute.ReduceOp.SUM, total, axis=None)

    return int(add_up()) // local
