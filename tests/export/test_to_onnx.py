"""Export of trained, pruned and odd models: same logits, dynamic batch, nothing of the machine inside."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
import torch_pruning
from torch import nn

from edge_runtime.errors import ExportError
from export.facts import count
from export.parity import Parity, check_parity, random_images
from export.to_onnx import OPSET, to_onnx, torch_logits
from toolkit import models

SIZE = (32, 32)


def trained(architecture: str, width: float = 0.25) -> nn.Module:
    """A network whose batch norms have moved away from their initial state, as training would leave them."""
    model = models.build(architecture, 5, width=width)
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -1.0, 1.0),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 2.0),
                (module.bias.data, -1.0, 1.0),
            ):
                tensor.uniform_(low, high, generator=generator)
    return model.eval()


def channels_removed(model: nn.Module) -> nn.Module:
    pruner = torch_pruning.pruner.MetaPruner(
        model,
        torch.zeros(1, 3, *SIZE),
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[module for module in model.modules() if isinstance(module, nn.Linear)],
    )
    pruner.step()
    return model


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return trained("vgg_small")


@pytest.fixture(scope="module")
def small_onnx(small: nn.Module) -> onnx.ModelProto:
    return to_onnx(small, input_size=SIZE)


@pytest.mark.parametrize("architecture", ["vgg16", "vgg_small", "resnet18"])
@pytest.mark.parametrize("pruned", [False, True], ids=["whole", "channels removed"])
def test_same_logits(architecture: str, pruned: bool) -> None:
    model = trained(architecture)
    model = channels_removed(model) if pruned else model
    parity = check_parity(torch_logits(model), to_onnx(model, input_size=SIZE), random_images(7, SIZE))
    assert parity.images == 7
    assert parity.max_difference <= 1e-4


def test_removed_channels_leave_the_graph_smaller() -> None:
    whole = count(to_onnx(trained("vgg_small"), input_size=SIZE))
    pruned = count(to_onnx(channels_removed(trained("vgg_small")), input_size=SIZE))
    assert pruned.parameters < 0.5 * whole.parameters
    assert pruned.macs < 0.5 * whole.macs


def test_names_batch_and_operator_set(small_onnx: onnx.ModelProto) -> None:
    (image,), (logits,) = small_onnx.graph.input, small_onnx.graph.output
    assert (image.name, logits.name) == ("image", "logits")
    batch, *size = image.type.tensor_type.shape.dim
    assert batch.dim_param
    assert [dimension.dim_value for dimension in size] == [3, 32, 32]
    assert logits.type.tensor_type.shape.dim[0].dim_param == batch.dim_param
    assert [opset.version for opset in small_onnx.opset_import if not opset.domain] == [OPSET]


def test_batch_norm_is_folded(small_onnx: onnx.ModelProto) -> None:
    assert "BatchNormalization" not in {node.op_type for node in small_onnx.graph.node}


def test_nothing_of_this_machine_inside(small_onnx: onnx.ModelProto) -> None:
    content = small_onnx.SerializeToString()
    assert not [word for word in (b".py", b"stack_trace", b"site-packages") if word in content]
    assert not any(tensor.external_data for tensor in small_onnx.graph.initializer)


def test_same_model_gives_the_same_bytes(small: nn.Module, small_onnx: onnx.ModelProto) -> None:
    assert to_onnx(small, input_size=SIZE).SerializeToString() == small_onnx.SerializeToString()


def test_the_model_is_left_as_it_was(small: nn.Module) -> None:
    model = trained("vgg_small").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    to_onnx(model, input_size=SIZE)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_parity_notices_a_changed_weight(small: nn.Module, small_onnx: onnx.ModelProto) -> None:
    changed = onnx.ModelProto()
    changed.CopyFrom(small_onnx)
    weight = changed.graph.initializer[0]
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] += 0.5
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    with pytest.raises(ExportError, match="differs from the original by"):
        check_parity(torch_logits(small), changed, random_images(7, SIZE))


def test_parity_refuses_nan(small_onnx: onnx.ModelProto) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(small_onnx)
    weight = broken.graph.initializer[0]
    values = np.full_like(onnx.numpy_helper.to_array(weight), np.nan)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    with pytest.raises(ExportError, match="NaN"):
        check_parity(lambda images: np.zeros((len(images), 5), np.float32), broken, random_images(7, SIZE))


def test_parity_refuses_another_number_of_classes(small_onnx: onnx.ModelProto) -> None:
    with pytest.raises(ExportError, match=r"\(7, 5\), the original \(7, 4\)"):
        check_parity(lambda images: np.zeros((len(images), 4), np.float32), small_onnx, random_images(7, SIZE))


def test_parity_reports_the_largest_difference(small: nn.Module, small_onnx: onnx.ModelProto) -> None:
    logits = torch_logits(small)
    shifted = check_parity(lambda images: logits(images) + np.float32(5e-5), small_onnx, random_images(7, SIZE))
    assert isinstance(shifted, Parity)
    assert 4e-5 < shifted.max_difference < 6e-5


class NeedsItsValues(nn.Module):
    """Decides by a value of the image: no graph can hold that."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) if images.sum().item() > 0 else images.amax((2, 3))


class NotAClassifier(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * 2


@pytest.mark.parametrize(
    ("model", "message"), [(NeedsItsValues(), "cannot be exported"), (NotAClassifier(), "has 4 dimensions")]
)
def test_models_that_cannot_be_exported(model: nn.Module, message: str) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        to_onnx(model, input_size=SIZE)
    assert "\n" not in str(caught.value)


def test_unfolded_every_weight_is_the_networks_own(small: nn.Module, small_onnx: onnx.ModelProto) -> None:
    unfolded = to_onnx(small, input_size=SIZE, fold=False)
    assert "BatchNormalization" in {node.op_type for node in unfolded.graph.node}
    assert "BatchNormalization" not in {node.op_type for node in small_onnx.graph.node}
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in unfolded.graph.initializer}
    for name, value in small.named_parameters():
        np.testing.assert_array_equal(stored[name], value.detach().numpy())
