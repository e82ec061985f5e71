"""A user's own ONNX classifier, brought to the names and the shape of input that a bundle has. No PyTorch."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from edge_runtime.errors import ExportError
from export.batch import batched_logits, fixed_batch, make_batch_dynamic
from export.gradients.prepare import prepare
from export.interface import IMAGE, LOGITS
from export.parity import check_parity, random_images

# A protobuf message, and so a model with its weights inside, cannot be larger.
MAX_BYTES = 2 << 30


def load_classifier(path: str | os.PathLike[str], input_size: tuple[int, int]) -> onnx.ModelProto:
    """Return the classifier in ``path`` for images of ``input_size`` (height, width), ready for a bundle.

    The image input becomes ``image`` float32 [N,3,H,W] with N dynamic, the first output ``logits`` [N,K]; what the
    input size makes constant is folded, and weights from external files beside the model are brought inside. The
    result is compared with the original on random images. Raises ExportError for anything that is no such classifier.
    """
    original = read(Path(path))
    fix_image_size(original, input_size)
    prepared = prepare(make_batch_dynamic(original) if fixed_batch(original) else original)
    classifier = prepared.model
    rename(classifier, {prepared.image: IMAGE, prepared.logits: LOGITS})
    only_logits(classifier)
    check_parity(batched_logits(original), classifier, random_images(3, input_size))
    return classifier


def read(path: Path) -> onnx.ModelProto:
    """Read an ONNX file with all its weights; raises ExportError for what is none, or reaches out of its folder."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ExportError(f"{path} has {size} bytes; an ONNX file has at most {MAX_BYTES}")
        model = onnx.load_model_from_string(path.read_bytes())
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise ExportError(f"{path} is not an ONNX model, or is truncated: {error}") from error
    if not model.graph.node:
        raise ExportError(f"{path} is not an ONNX model: it holds no operators")
    if any(onnx.external_data_helper.uses_external_data(tensor) for tensor in model.graph.initializer):
        try:
            onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
        except (onnx.checker.ValidationError, OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ExportError(f"{path}: its weights in other files cannot be used: {reason}") from error
    return model


def fix_image_size(model: onnx.ModelProto, input_size: tuple[int, int]) -> None:
    """Give the image input the size [3,H,W] where the model leaves it open; a contradiction is an error."""
    weights = {tensor.name for tensor in model.graph.initializer}
    images = [value for value in model.graph.input if value.name not in weights]
    if len(images) != 1:
        return  # prepare() says what is wrong, with names
    tensor = images[0].type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
        raise ExportError(f"input {images[0].name!r} is of type {kind}; a bundle's classifier takes float32")
    dimensions = tensor.shape.dim
    if len(dimensions) != 4:
        return
    wanted = (3, *input_size)
    for dimension, length in zip(list(dimensions)[1:], wanted, strict=True):
        if dimension.dim_value not in (0, length):
            shape = [d.dim_value or d.dim_param or "?" for d in dimensions]
            raise ExportError(
                f"input {images[0].name!r} has shape {shape}, which is not [N, 3, {input_size[0]}, {input_size[1]}]; "
                "a classifier of RGB images (N, 3, height, width) and its own --input-size are needed"
            )
        dimension.dim_value = length
    # Shapes stored for another batch or size would contradict these.
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")


def rename(model: onnx.ModelProto, names: dict[str, str]) -> None:
    """Rename tensors; one that already has a new name steps aside. Subgraphs are gone after prepare()."""
    taken = {name: f"{name}/inner" for name in names.values() if name not in names}
    new = {**taken, **names}
    graph = model.graph
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = new.get(value.name, value.name)


def only_logits(model: onnx.ModelProto) -> None:
    """Drop every output but the logits, and state their shape [N,K]."""
    kept = [output for output in model.graph.output if output.name == LOGITS]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    (output,) = inferred.graph.output
    model.graph.output[0].CopyFrom(output)
