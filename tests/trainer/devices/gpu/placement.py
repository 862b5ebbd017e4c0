"""Where a graph's ops would run, and where their tensors would be, on a GPU.

TensorFlow's CUDA wheel can be imported without a GPU. Its registry says which kernels
there are for a GPU and which of their arguments they keep in the host's memory: a
tensor that one kernel leaves on the device and the next wants on the host is copied,
and the host waits. Graphs go through TensorFlow's own optimiser first, for a GPU that
is only described to it.
"""

import collections
import dataclasses
import functools
import itertools

import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2
from tensorflow.core.protobuf import (
    config_pb2,
    device_properties_pb2,
    meta_graph_pb2,
)
from tensorflow.python.framework import kernels, op_def_registry
from tensorflow.python.grappler import cluster, tf_optimizer

HOST, DEVICE = "host", "device"
DEVICE_NAME = "/job:localhost/replica:0/task:0/device:{}:0"
ON_GPU = ("GPU", "DEFAULT")  # kernels that a GPU can take
COMPILED = "XLA_GPU_JIT"
# They hold no values, or are the graph's own.
ARGUMENTS = ("Placeholder", "_Arg")
NOT_RUN = (*ARGUMENTS, "_Retval", "NoOp", "Const", "Identity", "IdentityN")
# A loop's own, on the host; the first two once for all its rounds.
LOOP = ("Enter", "Exit", "Merge", "Switch", "NextIteration", "LoopCond")


@dataclasses.dataclass
class Report:
    """What a graph's ops would do on a GPU, after TensorFlow's optimiser.

    Attributes:
      ops: how many run, by kind; a function that XLA compiles is one.
      compiled: how many such functions there are.
      missing: ops without a kernel, or that XLA does not know.
      crossings: tensors that are copied between host and device.
      collectives: dtype, hint and MB of each.
    """

    ops: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    compiled: int = 0
    missing: list[str] = dataclasses.field(default_factory=list)
    crossings: list[str] = dataclasses.field(default_factory=list)
    collectives: list[tuple[str, str, float]] = dataclasses.field(default_factory=list)


def report(graph: graph_pb2.GraphDef) -> Report:
    """Looks at a graph with its functions and loops inlined, as it is run."""
    made = Report(collectives=_collectives(graph))
    inlined = _optimised(_on_gpu(graph), _ends(graph))
    functions = {f.signature.name: f for f in inlined.library.function}
    compiled = [f for f in functions.values() if f.attr["_XlaMustCompile"].b]
    for function in compiled:
        made.compiled += 1
        made.missing += [
            f"XLA: {node.op} {_types(node)} ({node.name})"
            for node in function.node_def
            if node.op not in ARGUMENTS and not _kernel(node, (COMPILED,))
        ]
    places: dict[str, list[str]] = {}
    found = {}
    for node in inlined.node:
        kernel = None if node.op in ARGUMENTS else _kernel(node, ON_GPU)
        found[node.name] = node, kernel
        if node.op not in ARGUMENTS and kernel is None:
            made.missing.append(f"{node.op} {_types(node)} ({node.name})")
        places[node.name] = _places(node, kernel, "output_arg")
        if node.op not in (*NOT_RUN, *LOOP):
            made.ops[node.op] += 1
    for node, kernel in found.values():
        wanted = _places(node, kernel, "input_arg")
        given = [text for text in node.input if not text.startswith("^")]
        for text, place in zip(given, wanted, strict=True):
            source, _, index = text.partition(":")
            there = places[source][int(index or 0)]
            if {there, place} == {HOST, DEVICE}:
                producer, _ = found[source]
                made.crossings.append(
                    f"{there} to {place}: {producer.op} ({source}) to {node.op} "
                    f"({node.name})"
                )
    return made


def _on_gpu(graph: graph_pb2.GraphDef) -> graph_pb2.GraphDef:
    """The graph with every op on the GPU, in functions too."""
    made = graph_pb2.GraphDef()
    made.CopyFrom(graph)
    functions = made.library.function
    for node in itertools.chain(made.node, *(f.node_def for f in functions)):
        if node.op not in ARGUMENTS:
            node.device = DEVICE_NAME.format("GPU")
    return made


def _ends(graph: graph_pb2.GraphDef) -> list[str]:
    used = {
        name.lstrip("^").split(":")[0] for node in graph.node for name in node.input
    }
    return [node.name for node in graph.node if node.name not in used]


