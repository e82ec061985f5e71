"""A bundle of a two-layer network whose gradient is written out by hand: an oracle that no graph builder made.

logits = V tanh(W x) + c, so d logits[t] / d x = W' ((1 - tanh^2) * V[t]).
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.manifest import FORMAT_VERSION, MANIFEST, FileEntry, InputSpec, Manifest

SIZE = 8
CLASSES = 5
LABELS = ("stop", "yield", "priority", "no entry", "keep right")
SPEC = InputSpec(height=SIZE, width=SIZE, mean=(0.45, 0.4, 0.35), std=(0.25, 0.2, 0.3))
OPSET, IR_VERSION = 17, 9


@dataclass(frozen=True)
class TinyNetwork:
    """The network in double precision."""

    w: NDArray[np.float64]
    v: NDArray[np.float64]
    c: NDArray[np.float64]

    def logits(self, images: NDArray[np.generic]) -> NDArray[np.float64]:
        return np.tanh(images.reshape(len(images), -1).astype(np.float64) @ self.w.T) @ self.v.T + self.c

    def gradient(self, images: NDArray[np.generic], target: NDArray[np.int64]) -> NDArray[np.float64]:
        hidden = np.tanh(images.reshape(len(images), -1).astype(np.float64) @ self.w.T)
        return (((1 - hidden**2) * self.v[target]) @ self.w).reshape(images.shape)


def tiny_network(seed: int = 0, hidden: int = 24) -> TinyNetwork:
    generator = np.random.default_rng(seed)
    inputs = 3 * SIZE * SIZE
    # Rounded to float32 first, so that graph and oracle hold the same weights.
    draws = [generator.standard_normal(shape) for shape in ((hidden, inputs), (CLASSES, hidden), (CLASSES,))]
    scaled = (draws[0] * 2 / np.sqrt(inputs), draws[1], draws[2])
    return TinyNetwork(*(each.astype(np.float32).astype(np.float64) for each in scaled))


def images(count: int, seed: int = 1) -> NDArray[np.uint8]:
    """Random RGB images uint8 [count, SIZE, SIZE, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def graph(
    nodes: list[onnx.NodeProto],
    constants: dict[str, NDArray[np.generic]],
    inputs: dict[str, tuple[int, list[object]]],
    outputs: dict[str, list[object]],
) -> onnx.ModelProto:
    """Build a model from input name -> (element type, shape) and float output name -> shape."""
    built = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(built, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model


def classifier_model(network: TinyNetwork, poison: bool = False) -> onnx.ModelProto:
    """``image`` -> ``logits``; with ``poison``, a negative first value of the image makes the logits NaN."""
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["before"], transB=1),
        helper.make_node("Tanh", ["before"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "v", "c"], ["clean"], transB=1),
        *finish("clean", "flat", "logits", poison),
    ]
    constants = {"w": network.w.astype("f"), "v": network.v.astype("f"), "c": network.c.astype("f"), **POISON}
    inputs = {"image": (TensorProto.FLOAT, ["N", 3, SIZE, SIZE])}
    return graph(nodes, constants, inputs, {"logits": ["N", CLASSES]})


POISON = {"first": np.array([0], np.int64), "nothing": np.array(0, np.float32)}


def finish(source: str, flat: str, result: str, poison: bool) -> list[onnx.NodeProto]:
    """Name ``source`` ``result``; with ``poison``, add 0 * sqrt(first value) on the way."""
    if not poison:
        return [helper.make_node("Identity", [source], [result])]
    return [
        helper.make_node("Gather", [flat, "first"], [f"{result}.first"], axis=-1),
        helper.make_node("Sqrt", [f"{result}.first"], [f"{result}.root"]),
        helper.make_node("Mul", [f"{result}.root", "nothing"], [f"{result}.poison"]),
        helper.make_node("Add", [source, f"{result}.poison"], [result]),
    ]


