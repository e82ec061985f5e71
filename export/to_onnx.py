"""From a PyTorch classifier to ONNX. The only module of this package that imports torch."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from edge_runtime.errors import ExportError
from export.einsum import lower_case_equations
from export.interface import IMAGE, LOGITS

# The newest operator set that every engine in use reads: TensorRT 10.3 stops at 20.
OPSET = 20


def to_onnx(model: torch.nn.Module, *, input_size: tuple[int, int], fold: bool = True) -> onnx.ModelProto:
    """Export ``model`` for images of ``input_size`` (height, width).

    The result maps ``image`` float32 [N,3,H,W], N dynamic, to ``logits`` float32 [N,K]. Constants are folded, batch
    norms that follow a convolution are folded into it, weights are inline, and nothing of the machine that exported
    (source paths, stack traces) stays inside. The model itself is left as it was. Raises ExportError.

    Without ``fold`` nothing is folded: every weight is the model's own. The gradient's parity check asks for that.
    """
    frozen = copy.deepcopy(model).to("cpu", torch.float32).eval()
    # Two images, because a batch of one would be taken for a fixed dimension.
    example = torch.zeros(2, 3, *input_size)
    try:
        with _quiet():
            program = torch.onnx.export(
                frozen,
                (example,),
                dynamo=True,
                input_names=[IMAGE],
                output_names=[LOGITS],
                dynamic_shapes=({0: torch.export.Dim("N")},),
                opset_version=OPSET,
                optimize=fold,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError, TypeError) as error:
        raise ExportError(
            f"{type(model).__name__} at {input_size[0]}x{input_size[1]} pixels cannot be exported: {_first_line(error)}"
        ) from error
    assert program is not None
    exported: onnx.ModelProto = program.model_proto
    _strip(exported)
    lower_case_equations(exported.graph)
    _check(exported)
    return exported


def torch_logits(model: torch.nn.Module) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    """Return a function from normalised images [N,3,H,W] to PyTorch's logits [N,K], for the parity check."""
    frozen = copy.deepcopy(model).to("cpu", torch.float32).eval()

    def logits(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            result: npt.NDArray[np.float32] = frozen(torch.from_numpy(images)).numpy()
        return result

    return logits


def torch_gradient(
    model: torch.nn.Module,
) -> Callable[[npt.NDArray[np.float32], npt.NDArray[np.int64]], npt.NDArray[np.float64]]:
    """Return a function from images [N,3,H,W] and targets [N] to d logit[target] / d image, computed in double."""
    frozen = copy.deepcopy(model).to("cpu", torch.float64).eval()

    def gradient(images: npt.NDArray[np.float32], target: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        leaf = torch.from_numpy(images).double().requires_grad_()
        logits = frozen(leaf).gather(1, torch.from_numpy(target)[:, None])
        result: npt.NDArray[np.float64] = torch.autograd.grad(logits.sum(), leaf)[0].numpy()
        return result

    return gradient


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the exporter says about itself: deprecations and progress are no news to the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    """Return the first line that says something; the exporter's own wrapper carries a report of many pages."""
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0] if lines else type(cause).__name__


def _strip(model: onnx.ModelProto) -> None:
    """Remove metadata: the exporter stores stack traces with local paths, several times the size of the graph."""
    graph = model.graph
    carriers: list[Any] = [model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info]
    for carrier in [*carriers, *graph.initializer]:
        del carrier.metadata_props[:]
        carrier.doc_string = ""
    graph.name = "classifier"
    model.producer_name = "roadworthy"
    model.producer_version = ""


def _check(model: onnx.ModelProto) -> None:
    if model.functions:
        raise ExportError(f"the exporter left local functions: {', '.join(f.name for f in model.functions)}")
    (output,) = model.graph.output
    dimensions = output.type.tensor_type.shape.dim
    if len(dimensions) != 2:
        raise ExportError(f"a classifier's output is logits [N,K], this model's has {len(dimensions)} dimensions")
    onnx.checker.check_model(model, full_check=True)
