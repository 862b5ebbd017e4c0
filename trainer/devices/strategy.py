"""Devices, distribution and precision."""

import ctypes
import glob
import itertools
import json
import os
import subprocess
import urllib.parse
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from trainer.devices import gpus
from trainer.devices.graphs import graph_function
from unet_tfrecords.command.errors import UserError, warn

DEVICE_FILES = "/dev/nvidia[0-9]*"  # the driver's, one a GPU
TF_CONFIG = "TF_CONFIG"


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
            place = urllib.parse.urlsplit(f"//{host}")
            if place.netloc != host or not (place.hostname and place.port):
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


def start(
    devices: int = 0, *, all_reduce: str = "auto", allow_cpu: bool = False
) -> tf.distribute.Strategy:
    """The strategy for all there is; before TensorFlow has touched a device.

    With TF_CONFIG, MultiWorkerMirroredStrategy over all GPUs of all hosts; else
    MirroredStrategy over all GPUs of this host, or the one device there is.

    Args:
      devices: above 0, the first GPU, or else the processor, is split into as many
        logical ones, to try out what many do.
      all_reduce: auto or nccl (GPUs sum by NCCL), or ring (by TensorFlow itself).
      allow_cpu: whether to train on the processor where there are GPUs that
        TensorFlow cannot use.

    Raises:
      UserError: a device can't be split so, or GPUs can't be used.
    """
    size = read_cluster().size
    if size > 1 and devices:
        raise UserError(
            f"--devices splits a lone machine's device, not with {TF_CONFIG}"
        )
    found = find_gpus(allow_cpu=allow_cpu)
    if size > 1:
        return tf.distribute.MultiWorkerMirroredStrategy(
            communication_options=communication(bool(found), all_reduce)
        )
    names = split_first_device(devices) if devices else None
    if (devices or len(found)) < 2:
        return tf.distribute.OneDeviceStrategy("/gpu:0" if found else "/cpu:0")
    # NCCL cannot sum over parts of one GPU, and TensorFlow asks it to where the host
    # has as many GPUs as there are parts.
    copies = found and (devices or all_reduce == "ring")
    return tf.distribute.MirroredStrategy(
        names, cross_device_ops=tf.distribute.ReductionToOneDevice() if copies else None
    )


def communication(
    has_gpus: bool, all_reduce: str
) -> tf.distribute.experimental.CommunicationOptions:
    """How workers sum: what TensorFlow calls auto is its slow ring, also for GPUs."""
    kinds = tf.distribute.experimental.CommunicationImplementation
    kind = kinds.NCCL if has_gpus else kinds.AUTO
    kind = kinds.RING if all_reduce == "ring" else kind
    return tf.distribute.experimental.CommunicationOptions(implementation=kind)


def find_gpus(*, allow_cpu: bool = False) -> list[Any]:
    """The GPUs that TensorFlow can use.

    Raises:
      UserError: GPUs that are too old, or that TensorFlow doesn't see.
    """
    found = tf.config.list_physical_devices("GPU")
    problems = {gpus.problem(each, gpus.cudnn()) for each in capabilities()} - {None}
    if problems:
        raise UserError([f"{p.says}; {p.cure}" for p in problems if p])
    for text in sorted({gpus.warning(each) for each in capabilities()} - {""}):
        warn(text)
    if not found and (reason := why_unseen()):
        if tf.test.is_built_with_cuda() and not allow_cpu:
            raise UserError(
                f"{reason}; ./launch.sh doctor says more; CUDA_VISIBLE_DEVICES=-1, or "
                "train --allow_cpu, trains on the processor"
            )
        warn(f"{reason}; training on the processor")
    return found