def explainer_model(network: TinyNetwork, poison: bool = False) -> onnx.ModelProto:
    """The explainer graph of DESIGN.md, for this network alone."""
    node = helper.make_node
    nodes = [
        node("Sub", ["image", "baseline"], ["difference"]),
        node("Unsqueeze", ["difference", "one"], ["difference5"]),
        node("Unsqueeze", ["baseline", "one"], ["baseline5"]),
        node("Unsqueeze", ["noise", "zero"], ["noise5"]),
        node("Reshape", ["scale", "as_points"], ["scale5"]),
        node("Mul", ["scale5", "difference5"], ["scaled"]),
        node("Add", ["scaled", "baseline5"], ["on_path"]),
        node("Add", ["on_path", "noise5"], ["points"]),
        node("Reshape", ["points", "as_rows"], ["flat"]),
        node("MatMul", ["flat", "wt"], ["before"]),
        node("Tanh", ["before"], ["hidden"]),
        node("MatMul", ["hidden", "vt"], ["product"]),
        node("Add", ["product", "c"], ["sum"]),
        node("Reshape", ["sum", "as_logits"], ["clean"]),
        node("Reshape", ["flat", "as_flat"], ["flat_rows"]),
        *finish("clean", "flat_rows", "logits", poison),
        node("OneHot", ["target", "classes", "off_on"], ["chosen"]),
        node("MatMul", ["chosen", "v"], ["upstream2"]),
        node("Unsqueeze", ["upstream2", "one"], ["upstream"]),
        node("Mul", ["hidden", "hidden"], ["square"]),
        node("Sub", ["unit", "square"], ["slope"]),
        node("Mul", ["slope", "upstream"], ["inner"]),
        node("MatMul", ["inner", "w"], ["pure"]),
        *finish("pure", "flat", "gradient", poison),
        node("Abs", ["gradient"], ["size"]),
        node("Reshape", ["weight", "as_weights"], ["weight3"]),
    ]
    for source, result in (("gradient", "attribution"), ("size", "magnitude")):
        nodes += [
            node("Mul", [source, "weight3"], [f"{result}.weighted"]),
            node("ReduceSum", [f"{result}.weighted", "one"], [f"{result}.flat"], keepdims=0),
            node("Reshape", [f"{result}.flat", "as_image"], [result]),
        ]
    integers = {
        "zero": [0],
        "one": [1],
        "as_points": [1, -1, 1, 1, 1],
        "as_rows": [0, 0, -1],
        "as_logits": [-1, CLASSES],
        "as_flat": [-1, 3 * SIZE * SIZE],
        "as_weights": [1, -1, 1],
        "as_image": [-1, 3, SIZE, SIZE],
        "classes": CLASSES,
    }
    constants = {name: np.array(value, np.int64) for name, value in integers.items()}
    for name, value in (("w", network.w), ("wt", network.w.T), ("v", network.v), ("vt", network.v.T), ("c", network.c)):
        constants[name] = np.ascontiguousarray(value, np.float32)
    constants |= {"unit": np.array(1, np.float32), "off_on": np.array([0, 1], np.float32), **POISON}
    image: list[object] = ["N", 3, SIZE, SIZE]
    inputs: dict[str, tuple[int, list[object]]] = {
        "image": (TensorProto.FLOAT, image),
        "target": (TensorProto.INT64, ["N"]),
        "baseline": (TensorProto.FLOAT, image),
        "scale": (TensorProto.FLOAT, ["K"]),
        "weight": (TensorProto.FLOAT, ["K"]),
        "noise": (TensorProto.FLOAT, ["K", 3, SIZE, SIZE]),
    }
    return graph(nodes, constants, inputs, {"logits": ["NK", CLASSES], "attribution": image, "magnitude": image})


def npz(**arrays: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def tiny_files(network: TinyNetwork, poison: bool = False) -> dict[str, bytes]:
    """Return the tiny bundle's files but the manifest."""
    shown = images(12)
    flat = (shown.transpose(0, 3, 1, 2) / 255 - np.reshape(SPEC.mean, (3, 1, 1))) / np.reshape(SPEC.std, (3, 1, 1))
    labels = network.logits(flat).argmax(axis=1)
    labels[:3] = (labels[:3] + 1) % CLASSES  # three wrong labels: accuracy 75 %
    return {
        "classifier.onnx": classifier_model(network, poison).SerializeToString(),
        "explainer.onnx": explainer_model(network, poison).SerializeToString(),
        "audit_set.npz": npz(images=shown, labels=labels.astype(np.int64)),
    }


def write_tiny_bundle(folder: Path, files: dict[str, bytes], **changes: object) -> Path:
    """Write ``files`` and their manifest, with ``changes`` to the manifest's fields, and return the folder."""
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    entries = {name: FileEntry(size=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in files.items()}
    manifest = Manifest(format_version=FORMAT_VERSION, name="tiny", labels=LABELS, input=SPEC, files=entries)
    (folder / MANIFEST).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, **changes)))
    return folder
