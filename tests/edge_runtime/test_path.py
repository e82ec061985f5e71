"""Quadrature rules integrate what they must, and noise does not depend on how it is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import InputError
from edge_runtime.manifest import PRESETS, ExplainerPreset, InputSpec
from edge_runtime.path import (
    BASELINES,
    METHODS,
    QUADRATURES,
    Noise,
    baseline_image,
    even_step,
    gauss_legendre,
    riemann_trapezoid,
    sample_path,
)

SPEC = InputSpec(height=4, width=6, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.1))


@pytest.mark.parametrize("count", [1, 2, 5, 50])
def test_gauss_legendre_is_exact_for_polynomials(count: int) -> None:
    nodes, weights = gauss_legendre(count)
    assert nodes.shape == weights.shape == (count,)
    for degree in (0, 1, 2 * count - 1):
        assert weights @ nodes**degree == pytest.approx(1 / (degree + 1), abs=1e-13)


@pytest.mark.parametrize("count", [2, 10, 50])
def test_riemann_trapezoid_lacks_one_step(count: int) -> None:
    nodes, weights = riemann_trapezoid(count)
    assert nodes[0] == 0 and nodes[-1] == 1
    assert weights.sum() == pytest.approx(1 - 1 / count)
    assert weights[0] == weights[-1] == pytest.approx(weights[1:-1].mean() / 2 if count > 2 else 0.25)


@pytest.mark.parametrize(
    ("rule", "name"), [(gauss_legendre, "gausslegendre"), (riemann_trapezoid, "riemann_trapezoid")]
)
def test_rules_equal_captum(rule: object, name: str) -> None:
    approximation = pytest.importorskip("captum.attr._utils.approximation_methods")
    weights, nodes = approximation.approximation_parameters(name)
    found = QUADRATURES[{"gausslegendre": "gauss-legendre", "riemann_trapezoid": "riemann-trapezoid"}[name]](10)
    np.testing.assert_allclose(found[0], nodes(10), atol=1e-12)
    np.testing.assert_allclose(found[1], weights(10), atol=1e-12)


def test_a_trapezoid_needs_two_ends() -> None:
    with pytest.raises(InputError, match="with 1 samples has no two ends; use at least 2"):
        sample_path(ExplainerPreset(method="ig", samples=1, quadrature="riemann-trapezoid"))


@pytest.mark.parametrize("family", PRESETS)
@pytest.mark.parametrize("method", METHODS)
def test_every_path_begins_with_the_image_itself(family: str, method: str) -> None:
    preset = PRESETS[family][method]
    found = sample_path(preset)
    assert found.scale[0] == 1 and found.sigma[0] == 0
    assert found.scale.shape == found.weight.shape == found.sigma.shape
    assert {found.scale.dtype, found.weight.dtype, found.sigma.dtype} == {np.dtype(np.float32)}
    assert len(found.scale) == preset.samples + (method != "vg")
    lost = 1 / preset.samples if preset.quadrature == "riemann-trapezoid" else 0
    assert found.weight.sum() == pytest.approx(1 - lost, abs=1e-6)


def test_unknown_names_are_refused() -> None:
    for preset, reason in (
        (ExplainerPreset(method="igg"), "unknown method 'igg'; nearest: ig"),  # type: ignore[arg-type]
        (ExplainerPreset(method="ig", quadrature="gauss"), "nearest: gauss-legendre"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError, match=reason):
            sample_path(preset)
    with pytest.raises(InputError, match="unknown baseline 'blac'; nearest: black"):
        baseline_image(ExplainerPreset(method="ig", baseline="blac"), SPEC)  # type: ignore[arg-type]


def test_baselines() -> None:
    black = baseline_image(ExplainerPreset(method="ig", baseline="black"), SPEC)
    assert black.shape == (3, 4, 6) and black.flags.c_contiguous and black.dtype == np.float32
    np.testing.assert_allclose(black[:, 2, 3], [-2, -2, -3], rtol=1e-6)
    assert not baseline_image(ExplainerPreset(method="ig", baseline="zero"), SPEC).any()
    assert set(BASELINES) == {"black", "zero"}


@pytest.mark.parametrize("split", [[1, 6], [3, 4], [1] * 7])
def test_noise_is_the_same_however_it_is_drawn(split: list[int]) -> None:
    sigma = np.array([0, 0.5, 0.5, 0, 2, 2, 2], np.float32)
    whole = Noise(3, (3, 5, 7)).draw(sigma)
    source = Noise(3, (3, 5, 7))
    parts = np.split(sigma, np.cumsum(split)[:-1])
    np.testing.assert_array_equal(np.concatenate([source.draw(part) for part in parts]), whole)
    assert not whole[[0, 3]].any()


def test_noise_has_the_stated_deviation_and_seed() -> None:
    sigma = np.full(50, 0.15, np.float32)
    noise = Noise(0, (3, 32, 32)).draw(sigma)
    assert noise.dtype == np.float32
    assert noise.std() == pytest.approx(0.15, rel=0.01)
    assert abs(noise.mean()) < 0.002
    assert not np.array_equal(noise, Noise(1, (3, 32, 32)).draw(sigma))


def test_the_stream_is_the_one_that_golden_sets_were_made_with() -> None:
    """A NumPy that changed it would make every SmoothGrad self-test fail; better that this test says so first."""
    first = Noise(0, (1, 1, 4)).draw(np.ones(1, np.float32)).ravel()
    np.testing.assert_allclose(first, [-0.24822916, -0.026767015, -1.9444163, 0.524578], rtol=1e-6)


def test_a_negative_seed() -> None:
    with pytest.raises(InputError, match="seed is -1"):
        Noise(-1, (3, 4, 4))


@pytest.mark.parametrize(
    ("count", "limit", "step"), [(51, 21, 17), (51, 51, 51), (51, 500, 51), (51, 50, 26), (1, 5, 1)]
)
def test_runs_are_of_even_size(count: int, limit: int, step: int) -> None:
    assert even_step(count, limit) == step
