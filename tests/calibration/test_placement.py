"""Pairs stand where onnxruntime finds them, TensorRT takes them, and gradients pass."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from calibration.layers import find_layers
from calibration.placement import Form, insert_pairs, step_sizes, tensors_to_watch, weight_steps
from calibration.ranges import Stream, choose_ranges, observe
from calibration.trim import trim_kernels
from export.gradients import add_input_gradient, build_explainer
from export.gradients.prepare import prepare
from export.session import FATAL_ONLY, cpu_session
from export.tensorrt_support import check, errors
from export.to_onnx import to_onnx
from tests.export.gradients.double import FUNCTIONS, evaluate
from tests.export.gradients.exactness import relative
from tests.export.gradients.test_quantised import straight_through
from toolkit import models

LARGE = ("vgg16", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0")
NETWORKS = ["resnet18", *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]


def settled(model: torch.nn.Module) -> torch.nn.Module:
    """Give every batch norm statistics of its inputs, or activations of random weights vanish layer by layer."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        model.train()(torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    return model.eval()


def quantised(architecture: str) -> tuple[onnx.ModelProto, onnx.ModelProto, onnx.ModelProto]:
    """Return a network, and both forms of it in INT8."""
    model = to_onnx(settled(models.build(architecture, 7, input_size=32)), input_size=(32, 32))
    return model, *forms(model)


def forms(model: onnx.ModelProto, layers: slice = slice(None)) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    network = find_layers(model)
    trim_kernels(network.prepared)
    chosen = network.layers[layers]
    images = np.random.default_rng(1).standard_normal((8, 3, 32, 32), dtype=np.float32)
    stream = Stream(lambda: [images], len(images), "0" * 64)
    ranges = choose_ranges(observe(network, tensors_to_watch(chosen), stream), "minmax", network, stream)
    scales = step_sizes(network, chosen, ranges.thresholds())
    return insert_pairs(network, chosen, scales, Form.ENGINE), insert_pairs(network, chosen, scales, Form.GRADIENT)


def optimised(model: onnx.ModelProto, path: Path) -> Counter[str]:
    """Return the operators that onnxruntime runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("architecture", NETWORKS)
def test_engines_find_every_pair(architecture: str, tmp_path: Path) -> None:
    model, engine, gradient = quantised(architecture)
    plain = Counter(node.op_type for node in model.graph.node)
    found = optimised(engine, tmp_path / "optimised.onnx")
    assert found["QLinearConv"] == plain["Conv"]
    assert found["Conv"] + found["FusedConv"] + found["Gemm"] + found["FusedGemm"] == 0
    assert found["QGemm"] == plain["Gemm"]
    for graph in (engine, build_explainer(gradient)):
        assert errors(check(graph)) == []
        zeros = [numpy_helper.to_array(t) for t in graph.graph.initializer if t.name.endswith("zero")]
        assert zeros and not any(zero.any() for zero in zeros)
        assert all(zero.dtype == np.int8 for zero in zeros)
    images = np.random.default_rng(2).standard_normal((4, 3, 32, 32), dtype=np.float32)
    results = [cpu_session(graph).run(None, {"image": images})[0] for graph in (model, engine, gradient)]
    size = np.abs(results[0]).max()
    # no upper limit: random deep networks amplify any noise, the trained ones are measured by benchmarks/int8.py
    assert np.isfinite(results[1]).all() and np.abs(results[1] - results[0]).max() > 1e-5 * size
    # the forms compute the same values; float32 sums near the middle of two steps may go either way
    assert np.median(np.abs(results[2] - results[1])) / size < 0.02


def test_no_two_pairs_of_a_tensor_are_equal() -> None:
    """onnxruntime would merge them, and then keep the layers behind them in floating point."""
    _, engine, _ = quantised("resnet18")
    values = {t.name: numpy_helper.to_array(t) for t in engine.graph.initializer}
    pairs = [(n.input[0], float(values[n.input[1]])) for n in engine.graph.node if n.op_type == "QuantizeLinear"]
    assert len(set(pairs)) == len(pairs) > len({tensor for tensor, _ in pairs})


def test_gradient_is_exact_to_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Straight through inside the range, zero where clipped: against PyTorch's autograd in double precision."""
    model = to_onnx(settled(models.build("vgg_small", 5, width=0.25)), input_size=(32, 32))
    _, gradient = forms(model)
    graph = add_input_gradient(gradient)
    images = 1.5 * np.random.default_rng(3).standard_normal((3, 3, 32, 32), dtype=np.float32)  # some are clipped
    target = np.array([0, 2, 4])
    found = evaluate(graph, {"image": images, "target": target}, "gradient")["gradient"]
    monkeypatch.setitem(FUNCTIONS, "QuantizeLinear", straight_through)
    x = torch.tensor(images, dtype=torch.float64, requires_grad=True)
    logits = evaluate(prepare(gradient).model, {"image": x}, "logits")["logits"]
    (expected,) = torch.autograd.grad(logits.gather(1, torch.tensor(target)[:, None]).sum(), x)
    assert relative(found, expected) < 1e-6
    assert 0 < float((found == 0).double().mean()) < 0.5


def test_gradient_form_decides_before_it_rounds() -> None:
    """Between a Relu or max-pool and its convolution stands no pair, and no tensor goes through two in a row."""
    _, gradient = forms(to_onnx(settled(models.build("vgg_small", 5, width=0.25)), input_size=(32, 32)))
    made = {name: node for node in gradient.graph.node for name in node.output}
    for node in gradient.graph.node:
        before = made.get(node.input[0])
        if node.op_type in ("Relu", "MaxPool"):
            assert before is not None and before.op_type in ("Conv", "Relu")
        if node.op_type == "QuantizeLinear":
            assert before is None or before.op_type not in ("DequantizeLinear", "Conv")


def test_layers_left_out_are_untouched() -> None:
    model = to_onnx(settled(models.build("vgg_small", 5, width=0.25)), input_size=(32, 32))
    engine, _ = forms(model, slice(1, 2))
    kinds = Counter(node.op_type for node in engine.graph.node)
    assert (kinds["QuantizeLinear"], kinds["DequantizeLinear"]) == (2, 3)
    weights = [n.input[1] for n in engine.graph.node if n.op_type in ("Conv", "Gemm")]
    assert sum(name.endswith("/weight/value") for name in weights) == 1


def test_a_bias_beyond_int32_widens_its_channels_step() -> None:
    weight = np.array([[0.1], [1e-12], [0.0]], np.float32)
    steps = weight_steps(weight, 0, np.array([1.0, 1e3, -5.0], np.float32), np.float32(0.01))
    assert steps[0] == pytest.approx(0.1 / 127)
    assert (np.abs([1.0, 1e3, -5.0] / (steps.astype(np.float64) * 0.01)) <= 2**30 * 1.01).all()
