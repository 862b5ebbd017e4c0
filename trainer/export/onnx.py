"""The network as an ONNX file, for machines without TensorFlow or GPU.

Written layer by layer with `onnx`' own helpers (onnx.ai/onnx/operators). The network
has few kinds of layers, each of which is one or two operators. Inside, images are
channels-first, as onnxruntime's kernels want them.
"""

import itertools
import json
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from trainer.inference.ensemble import Scaling
from trainer.inference.segmenter import Segmenter
from trainer.network.dropout import TileDropout
from trainer.network.layers import Convolution3x3, MaxPool2x2, UpConvolution2x2
from unet_tfrecords.command.extras import load_extra
from unet_tfrecords.dataset import tiling
from unet_tfrecords.dataset.targets import planes_are
from unet_tfrecords.storage import files

OPSET = 18  # of onnxruntime 1.14 and later
IR_VERSION = 8  # that of this opset; the library's own would be too new for old readers
METADATA = "unet"  # key of model.json's content within the file
TO_CHANNELS_FIRST, TO_CHANNELS_LAST = [0, 3, 1, 2], [0, 2, 3, 1]


def library():
    """onnx."""
    return load_extra("onnx", flag="--onnx", extra="onnx")


class Graph:
    """Operators and constants, in the order in which they are added."""

    def __init__(self):
        self._onnx = library()
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, kind: str, *inputs: str, **attributes) -> str:
        """Adds an operator; the name of its output."""
        name = f"{kind}_{len(self.nodes)}"
        node = self._onnx.helper.make_node(kind, inputs, [name], name, **attributes)
        self.nodes.append(node)
        return name

    def constant(self, values, dtype=np.float32) -> str:
        """Adds a constant; its name."""
        name = f"constant_{len(self.constants)}"
        array = np.ascontiguousarray(values, dtype)
        self.constants.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def integers(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def named(self, output: str, name: str) -> None:
        """Gives an output the name under which it is asked for."""
        node = self._onnx.helper.make_node("Identity", [output], [name], name)
        self.nodes.append(node)


def write_tile(
    path: str,
    networks: Sequence[keras.Model],
    segmenter: Segmenter,
    about: dict[str, Any],
    scalings: Sequence[Scaling | None] = (),
) -> None:
    """Writes what the signature `tile` does (see `signatures`).

    Args:
      path: of the file, local.
      networks: float32 [B, H, W, C] to logits, to be averaged.
      segmenter: over them.
      about: what model.json holds; it travels in the file's metadata.
      scalings: of each network's images; see `ensemble`.
    """
    graph, channels = Graph(), networks[0].input_shape[-1]
    inputs = {"tile": ["batch", "height", "width", channels]}
    if known := segmenter.normalization:
        mean, std = graph.constant(known.mean), graph.constant(known.std)
    else:
        inputs |= {"mean": ["batch", channels], "std": ["batch", channels]}
        axes = graph.integers(1, 2)
        mean, std = (graph.add("Unsqueeze", name, axes) for name in ("mean", "std"))
    is_positive = graph.add("Greater", std, graph.constant(0))
    std = graph.add("Where", is_positive, std, graph.constant(1))
    normal = graph.add("Div", graph.add("Sub", "tile", mean), std)
    image = graph.add("Transpose", normal, perm=TO_CHANNELS_FIRST)
    probabilities, planes = _outputs(graph, networks, scalings, segmenter, image)
    graph.named(probabilities, "probabilities")
    graph.named(_classes(graph, probabilities, segmenter), "classes")
    area = ["batch", "out_height", "out_width"]
    outputs: dict[str, list] = {
        "probabilities": [*area, segmenter.classes],
        "classes": area,
    }
    if segmenter.planes:
        graph.named(planes, "planes")
        outputs["planes"] = [*area, segmenter.planes]
    _write(path, graph, inputs, outputs, about)


def write_block(
    path: str,
    networks: Sequence[keras.Model],
    segmenter: Segmenter,
    about: dict[str, Any],
    scalings: Sequence[Scaling | None] = (),
) -> None:
    """Writes what `bioimageio.block_function` does: blocks mirrored around, normalised.

    Args:
      path, networks, segmenter, about, scalings: as `write_tile` takes them.
    """
    graph, pad = Graph(), tiling.pad(segmenter.depth)
    image = graph.add("Transpose", "block", perm=TO_CHANNELS_FIRST)
    around = graph.integers(0, 0, pad, pad, 0, 0, pad, pad)
    image = graph.add("Pad", image, around, mode="reflect")
    probabilities, _ = _outputs(graph, networks, scalings, segmenter, image)
    graph.named(probabilities, "probabilities")
    area = ["batch", "height", "width"]
    inputs = {"block": [*area, networks[0].input_shape[-1]]}
    outputs = {"probabilities": [*area, segmenter.classes]}
    _write(path, graph, inputs, outputs, about)


def _outputs(
    graph: Graph,
    networks: Sequence[keras.Model],
    scalings: Sequence[Scaling | None],
    segmenter: Segmenter,
    image: str,
) -> tuple[str, str]:
    """Mean probabilities [B, H, W, K] and mean planes [B, H, W, P] of the networks."""
    each = [
        _logits(graph, network, _scaled(graph, image, scaling))
        for network, scaling in itertools.zip_longest(networks, scalings)
    ]
    probabilities = [_probabilities(graph, logits, segmenter) for logits in each]
    if not segmenter.planes:
        return _mean(graph, probabilities), ""
    planes = [_planes(graph, logits, segmenter) for logits in each]
    return _mean(graph, probabilities), _mean(graph, planes)


def _scaled(graph: Graph, image: str, scaling: Scaling | None) -> str:
    """The image [B, C, H, W] as `ensemble.scaled` gives it to a network."""
    if scaling is None:
        return image
    by, plus = (graph.constant(value[:, None, None]) for value in scaling)
    return graph.add("Add", graph.add("Mul", image, by), plus)


def _mean(graph: Graph, each: list[str]) -> str:
    return graph.add("Mean", *each) if len(each) > 1 else each[0]


def _probabilities(graph: Graph, logits: str, segmenter: Segmenter) -> str:
    """Of the classes, [B, H, W, K]; logits are [B, K + P, H, W]."""
    if segmenter.planes:
        ends = graph.integers(0), graph.integers(segmenter.classes)
        logits = graph.add("Slice", logits, *ends, graph.integers(1))
    softmax = graph.add("Softmax", logits, axis=1)
    return graph.add("Transpose", softmax, perm=TO_CHANNELS_LAST)


def _planes(graph: Graph, logits: str, segmenter: Segmenter) -> str:
    """Of the target, 0 to 1, [B, H, W, P]."""
    ends = graph.integers(segmenter.classes), graph.integers(segmenter.channels)
    planes = graph.add("Slice", logits, *ends, graph.integers(1))
    if planes_are(segmenter.planes) == "probabilities":
        planes = graph.add("Sigmoid", planes)
    else:
        planes = graph.add("Clip", planes, graph.constant(0), graph.constant(1))
    return graph.add("Transpose", planes, perm=TO_CHANNELS_LAST)


def _logits(graph: Graph, network: keras.Model, image: str) -> str:
    """The layers of the network, [B, C, H, W] to [B, K + P, H', W']."""
    names = {id(network.inputs[0]): image}
    for layer in network.layers:
        if not isinstance(layer, keras.layers.InputLayer):
            given = layer.input if isinstance(layer.input, list) else [layer.input]
            inputs = [names[id(tensor)] for tensor in given]
            names[id(layer.output)] = _layer(graph, layer, *inputs)
    return names[id(network.outputs[0])]


def _layer(graph: Graph, layer: keras.Layer, *inputs: str) -> str:
    match layer:
        case TileDropout():  # is of training
            return inputs[0]
        case UpConvolution2x2():
            kernel = graph.constant(np.transpose(layer.kernel, [3, 2, 0, 1]))
            bias, strides = graph.constant(layer.bias), [2, 2]
            raised = graph.add("ConvTranspose", *inputs, kernel, bias, strides=strides)
            return graph.add("Relu", raised)
        case Convolution3x3():
            kernel = graph.constant(np.transpose(layer.used_kernel(), [3, 2, 0, 1]))
            convolved = graph.add("Conv", *inputs, kernel, graph.constant(layer.bias))
            return graph.add("Relu", convolved)
        case keras.layers.Conv2D():
            kernel = graph.constant(np.transpose(layer.kernel, [3, 2, 0, 1]))
            return graph.add("Conv", *inputs, kernel, graph.constant(layer.bias))
        case MaxPool2x2():
            return graph.add("MaxPool", *inputs, kernel_shape=[2, 2], strides=[2, 2])
        case keras.layers.Cropping2D():
            (top, bottom), (left, right) = layer.cropping
            starts, axes = graph.integers(top, left), graph.integers(2, 3)
            ends = graph.integers(-bottom, -right)
            return graph.add("Slice", *inputs, starts, ends, axes)
        case keras.layers.Concatenate():
            return graph.add("Concat", *inputs, axis=1)
    raise TypeError(f"no ONNX for a layer of kind {type(layer).__name__}")


def _classes(graph: Graph, probabilities: str, segmenter: Segmenter) -> str:
    """`Segmenter.outcome`: uint8 [B, H, W]."""
    uint8 = library().TensorProto.UINT8
    threshold = segmenter.threshold
    last, one = graph.integers(3), graph.integers(1)
    end = graph.integers(segmenter.classes)
    foreground = graph.add("Slice", probabilities, one, end, last)
    highest = graph.add("ReduceMax", foreground, last, keepdims=0)
    if segmenter.classes == 2:
        is_foreground = graph.add("Greater", highest, graph.constant(threshold))
        return graph.add("Cast", is_foreground, to=uint8)
    background = graph.add("Slice", probabilities, graph.integers(0), one, last)
    background = graph.add("Squeeze", background, last)
    is_foreground = graph.add(
        "Greater",
        graph.add("Mul", highest, graph.constant(1 - threshold)),
        graph.add("Mul", background, graph.constant(threshold)),
    )
    best = graph.add("ArgMax", foreground, axis=3, keepdims=0)
    best = graph.add("Add", best, graph.constant(1, np.int64))
    nothing = graph.constant(0, np.int64)
    return graph.add("Cast", graph.add("Where", is_foreground, best, nothing), to=uint8)


def _write(
    path: str,
    graph: Graph,
    inputs: dict[str, list],
    outputs: dict[str, list],
    about: dict[str, Any],
    scalings: Sequence[Scaling | None] = (),
) -> None:
    onnx = library()

    def described(shapes: dict[str, list]) -> list:
        return [
            onnx.helper.make_tensor_value_info(
                name,
                onnx.TensorProto.UINT8 if name == "classes" else onnx.TensorProto.FLOAT,
                shape,
            )
            for name, shape in shapes.items()
        ]

    made = onnx.helper.make_graph(
        graph.nodes, "unet", described(inputs), described(outputs), graph.constants
    )
    model = onnx.helper.make_model(
        made,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="unet-tfrecords",
    )
    onnx.helper.set_model_props(model, {METADATA: json.dumps(about, sort_keys=True)})
    onnx.checker.check_model(model)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    files.write_bytes(path, model.SerializeToString())
