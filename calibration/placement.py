"""Where QuantizeLinear and DequantizeLinear pairs stand, so that engines run the layers in integers.

A layer reads its input through a pair and its weights, int8 by channel, through DequantizeLinear; its bias is stored in
floating point, as TensorRT demands, at a value that int32 holds. A convolution's output has a pair too, because
onnxruntime makes an integer convolution only of one that ends in QuantizeLinear; a matrix product may end in floating
point. Everything else stays in floating point, sums of residual branches included: they cost little and lose most.

All zero points are 0, as TensorRT demands. Three facts about onnxruntime on x86 decide the rest (docs/int8.md):

* It has fast integer kernels for unsigned activations alone, and turns int8 into uint8 by itself - for pairs that one
  operator reads. So each reader gets a pair of its own; and because equal pairs are merged again, their scales differ
  in the last bit. A pair with several readers is followed by a Clip that changes nothing and keeps it a pair of one.
* It drops a Relu in front of QuantizeLinear only if the zero point is the type's smallest value, which 0 is not; the
  convolution before it would stay in floating point. So the pair stands *between* the convolution and the Relu, with
  the scale of the Relu's result: the same values, and the integer kernel.
* Weights that no integer kernel takes over are dequantised again in every run. So a layer is in integers or untouched.

For gradients the pairs stand elsewhere, at the same values (``Form.GRADIENT``): see :func:`insert_pairs`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from calibration.layers import Layer, Network, read_by

LEVELS = 127  # of int8 on either side of 0; weights leave -128 unused, so that their negation is exact
# A bias is at most 2^30 of its steps, half of what int32 holds.
BIAS_LEVELS = float(1 << 30)
TINY = float(np.finfo(np.float32).tiny) * LEVELS

Array = npt.NDArray[Any]


class Form(enum.Enum):
    """What a quantised graph is for: engines recognise the pairs of one, gradients pass well through the other."""

    ENGINE = "engine"
    GRADIENT = "gradient"


@dataclass(frozen=True)
class Scales:
    """Step sizes by layer name: ``source`` of the input, ``output`` of a convolution's output (None: no pair)."""

    source: dict[str, np.float32]
    output: dict[str, np.float32 | None]


def step_sizes(network: Network, layers: tuple[Layer, ...], thresholds: Mapping[str, float]) -> Scales:
    """Return the steps that carry ``thresholds`` (largest representable |value| by tensor) to 127.

    The pairs of one tensor differ by a unit in the last place each. Raises KeyError for a tensor without threshold.
    """
    taken: dict[str, int] = {}
    source: dict[str, np.float32] = {}
    output: dict[str, np.float32 | None] = {}
    for layer in layers:
        step = np.float32(thresholds[layer.source] / LEVELS)
        for _ in range(taken.get(layer.source, 0)):
            step = np.nextafter(step, np.float32(np.inf))
        taken[layer.source] = taken.get(layer.source, 0) + 1
        source[layer.name] = step
        paired = layer.output != network.prepared.logits and (layer.operator == "Conv" or layer.settled != layer.output)
        output[layer.name] = np.float32(thresholds[layer.settled] / LEVELS) if paired else None
    return Scales(source, output)


def tensors_to_watch(layers: tuple[Layer, ...]) -> list[str]:
    """Return the tensors whose ranges the layers need, without repetition, in the order of computation."""
    return list(dict.fromkeys(name for layer in layers for name in (layer.source, layer.settled)))


def insert_pairs(network: Network, layers: tuple[Layer, ...], scales: Scales, form: Form) -> onnx.ModelProto:
    """Return the network with ``layers`` quantised; the network itself is not changed.

    ``Form.ENGINE`` puts the pairs as above. ``Form.GRADIENT`` computes the same values, but a pair stands as late as
    possible: behind Relu and max-pool instead of before them, and only once where two would follow each other. Then
    a Relu passes the gradient where its true input is positive, not where it still is after rounding, and a max-pool
    passes it to the true maximum, not to the first of those that rounding made equal.
    """
    writer = _Writer(network, form)
    by_node = {layer.node: layer for layer in layers}
    for position, node in enumerate(network.prepared.model.graph.node):
        layer = by_node.get(position)
        if layer is None:
            writer.copy(node)
        else:
            writer.layer(node, layer, scales)
    return writer.finish()