def why_unseen() -> str:
    """Why TensorFlow uses none of this machine's GPUs; "" where nobody expects it to.

    TensorFlow says so in messages of a level that is hidden, and goes on.
    """
    there = glob.glob(DEVICE_FILES)
    if not there or os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return ""
    says = f"{' '.join(sorted(there))}: TensorFlow uses no GPU: "
    if not tf.test.is_built_with_cuda():
        return says + (
            "the installed one is for processors; UNET_FLAVOUR=gpu ./launch.sh setup "
            "installs the one for GPUs"
        )
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return says + (
            "the driver's libcuda.so.1 is not found; in a container start it with "
            "--gpus=all; on GKE and Vertex AI "
            "LD_LIBRARY_PATH=/usr/local/nvidia/lib64"
        )
    return says + "the driver or CUDA's libraries don't fit it"


def capabilities() -> list[gpus.Capability]:
    """Compute capabilities of the GPUs that TensorFlow sees."""
    details = (
        tf.config.experimental.get_device_details(gpu)
        for gpu in tf.config.list_physical_devices("GPU")
    )
    return [each.get("compute_capability", (0, 0)) for each in details]


def device_names(devices: int = 0) -> list[str]:
    """The devices that share independent work: all GPUs, or else the processor.

    Args:
      devices: above 0, the logical devices that the first one is split into.
    """
    if devices:
        return split_first_device(devices)
    found = tf.config.list_logical_devices("GPU")
    return [gpu.name for gpu in found] or ["/cpu:0"]


def split_first_device(number: int) -> list[str]:
    """Splits the first GPU's memory, or else the processor, into logical devices."""
    if number < 0:
        raise UserError(f"--devices={number} must be positive")
    found = tf.config.list_physical_devices("GPU")
    device = found[0] if found else tf.config.list_physical_devices("CPU")[0]
    part = tf.config.LogicalDeviceConfiguration(
        memory_limit=gpu_megabytes() * 9 // 10 // number if found else None
    )
    tf.config.set_logical_device_configuration(device, [part] * number)
    if found:
        tf.config.set_visible_devices(found[:1], "GPU")
    return [f"/{device.device_type.lower()}:{index}" for index in range(number)]


def gpu_megabytes() -> int:
    """Memory of the smallest GPU that is visible, by its driver, in MiB.

    Raises:
      UserError: the driver does not say.
    """
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES", "").strip():
        query.append(f"--id={visible}")
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        # Warnings may stand among the numbers.
        return min(int(line) for line in told.splitlines() if line.strip().isdigit())
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise UserError(f"the GPU's memory is not known: nvidia-smi: {error}") from None


def gpu_bytes() -> float:
    """Memory of this worker's smallest GPU; 0 without one, or where it is not known."""
    if not tf.config.list_physical_devices("GPU"):
        return 0
    try:
        return gpu_megabytes() * 2.0**20
    except UserError as error:
        warn(
            f"{error}; each GPU takes 1 tile a step, or as many as you give it: "
            "config.train.tiles_per_replica"
        )
        return 0


def resolve_precision(precision: str) -> str:
    """The Keras dtype policy for a config's precision.

    auto: mixed_bfloat16 where all GPUs compute in it (capability 8 and up),
    mixed_float16 on 7.x, float32 elsewhere. A processor without bf16 is six times
    slower with it.
    """
    return gpus.precision_for(capabilities()) if precision == "auto" else precision


def resolve_xla(xla: str) -> bool:
    """Whether to compile the step: auto does, unless a GPU is newer than XLA here."""
    return xla == "on" or xla == "auto" and gpus.compiles_well(capabilities())


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


def chiefs(devices: tf.distribute.Strategy, value: int) -> int:
    """The chief's value of an integer, on all workers; each waits here for all."""
    cluster = read_cluster()
    if cluster.size == 1:
        return value
    own = tf.constant(value if cluster.is_chief else 0, tf.float64)
    return round(float(summing(devices)(own)))


def summing(devices: tf.distribute.Strategy) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function that adds up a float64 tensor of each worker."""
    local = len(devices.extended.worker_devices)

    @graph_function
    def add_up(values):
        total = devices.run(lambda: values / local)
        return devices.reduce(tf.distribute.ReduceOp.SUM, total, axis=None)

    return add_up
