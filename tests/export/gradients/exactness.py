"""Double-precision comparison of a gradient graph with PyTorch's autograd, for any module."""

from __future__ import annotations

import logging
import warnings

import onnx
import torch
from torch import nn

from export.gradients import add_input_gradient, build_explainer
from tests.export.gradients.double import evaluate

# The bound of the project's requirement; correct graphs stay near 1e-14.
TOLERANCE = 1e-9
CLASSES = 7
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d)


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Return ``module`` in double and eval mode, with norms and layer scales that are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean.normal_(0, 0.3, generator=generator)
            layer.running_var.uniform_(0.5, 2.0, generator=generator)
        if isinstance(layer, NORMS) and getattr(layer, "weight", None) is not None:
            layer.weight.data.uniform_(0.5, 1.5, generator=generator)
            layer.bias.data.normal_(0, 0.2, generator=generator)
        if isinstance(layer, nn.Linear) and not layer.weight.any():  # the head of torchvision's ViT
            layer.weight.data.normal_(0, 0.3, generator=generator)
    for name, parameter in module.named_parameters():
        if name.endswith("layer_scale"):  # ConvNeXt starts them at 1e-6, where a wrong branch would not show
            parameter.data.uniform_(0.5, 1.5, generator=generator)
    return module


def export_double(module: nn.Module, size: tuple[int, int], opset: int = 20) -> onnx.ModelProto:
    """Export ``module`` in double precision with a dynamic batch, as `export.to_onnx` does in float32."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (torch.zeros(2, 3, *size, dtype=torch.float64),),
            dynamo=True,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            opset_version=opset,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


class ExactHardsigmoid(nn.Module):
    """Hardsigmoid for the reference: PyTorch's own derivative is a float32 1/6, even in double."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + 3).clamp(0, 6) / 6


def with_exact_hardsigmoid(module: nn.Module) -> nn.Module:
    """Replace every Hardsigmoid in ``module`` by one whose derivative is double."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Hardsigmoid):
                setattr(parent, name, ExactHardsigmoid())
    return module


def autograd(module: nn.Module, images: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits and d logit[target] / d image by PyTorch."""
    images = images.clone().requires_grad_()
    logits = module(images)
    (gradient,) = torch.autograd.grad(logits.gather(1, target[:, None]).sum(), images)
    return logits.detach(), gradient


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the relative L2 error; the two must have the same shape."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    assert expected.norm() > 0, "a gradient of zero proves nothing"
    return float((found - expected).norm() / expected.norm())


def double_errors(
    module: nn.Module, model: onnx.ModelProto, size: tuple[int, int], batches: tuple[int, ...] = (1, 2, 3)
) -> list[float]:
    """Return the relative L2 error of the gradient graph of ``model`` for each batch, a target for each image."""
    graph = add_input_gradient(model)
    module = with_exact_hardsigmoid(module)
    errors = []
    for batch in batches:
        generator = torch.Generator().manual_seed(batch)
        images = torch.randn(batch, 3, *size, dtype=torch.float64, generator=generator)
        # each image another rank, the best first: a logit that a last ReLU cut off has no gradient to compare
        target = module(images).detach().argsort(1, descending=True).diagonal().contiguous()
        logits, gradient = autograd(module, images, target)
        found = evaluate(graph, {"image": images, "target": target}, "logits", "gradient")
        assert relative(found["logits"], logits) < TOLERANCE
        errors.append(relative(found["gradient"], gradient))
    return errors


def explainer_error(module: nn.Module, model: onnx.ModelProto, size: tuple[int, int]) -> float:
    """Return the relative L2 error of the explainer's attribution and magnitude, for two images and three points."""
    generator = torch.Generator().manual_seed(5)
    images, baseline, noise = (
        torch.randn(count, 3, *size, dtype=torch.float64, generator=generator) for count in (2, 2, 3)
    )
    scale = torch.tensor([0.1, 0.6, 1.0], dtype=torch.float64)
    weight = torch.tensor([0.5, -0.2, 0.7], dtype=torch.float64)
    points = baseline[:, None] + scale[:, None, None, None] * (images - baseline)[:, None] + noise
    target = module(images).detach().argmax(1)
    logits, gradient = autograd(with_exact_hardsigmoid(module), points.flatten(0, 1), target.repeat_interleave(3))
    weighted = gradient.unflatten(0, (2, 3)) * weight[:, None, None, None]
    feeds = {
        "image": images, "baseline": baseline, "noise": noise, "scale": scale, "weight": weight, "target": target,
    }  # fmt: skip
    found = evaluate(build_explainer(model), feeds, "logits", "attribution", "magnitude")
    magnitude = (gradient.abs().unflatten(0, (2, 3)) * weight[:, None, None, None]).sum(1)
    assert relative(found["logits"], logits) < TOLERANCE
    return max(relative(found["attribution"], weighted.sum(1)), relative(found["magnitude"], magnitude))
