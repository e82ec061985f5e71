"""A small network with data that it classifies correctly, because the labels are its own decisions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from calibration.calibrate import Data
from calibration.images import LabelledImages
from edge_runtime.bundle import AuditSet, Bundle, open_bundle
from edge_runtime.manifest import InputSpec
from edge_runtime.preprocess import normalize
from export.bundle import Contents, write_bundle
from export.session import cpu_session
from export.to_onnx import to_onnx
from toolkit import models

SPEC = InputSpec(height=32, width=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
LABELS = ("stop", "yield", "keep right", "60", "no entry")


def pictures(count: int, seed: int) -> np.ndarray:
    """Smooth colourful images uint8 [count, 32, 32, 3]: noise alone would leave a network little to tell apart."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (count, 4, 4, 3)).astype(np.float64)
    fine = coarse.repeat(8, axis=1).repeat(8, axis=2) + generator.normal(0, 12, (count, 32, 32, 3))
    return np.clip(fine, 0, 255).astype(np.uint8)


def labelled(model: onnx.ModelProto, images: np.ndarray) -> LabelledImages:
    logits = cpu_session(model).run(None, {"image": normalize(images, SPEC)})[0]
    return LabelledImages(images, logits.argmax(axis=1), "the network's own decisions")


@pytest.fixture(scope="session")
def classifier() -> onnx.ModelProto:
    """VGG with batch normalisation, folded by the export, whose logits differ between images."""
    network = models.build("vgg_small", len(LABELS), width=0.25).eval()
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # without a shift there would be no biases after the export
            module.bias.data = 0.1 * torch.randn(module.bias.shape, generator=generator)
    model = to_onnx(network, input_size=(32, 32))
    head = next(tensor for tensor in model.graph.initializer if tensor.name == "classifier.1.weight")
    weight = np.random.default_rng(3).standard_normal(tuple(head.dims)).astype(np.float32)
    head.CopyFrom(onnx.numpy_helper.from_array(weight, head.name))
    return model


@pytest.fixture(scope="session")
def data(classifier: onnx.ModelProto) -> Data:
    training = LabelledImages(pictures(60, 0), np.arange(60) % len(LABELS), "pictures")
    return Data(training, labelled(classifier, pictures(24, 1)))


@pytest.fixture(scope="session")
def bundle_path(classifier: onnx.ModelProto, data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle; read only."""
    held_out = data.held_out
    contents = Contents(
        name="small",
        input=SPEC,
        labels=LABELS,
        golden_images=normalize(held_out.images[:4], SPEC),
        audit_set=AuditSet(held_out.images[:6], held_out.labels[:6]),
        baselines=False,
    )
    return write_bundle(tmp_path_factory.mktemp("calibration") / "small", classifier, contents)


@pytest.fixture
def bundle(bundle_path: Path) -> Bundle:
    return open_bundle(bundle_path)