@functools.cache
def _machine() -> cluster.Cluster:
    """A host with an H200, as far as TensorFlow's optimiser asks."""
    properties = device_properties_pb2.DeviceProperties
    gpu = properties(
        type="GPU",
        vendor="NVIDIA",
        model="H200",
        num_cores=132,
        frequency=1700,
        memory_size=140 << 30,
        environment={"architecture": "9.0", "cuda": "12050", "cudnn": "90000"},
    )
    host = properties(type="CPU", num_cores=16, frequency=2600, memory_size=100 << 30)
    return cluster.Cluster(
        devices=[
            device_properties_pb2.NamedDevice(
                name=DEVICE_NAME.format(device.type), properties=device
            )
            for device in (gpu, host)
        ]
    )


def _optimised(graph: graph_pb2.GraphDef, ends: list[str]) -> graph_pb2.GraphDef:
    """The graph after TensorFlow's own optimiser."""
    meta = meta_graph_pb2.MetaGraphDef()
    meta.graph_def.CopyFrom(graph)
    meta.collection_def["train_op"].node_list.value.extend(dict.fromkeys(ends))
    config = config_pb2.ConfigProto()
    config.graph_options.rewrite_options.min_graph_nodes = -1
    return tf_optimizer.OptimizeGraph(config, meta, cluster=_machine())


def _collectives(graph: graph_pb2.GraphDef) -> list[tuple[str, str, float]]:
    """Those of the graph and its functions, before its shapes are optimised away."""
    functions = (function.node_def for function in graph.library.function)
    made = []
    for node in itertools.chain(graph.node, *functions):
        if "Collective" in node.op:
            dtype = tf.as_dtype(node.attr["T"].type)
            [shape] = node.attr["_output_shapes"].list.shape
            megabytes = tf.TensorShape(shape).num_elements() * dtype.size / 1e6
            hint = node.attr["communication_hint"].s.decode()
            made.append((dtype.name, hint, megabytes))
    return made


# --- Kernels -------------------------------------------------------------------------


@functools.cache
def _kernels(op: str):
    return list(kernels.get_registered_kernels_for_op(op).kernel)


def _kernel(node: node_def_pb2.NodeDef, devices: tuple[str, ...]):
    """The kernel that a device takes for an op; None where it has none."""
    fitting = [
        kernel
        for kernel in _kernels(node.op)
        if kernel.device_type in devices and not kernel.label and _fits(kernel, node)
    ]
    # One for the device itself comes before one for all devices.
    return min(fitting, key=lambda k: devices.index(k.device_type), default=None)


def _fits(kernel, node: node_def_pb2.NodeDef) -> bool:
    for constraint in kernel.constraint:
        attribute = node.attr[constraint.name]
        types = list(attribute.list.type) or [attribute.type]
        allowed = constraint.allowed_values.list.type
        if allowed and not set(types) <= set(allowed):
            return False
    return True


def _types(node: node_def_pb2.NodeDef) -> str:
    names = {tf.as_dtype(a.type).name for a in node.attr.values() if a.type}
    return " ".join(sorted(names))


def _arguments(node: node_def_pb2.NodeDef, arguments) -> list[tuple[str, int]]:
    """Name and type of each tensor, those of lists one by one."""
    made = []
    for argument in arguments:
        if argument.type_list_attr:
            types = list(node.attr[argument.type_list_attr].list.type)
        else:
            one = argument.type or node.attr[argument.type_attr].type
            number = argument.number_attr
            types = [one] * (node.attr[number].i if number else 1)
        made += [(argument.name, dtype) for dtype in types]
    return made


def _places(node, kernel, which: str) -> list[str]:
    definition = op_def_registry.get(node.op)
    if definition is None:  # a function called by its name
        return []
    by_type = node.op in ARGUMENTS or kernel is None or _is_call(node)
    host = set() if kernel is None else set(kernel.host_memory_arg)
    made = []
    for name, dtype in _arguments(node, getattr(definition, which)):
        if dtype in (tf.resource.as_datatype_enum, tf.variant.as_datatype_enum):
            made.append("")  # a handle: what it names is where it is
        elif by_type:
            is_host = dtype in (
                tf.int32.as_datatype_enum,
                tf.string.as_datatype_enum,
            )
            made.append(HOST if is_host else DEVICE)
        else:
            made.append(HOST if name in host else DEVICE)
    return made


def _is_call(node: node_def_pb2.NodeDef) -> bool:
    return any(a.func.name for a in node.attr.values())
