"""VG, IG and SG of a bundle equal Captum's Saliency, IntegratedGradients and NoiseTunnel, nodes and noise being equal.

Captum runs in double precision. A unit that float32 rounds to the other side of its kink moves single gradients by a
percent (``tests/export/test_flips.py`` is about those), so each comparison takes the first image on whose path they do
not count. Near a flat baseline there are always some, with little weight.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, NoiseTunnel, Saliency
from torch import nn

from edge_runtime.bundle import open_bundle
from edge_runtime.explainer import Explainer, Explanation
from edge_runtime.manifest import PRESETS, ExplainerPreset, InputSpec
from edge_runtime.path import Noise, baseline_image, sample_path
from export.bundle import Contents, write_bundle
from export.flips import TOLERANCE, vanilla_gradient
from export.gradients import build_explainer
from export.to_onnx import torch_gradient
from tests.export.gradients.classifiers import CLASSES, SIZE, classifier, images, relative

TARGET = 3
SEED = 5
IG = {
    "gausslegendre": ExplainerPreset(method="ig", samples=50),
    "riemann_trapezoid": PRESETS["authors-code"]["ig"],
}
SG = {name: PRESETS[name]["sg"] for name in PRESETS}


@pytest.fixture(scope="module", params=list(SIZE))
def architecture(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def explainer(architecture: str, tmp_path_factory: pytest.TempPathFactory) -> Explainer:
    """The device's explainer on a bundle of the network."""
    side = SIZE[architecture]
    contents = Contents(
        name=architecture,
        input=InputSpec(height=side, width=side, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)),
        labels=tuple(f"class {i}" for i in range(CLASSES)),
        golden_images=images(architecture, 2, seed=99),
    )
    out = tmp_path_factory.mktemp("bundles") / architecture
    write_bundle(Path(out), classifier(architecture)[1], contents)
    return Explainer(open_bundle(out), threads=1)


@lru_cache
def double(architecture: str) -> nn.Module:
    return copy.deepcopy(classifier(architecture)[0]).double()


def sample_points(image: np.ndarray, preset: ExplainerPreset, explainer: Explainer) -> np.ndarray:
    """Return the points [K, C, H, W] of one image's path as the runtime makes them."""
    path = sample_path(preset)
    baseline = baseline_image(preset, explainer.bundle.manifest.input)
    noise = Noise(SEED, image.shape).draw(path.sigma)
    points: np.ndarray = baseline + path.scale[:, None, None, None] * (image - baseline) + noise
    return points


def without_flips(architecture: str, preset: ExplainerPreset, explainer: Explainer) -> np.ndarray:
    """Return the first noise image [1, C, H, W] on whose path float32 and double decide alike, where it counts."""
    module, model = classifier(architecture)
    graph = build_explainer(model)
    for seed in range(20):
        image = images(architecture, 1, seed)
        points = sample_points(image[0], preset, explainer)
        target = np.full(len(points), TARGET)
        found, expected = vanilla_gradient(graph, points, target), torch_gradient(module)(points, target)
        weight = sample_path(preset).weight.astype(np.float64)
        errors = np.linalg.norm((found - expected).reshape(len(points), -1), axis=1)
        if weight @ errors < 0.5 * TOLERANCE * np.linalg.norm(np.tensordot(weight, expected, 1)):
            return image
    pytest.fail("every one of 20 images has units that flip")


def explain(explainer: Explainer, image: np.ndarray, preset: ExplainerPreset, chunk: int | None = None) -> Explanation:
    return explainer.explain(image, preset.method, target=TARGET, seed=SEED, chunk=chunk, preset=preset)


def test_vanilla_gradient(architecture: str, explainer: Explainer) -> None:
    preset = ExplainerPreset(method="vg")
    image = without_flips(architecture, preset, explainer)
    expected = Saliency(double(architecture)).attribute(torch.from_numpy(image).double(), TARGET, abs=False)
    found = explain(explainer, image, preset)
    assert relative(found.attribution, expected) < TOLERANCE
    assert relative(found.logits, double(architecture)(torch.from_numpy(image).double())) < TOLERANCE


@pytest.mark.parametrize("method", IG)
def test_integrated_gradients(architecture: str, explainer: Explainer, method: str) -> None:
    preset = IG[method]
    image = without_flips(architecture, preset, explainer)
    baseline = torch.from_numpy(baseline_image(preset, explainer.bundle.manifest.input)).double()[None]
    expected, delta = IntegratedGradients(double(architecture)).attribute(
        torch.from_numpy(image).double(),
        baseline,
        target=TARGET,
        n_steps=preset.samples,
        method=method,
        return_convergence_delta=True,
    )
    found = explain(explainer, image, preset)
    assert relative(found.attribution, expected) < TOLERANCE
    assert found.completeness_gap is not None
    assert float(delta.abs()) > 0
    assert found.completeness_gap[0] == pytest.approx(float(delta.abs()), abs=TOLERANCE * float(expected.abs().sum()))


@pytest.mark.parametrize("name", SG)
def test_smooth_grad(architecture: str, explainer: Explainer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """NoiseTunnel draws from torch's generator; here that draw returns the runtime's noise."""
    preset = SG[name]
    image = without_flips(architecture, preset, explainer)
    noise = torch.from_numpy(Noise(SEED, image.shape[1:]).draw(sample_path(preset).sigma)[1:]).double()
    drawn = []

    def normal(mean: float, std: torch.Tensor) -> torch.Tensor:
        assert (mean, std.shape) == (0, noise.shape)
        assert torch.all(std == np.float32(preset.sigma))
        drawn.append(std.shape)
        return noise

    monkeypatch.setattr(torch, "normal", normal)
    expected = NoiseTunnel(Saliency(double(architecture))).attribute(
        torch.from_numpy(image).double(),
        nt_type="smoothgrad",
        nt_samples=preset.samples,
        stdevs=preset.sigma,
        target=TARGET,
        abs=preset.aggregate == "magnitude",
    )
    assert drawn
    assert relative(explain(explainer, image, preset).attribution, expected) < TOLERANCE


@pytest.mark.parametrize("preset", [IG["gausslegendre"], SG["paper"], SG["authors-code"]], ids=["ig", "sg", "sg-abs"])
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks_leave_the_result(explainer: Explainer, architecture: str, preset: ExplainerPreset, chunk: int) -> None:
    image = images(architecture, 2)
    whole, parts = (explain(explainer, image, preset, chunk=size) for size in (1024, chunk))
    # summed in another order, and in batches of another size, which may round single units to the other side
    assert relative(parts.attribution, whole.attribution) < 1e-2
    assert np.median(np.abs(parts.attribution - whole.attribution)) < 1e-5 * np.abs(whole.attribution).max()
    assert relative(parts.logits, whole.logits) < 1e-5
