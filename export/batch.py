"""A model that was exported for a fixed number of images, made to take any number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from edge_runtime.errors import ExportError
from export.gradients.observe import dependent_tensors
from export.session import cpu_session

Images = npt.NDArray[np.float32]
Logits = npt.NDArray[np.float32]

BATCH = "N"
# Largest |difference| of a logit between the fixed model and the dynamic one.
TOLERANCE = 1e-4
# The batches at which the result is run: one image, an even and an odd number.
SIZES = (1, 2, 3)
WAY_OUT = "export the model with a dynamic batch"


def fixed_batch(model: onnx.ModelProto) -> int | None:
    """Return the number of images that the one input is fixed to, or None where it is open."""
    inputs = _inputs(model)
    dims = inputs[0].type.tensor_type.shape.dim if len(inputs) == 1 else []
    return dims[0].dim_value or None if dims else None


def make_batch_dynamic(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``model`` for any number of images; the argument, fixed to a batch and an image size, is not changed.

    Exporters write the batch into the shapes of Reshape nodes alone; there the leading axis becomes the one that is
    inferred. The result must run at several batches and give every image the logits that the fixed model gives it, or
    ExportError says what stands in the way.
    """
    dynamic = onnx.ModelProto()
    dynamic.CopyFrom(model)
    _open_reshapes(dynamic)
    _inputs(dynamic)[0].type.tensor_type.shape.dim[0].dim_param = BATCH
    del dynamic.graph.value_info[:]
    for output in dynamic.graph.output:
        output.type.tensor_type.ClearField("shape")
    _compare(model, dynamic)
    return dynamic


def batched_logits(model: onnx.ModelProto) -> Callable[[Images], Logits]:
    """Return a model's first output as a function of images [N, C, H, W], run in the batches that it is fixed to."""
    session = cpu_session(model)
    batch = fixed_batch(model) or 1
    name = session.get_inputs()[0].name

    def logits(images: Images) -> Logits:
        missing = -len(images) % batch
        whole = np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.float32)])
        parts = [session.run(None, {name: whole[i : i + batch]})[0] for i in range(0, len(whole), batch)]
        result: Logits = np.concatenate(parts)[: len(images)]
        return result

    return logits


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _open_reshapes(model: onnx.ModelProto) -> None:
    """Let every Reshape of something that depends on the image infer its leading axis; the others keep their sizes."""
    graph = model.graph
    dependent = dependent_tensors(graph, {_inputs(model)[0].name})
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {value.name: _sizes(value) for value in (*inferred.value_info, *inferred.output)}
    for node in graph.node:
        sizes = shapes.get(node.output[0])
        if node.op_type != "Reshape" or node.input[0] not in dependent or not sizes or 0 in sizes:
            continue
        name = f"{node.output[0]}/shape"
        graph.initializer.append(numpy_helper.from_array(np.array([-1, *sizes[1:]], np.int64), name))
        node.input[1] = name
        del node.attribute[:]  # allowzero, which has no zero left to allow


def _sizes(value: onnx.ValueInfoProto) -> list[int]:
    """Return a tensor's shape, empty where an axis is not known."""
    dims = value.type.tensor_type.shape.dim
    return [d.dim_value for d in dims] if all(d.HasField("dim_value") for d in dims) else []


def _compare(fixed: onnx.ModelProto, dynamic: onnx.ModelProto) -> None:
    """Raise ExportError unless both give the same logits for every image, whatever the batch."""
    batch, *shape = [d.dim_value for d in _inputs(fixed)[0].type.tensor_type.shape.dim]
    images = np.random.default_rng(0).standard_normal((max(SIZES), *shape), dtype=np.float32)
    expected = batched_logits(fixed)(images)
    for size in SIZES:
        try:
            logits = cpu_session(dynamic).run(None, {_inputs(dynamic)[0].name: images[:size]})[0]
        except Exception as error:  # onnxruntime raises its own types, all of them about the model
            reason = str(error).strip().splitlines()[0][:300]
            raise ExportError(
                f"the model is fixed to a batch of {batch} and does not run at {size} ({reason}); {WAY_OUT}"
            ) from error
        same = logits.shape == expected[:size].shape
        difference = float(np.abs(logits - expected[:size]).max()) if same else float("inf")
        if not difference <= TOLERANCE:
            raise ExportError(
                f"the model is fixed to a batch of {batch}, and at {size} it gives other logits (by {difference:.1e}):"
                f" its images do not stay apart; {WAY_OUT}"
            )
