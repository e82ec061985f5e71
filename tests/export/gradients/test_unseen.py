"""Classifiers that this project has never seen: from opset 13 to the newest, from both of PyTorch's exporters."""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import version_converter
from torch import nn

from edge_runtime.errors import ExportError
from export.gradients import add_input_gradient, build_explainer
from tests.export.gradients.classifiers import relative as relative_error
from tests.export.gradients.classifiers import run
from tests.export.gradients.exactness import CLASSES, TOLERANCE, autograd, double_errors, export_double, randomised
from tests.export.gradients.unseen import UNSEEN, Branches, Deconvolution, unseen

OLDEST, NEWEST_TRACED, NEWEST = 13, 23, 26


def traced(
    module: nn.Module, size: tuple[int, int], opset: int, *, dynamic: bool = True, double: bool = False
) -> onnx.ModelProto:
    """Export by PyTorch's older, tracing exporter, which reaches back to opset 13; the image is called pixels."""
    dtype = torch.float64 if double else torch.float32
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.zeros(2, 3, *size, dtype=dtype),),
            file,
            dynamo=False,
            opset_version=opset,
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_axes={"pixels": {0: "batch"}} if dynamic else None,
        )
    return onnx.load_from_string(file.getvalue())


def unseen_in_double(name: str) -> tuple[nn.Module, tuple[int, int]]:
    """Return a classifier in double; without SELU, which both exporters compute in float32 in any model."""
    module, size = unseen(name)
    if isinstance(module, Deconvolution):
        module.body[9] = nn.Tanh()
    return randomised(module), size


def assert_gradients_agree(module: nn.Module, model: onnx.ModelProto, size: tuple[int, int], batch: int = 3) -> None:
    """Compare onnxruntime's float32 gradient with PyTorch's in double, every image with its own target."""
    images = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))
    target = torch.arange(batch) * 2 % CLASSES
    logits, gradient = autograd(module.double(), images.double(), target)
    module.float()
    graph = add_input_gradient(model)
    onnx.checker.check_model(graph, full_check=True)
    image = graph.graph.input[0].name
    found = run(graph, **{image: images.numpy(), "target": target.numpy()})
    assert relative_error(found[model.graph.output[0].name], logits) < 1e-5
    assert relative_error(found["gradient"], gradient) < 1e-4


OPSETS = [OLDEST, 15, 16, 17, 18, 20, 21, NEWEST_TRACED]
TRACED = [(name, opset) for name in UNSEEN for opset in OPSETS]
TRACED.remove(("attention", OLDEST))  # the exporter itself has no attention before opset 14


@pytest.mark.parametrize(("name", "opset"), TRACED)
def test_traced_at_every_opset(name: str, opset: int) -> None:
    module, size = unseen(name)
    assert_gradients_agree(module, traced(module, size, opset), size)


# The tracing exporter casts the input of CELU to single precision, which has no gradient in double.
@pytest.mark.parametrize("name", [name for name in UNSEEN if name != "deconvolution"])
def test_traced_in_double(name: str) -> None:
    module, size = unseen_in_double(name)
    model = traced(module, size, 20, double=True)
    model.graph.input[0].name = "image"
    for node in model.graph.node:
        node.input[:] = ["image" if n == "pixels" else n for n in node.input]
    assert max(double_errors(module, model, size)) < TOLERANCE


@pytest.mark.parametrize("name", ["norms", "attention"])  # GroupNormalization and Attention are operators by then
def test_exported_in_double_at_a_new_opset(name: str) -> None:
    module, size = unseen_in_double(name)
    assert max(double_errors(module, export_double(module, size, opset=23), size)) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 20, 23, 25])
@pytest.mark.parametrize("name", UNSEEN)
def test_exported_in_double(name: str, opset: int) -> None:
    module, size = unseen_in_double(name)
    assert max(double_errors(module, export_double(module, size, opset=opset), size)) < TOLERANCE


@pytest.mark.parametrize("name", UNSEEN)
def test_converted_to_the_newest_opset(name: str) -> None:
    module, size = unseen(name)
    newest = version_converter.convert_version(traced(module, size, 17), NEWEST)
    assert_gradients_agree(module, newest, size)


@pytest.mark.parametrize("name", UNSEEN)
def test_a_fixed_batch(name: str) -> None:
    module, size = unseen(name)
    model = traced(module, size, 17, dynamic=False)
    assert_gradients_agree(module, model, size, batch=2)
    with pytest.raises(ExportError, match="fixed batch of 2"):
        build_explainer(model)


@pytest.mark.parametrize("opset", [OLDEST, NEWEST_TRACED])
def test_branches_that_depend_on_shapes_fold(opset: int) -> None:
    torch.manual_seed(0)
    module = Branches().eval()
    model = traced(module, (9, 8), opset)
    assert any(node.op_type == "If" for node in model.graph.node)
    assert_gradients_agree(module, model, (9, 8))
    assert not any(node.op_type == "If" for node in add_input_gradient(model).graph.node)


def test_further_outputs_stay() -> None:
    module, size = unseen("gates")
    model = traced(module, size, 17)
    model.graph.output.append(onnx.helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, None))
    model.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["probabilities"]))
    graph = add_input_gradient(model)
    images = np.random.default_rng(0).standard_normal((2, 3, *size)).astype(np.float32)
    found = run(graph, pixels=images, target=np.array([0, 1]))
    assert list(found) == ["logits", "probabilities", "gradient"]
    assert np.allclose(found["probabilities"].sum(1), 1, atol=1e-6)
    assert_gradients_agree(module, model, size)


def test_names_are_free_to_choose() -> None:
    module, size = unseen("gates")
    model = traced(module, size, 17)
    graph = add_input_gradient(model, target_input="class", gradient_output="saliency")
    assert [i.name for i in graph.graph.input] == ["pixels", "class"]
    assert [o.name for o in graph.graph.output] == ["logits", "saliency"]
    with pytest.raises(ExportError, match="already has a tensor named 'logits'"):
        add_input_gradient(model, gradient_output="logits")