class _Writer:
    """Writes the nodes of one quantised graph in order."""

    def __init__(self, network: Network, form: Form) -> None:
        self._model = network.prepared.model
        self._constants = network.prepared.constants
        self._form = form
        self._readers = read_by(self._model.graph)
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: dict[str, onnx.TensorProto] = {}
        self._pending: dict[str, np.float32] = {}  # tensors that get a pair once they are written
        self._settled: dict[str, np.float32] = {}  # tensors that hold multiples of a step already

    def copy(self, node: onnx.NodeProto) -> None:
        """Write a node as it is, with a pair behind it where one was put off to there."""
        late = [name for name in node.output if name in self._pending]
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        self._nodes.append(copied)
        for name in late:
            self._pair_behind(copied, name, self._pending.pop(name))

    def layer(self, node: onnx.NodeProto, layer: Layer, scales: Scales) -> None:
        """Write a layer with its pairs."""
        step = scales.source[layer.name]
        weight, steps = self._weight(layer, step)
        quantised = onnx.NodeProto()
        quantised.CopyFrom(node)
        quantised.input[0] = self._source(layer, step)
        quantised.input[1] = weight
        self._nodes.append(quantised)
        output = scales.output[layer.name]
        if output is None:
            self._bias_apart(quantised)
            return
        if layer.bias is not None:
            quantised.input[2] = self._bias(layer, step * steps.astype(np.float64))
        if self._form is Form.GRADIENT and layer.settled != layer.output:
            self._pending[layer.settled] = output
        else:
            self._pair_behind(quantised, layer.output, output)

    def _bias_apart(self, node: onnx.NodeProto) -> None:
        """Add the bias of a product that ends in floating point behind it: only without one is it run in integers."""
        if len(node.input) < 3 or not node.input[2]:
            return
        bias, result = node.input[2], node.output[0]
        del node.input[2:]
        node.output[0] = f"{result}/product"
        self._nodes.append(helper.make_node("Add", [node.output[0], bias], [result], name=f"{result}/bias"))

    def finish(self) -> onnx.ModelProto:
        """Return the model, without the constants that nothing reads any more."""
        result = onnx.ModelProto()
        result.CopyFrom(self._model)
        graph = result.graph
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend(self._tensors.values())
        read = {name for node in self._nodes for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        onnx.checker.check_model(result)
        return result

    def _source(self, layer: Layer, step: np.float32) -> str:
        """Return the layer's input through a pair of its own, or as it is where it has gone through one already."""
        held = self._settled.get(layer.source)
        if self._form is Form.GRADIENT and held is not None and abs(step - held) <= 8 * np.spacing(held):
            return layer.source
        return self._pair(layer.source, f"{layer.name}/input", step)

    def _pair_behind(self, node: onnx.NodeProto, name: str, step: np.float32) -> None:
        """Let the pair write tensor ``name``, and ``node`` something before it."""
        before = f"{name}/exact"
        node.output[list(node.output).index(name)] = before
        several = self._form is Form.ENGINE and len(self._readers.get(name, [])) > 1
        self._pair(before, f"{name}/output", step, None if several else name)
        if several:
            low, high = (self._store(f"{name}/{end}", np.asarray(k * step, np.float32)) for end, k in _ENDS.items())
            paired = self._nodes[-1].output[0]
            self._nodes.append(helper.make_node("Clip", [paired, low, high], [name], name=f"{name}/once"))
        self._settled[name] = step

    def _pair(self, tensor: str, prefix: str, step: np.float32, result: str | None = None) -> str:
        result = result or f"{prefix}/value"
        pair = [self._store(f"{prefix}/step", np.asarray(step, np.float32)), self._zero("zero", np.int8)]
        inner = f"{prefix}/int8"
        self._nodes.append(helper.make_node("QuantizeLinear", [tensor, *pair], [inner], name=f"{prefix}/quantize"))
        self._nodes.append(helper.make_node("DequantizeLinear", [inner, *pair], [result], name=f"{prefix}/dequantize"))
        return result

    def _bias(self, layer: Layer, steps: Array) -> str:
        """Return the bias as a multiple of the product of both steps, to which an integer kernel rounds it anyway."""
        assert layer.bias is not None
        bias = self._constants[layer.bias]
        rounded = np.rint(bias.reshape(-1) / steps) * steps
        return self._store(f"{layer.name}/bias/rounded", rounded.reshape(bias.shape).astype(np.float32))

    def _weight(self, layer: Layer, step: np.float32) -> tuple[str, Array]:
        """Return the dequantised weight, and its step by output channel."""
        weight = self._constants[layer.weight]
        bias = None if layer.bias is None else self._constants[layer.bias]
        steps = weight_steps(weight, layer.axis, bias, step)
        prefix = f"{layer.name}/weight"
        inputs = [
            self._store(f"{prefix}/int8", quantise_weight(weight, layer.axis, steps)),
            self._store(f"{prefix}/step", steps),
            self._store(f"{prefix}/zero", np.zeros(len(steps), np.int8)),
        ]
        value, name = f"{prefix}/value", f"{prefix}/dequantize"
        self._nodes.append(helper.make_node("DequantizeLinear", inputs, [value], name=name, axis=layer.axis))
        return value, steps

    def _zero(self, name: str, kind: type) -> str:
        return self._store(f"pairs/{name}", np.zeros((), kind))

    def _store(self, name: str, value: Array) -> str:
        self._tensors[name] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name)
        return name


_ENDS = {"least": -LEVELS - 1.0, "largest": float(LEVELS)}


def weight_steps(weight: Array, axis: int, bias: Array | None, step: np.float32) -> Array:
    """Return the step of each output channel: the largest |weight| is 127 of them, and the bias fits into int32."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    steps = np.maximum(np.abs(weight).max(axis=others), TINY).astype(np.float64) / LEVELS
    if bias is not None:
        steps = np.maximum(steps, np.abs(bias.reshape(-1)) / (float(step) * BIAS_LEVELS))
    result: Array = steps.astype(np.float32)
    return result


def quantise_weight(weight: Array, axis: int, steps: Array) -> npt.NDArray[np.int8]:
    """Return the nearest multiples of the steps, within -127 .. 127."""
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    return np.clip(np.rint(weight / steps.reshape(shape)), -LEVELS, LEVELS).astype(np.int8)
