"""Gradients of quantised graphs: straight through inside the range, zero where clipped, never zero everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import nn

from edge_runtime.errors import UnsupportedOperatorError
from export.gradients import add_input_gradient
from export.gradients.prepare import prepare
from export.to_onnx import to_onnx
from tests.export.gradients.classifiers import run
from tests.export.gradients.double import FUNCTIONS, Node, Tensor, evaluate
from tests.export.gradients.double_layers import along, quantised_range
from tests.export.gradients.exactness import relative

KINDS = {
    TensorProto.INT8: (-3, 1),
    TensorProto.UINT8: (100, 1),
    TensorProto.INT16: (500, 21),
    TensorProto.UINT16: (30000, 21),
    TensorProto.INT4: (1, 21),
    TensorProto.UINT4: (7, 21),
}
CHANNELS = 3


def pair(kind: int, opset: int, *, scale: np.ndarray, zero: np.ndarray | None, attributes: str = "") -> onnx.ModelProto:
    """Return y = DequantizeLinear(QuantizeLinear(x)) with a linear head."""
    options = {"axis": int(attributes)} if attributes else {}
    declared = {"output_dtype": kind} if zero is None and opset >= 21 else {}
    inputs = ["scale"] if zero is None else ["scale", "zero"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *inputs], ["q"], **options, **declared),
        helper.make_node("DequantizeLinear", ["q", *inputs], ["y"], **options),
        helper.make_node("Flatten", ["y"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head"], ["logits"]),
    ]
    head = np.random.default_rng(0).standard_normal((CHANNELS * 16, 4)).astype(np.float32)
    tensors = [numpy_helper.from_array(head, "head"), numpy_helper.from_array(scale.astype(np.float32), "scale")]
    if zero is not None:
        tensors.append(helper.make_tensor("zero", kind, zero.shape, zero.reshape(-1)))
    graph = helper.make_graph(
        nodes,
        "pair",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", CHANNELS, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.mark.parametrize("kind", KINDS, ids=TensorProto.DataType.Name)
@pytest.mark.parametrize("per_channel", [False, True], ids=["per tensor", "per channel"])
def test_pair_equals_the_fake_quantisation_of_pytorch(kind: int, per_channel: bool) -> None:
    zero_point, since = KINDS[kind]
    low, high = quantised_range(kind)
    reach = 1.4 / (high - low)  # about a third of standard normal values is clipped
    scale = np.array([reach, 2 * reach, 0.5 * reach]) if per_channel else np.array(reach)
    zero = np.array([zero_point, zero_point + 1, zero_point - 1]) if per_channel else np.array(zero_point)
    model = pair(kind, max(20, since), scale=scale, zero=zero, attributes="1" if per_channel else "")
    x = torch.randn(2, CHANNELS, 4, 4, generator=torch.Generator().manual_seed(1))
    seed = numpy_helper.to_array(model.graph.initializer[0])[:, [1, 3]].T.reshape(2, CHANNELS, 4, 4)
    step, shift = torch.tensor(scale, dtype=torch.float32), torch.tensor(zero, dtype=torch.int32)
    image = x.clone().requires_grad_()
    if per_channel:
        quantised = torch.fake_quantize_per_channel_affine(image, step, shift, 1, low, high)
    else:
        quantised = torch.fake_quantize_per_tensor_affine(image, step, shift, low, high)
    (expected,) = torch.autograd.grad((quantised * torch.tensor(seed.copy())).sum(), image)
    found = run(add_input_gradient(model), x=x.numpy(), target=np.array([1, 3]))
    assert relative(torch.tensor(found["gradient"]), expected) < 1e-6
    assert 0.05 < float((expected == 0).float().mean()) < 0.6  # some values are clipped, most are not


@pytest.mark.parametrize("opset", [13, 21])
def test_without_a_zero_point(opset: int) -> None:
    kind = TensorProto.UINT8 if opset == 13 else TensorProto.INT8
    model = pair(kind, opset, scale=np.array(0.01), zero=None)
    x = np.random.default_rng(2).standard_normal((1, CHANNELS, 4, 4)).astype(np.float32)
    found = run(add_input_gradient(model), x=x, target=np.array([0]))["gradient"]
    low, high = (0.0, 2.55) if opset == 13 else (-1.28, 1.27)
    inside = (x > low - 0.005) & (x < high + 0.005)
    assert np.array_equal(found != 0, inside)
    head = numpy_helper.to_array(model.graph.initializer[0])[:, 0].reshape(x.shape)
    assert np.allclose(found, np.where(inside, head, 0), rtol=1e-6)


class Small(nn.Module):
    """Convolutions, a residual sum, pooling and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.down = nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(24 * 4, 32), nn.ReLU(), nn.Linear(32, 7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = nn.functional.max_pool2d(x + self.body(x).relu(), 2)
        return self.head(self.down(x).relu())


class Batches(CalibrationDataReader):
    def __init__(self, images: np.ndarray) -> None:
        self.rest = [{"image": batch} for batch in np.split(images, 4)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.rest.pop() if self.rest else None


class StraightThrough(torch.autograd.Function):
    """Round and clip; the gradient passes where nothing was clipped. The definition, written down a second time."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, steps: Tensor, low: Tensor, high: Tensor) -> Tensor:
        rounded = torch.round(steps)
        ctx.save_for_backward((rounded >= low) & (rounded <= high))  # type: ignore[attr-defined]
        return rounded.clamp(low, high)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grads[0] * inside, None, None


def straight_through(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    kind = node.kinds[2] if zero is not None else TensorProto.UINT8
    assert kind is not None
    shift = torch.zeros(()) if zero is None else along(node, zero, x).double()
    low, high = (torch.tensor(float(bound)) - shift for bound in quantised_range(kind))
    return StraightThrough.apply(x / along(node, scale, x), low, high) + shift


@pytest.mark.parametrize("per_channel", [False, True], ids=["per tensor", "per channel"])
@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8], ids=str)
def test_a_network_quantised_by_onnxruntime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, per_channel: bool, kind: QuantType
) -> None:
    torch.manual_seed(3)
    images = np.random.default_rng(4).standard_normal((32, 3, 8, 8)).astype(np.float32)
    onnx.save(to_onnx(Small().eval(), input_size=(8, 8)), tmp_path / "float.onnx")
    quantize_static(
        tmp_path / "float.onnx",
        tmp_path / "quantised.onnx",
        Batches(images),
        quant_format=QuantFormat.QDQ,
        per_channel=per_channel,
        activation_type=kind,
        weight_type=QuantType.QInt8,
    )
    model = onnx.load(tmp_path / "quantised.onnx")
    graph = add_input_gradient(model)
    onnx.checker.check_model(graph, full_check=True)
    batch, target = 1.5 * images[:4], np.array([0, 2, 4, 6])  # beyond the calibrated range: some pixels are clipped
    found = evaluate(graph, {"image": batch, "target": target}, "gradient")["gradient"]
    monkeypatch.setitem(FUNCTIONS, "QuantizeLinear", straight_through)
    x = torch.tensor(batch, dtype=torch.float64, requires_grad=True)
    logits = evaluate(prepare(model).model, {"image": x}, "logits")["logits"]
    (expected,) = torch.autograd.grad(logits.gather(1, torch.tensor(target)[:, None]).sum(), x)
    assert relative(found, expected) < 1e-6  # float32 scales in the graph
    clipped = (found == 0).double().mean()
    assert 0.001 < clipped < 0.5
    single = run(graph, image=batch, target=target)["gradient"]
    assert relative(torch.tensor(single).double(), expected) < 0.05  # a step of rounding may flip in float32
    weights = [node for node in prepare(model).model.graph.node if node.op_type == "DequantizeLinear"]
    assert len(weights) == sum(node.op_type == "DequantizeLinear" for node in model.graph.node)


def test_dynamic_quantisation_is_refused_by_name() -> None:
    """Written out it rounds, and the gradient of everything before it would be zero without a word."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("DynamicQuantizeLinear", ["flat"], ["q", "scale", "zero"], name="quantise"),
        helper.make_node("MatMulInteger", ["q", "w", "zero"], ["sum"], name="product"),
        helper.make_node("Cast", ["sum"], ["steps"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["steps", "scale"], ["logits"]),
    ]
    weights = numpy_helper.from_array(np.ones((12, 4), np.int8), "w")
    graph = helper.make_graph(
        nodes,
        "dynamic",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(UnsupportedOperatorError, match=r"DynamicQuantizeLinear 'quantise'.*no gradient rule") as raised:
        add_input_gradient(model)
    assert "MatMulInteger 'product'" in str(raised.value)


def test_blocks_are_refused_by_name() -> None:
    model = pair(TensorProto.INT8, 21, scale=np.full((2, 3, 4, 1), 0.1), zero=None)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    for node in model.graph.node[:2]:
        node.attribute.append(helper.make_attribute("block_size", 4))
        node.attribute.append(helper.make_attribute("axis", 3))
    with pytest.raises(UnsupportedOperatorError, match="quantises in blocks"):
        add_input_gradient(model)
