"""Windows of random geometry: kernel, stride, padding, dilation, groups and sizes, far beyond what networks use."""

from __future__ import annotations

import random

import numpy as np
import pytest

from export.gradients import add_input_gradient, build_explainer
from tests.export.gradients.rule_case import Case, case
from tests.export.gradients.test_rules import check, error, finished, images, opset_for, run

FEW = [*range(8), 60, 109, 110, 147]  # the last hold windows that see padding alone
SEEDS = [*FEW, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(400) if seed not in FEW)]


def window(rng: random.Random, sizes: list[int], kernel: list[int]) -> dict[str, list[int]]:
    """Return strides, dilations and pads with which the window fits into the image at least once."""
    dilations = [rng.choice([1, 1, 2, 3]) for _ in kernel]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    begin = [rng.randint(0, k - 1) for k in kernel]
    lack = [max(0, r - n - b) for r, n, b in zip(reach, sizes, begin, strict=True)]
    end = [max(missing, rng.randint(0, k - 1)) for missing, k in zip(lack, kernel, strict=True)]
    return {"strides": [rng.randint(1, 4) for _ in kernel], "dilations": dilations, "pads": [*begin, *end]}


def text(attributes: dict[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in attributes.items())


def random_convolution(seed: int, largest: int = 13) -> Case:
    rng = random.Random(seed)
    sizes = [rng.randint(1, largest), rng.randint(1, largest)]
    kernel = [rng.randint(1, 5), rng.randint(1, 5)]
    groups = rng.choice([1, 1, 1, 2, 3, 16])
    inner, outer = rng.randint(1, 2), rng.randint(1, 3)
    attributes = {**window(rng, sizes, kernel), "group": groups}
    return case(f"y = Conv<{text(attributes)}>(x, w)", (groups * inner, *sizes), w=(groups * outer, inner, *kernel))


def random_transposed(seed: int) -> Case:
    rng = random.Random(seed)
    sizes = [rng.randint(1, 7), rng.randint(1, 7)]
    kernel = [rng.randint(1, 4), rng.randint(1, 4)]
    groups = rng.choice([1, 1, 2, 16])
    strides, dilations = [rng.randint(1, 3), rng.randint(1, 3)], [rng.choice([1, 1, 2]), rng.choice([1, 1, 2])]
    extra = [rng.randint(0, s - 1) for s in strides]
    full = [
        (n - 1) * s + (k - 1) * d + 1 + e
        for n, s, k, d, e in zip(sizes, strides, kernel, dilations, extra, strict=True)
    ]
    begin = [rng.randint(0, (n - 1) // 2) for n in full]
    end = [rng.randint(0, n - 1 - b) for n, b in zip(full, begin, strict=True)]
    attributes = {
        "strides": strides, "dilations": dilations, "output_padding": extra, "pads": [*begin, *end], "group": groups,
    }  # fmt: skip
    return case(f"y = ConvTranspose<{text(attributes)}>(x, w)", (groups * 2, *sizes), w=(groups * 2, 2, *kernel))


def random_pool(seed: int, operator: str) -> Case:
    rng = random.Random(seed)
    sizes = [rng.randint(2, 11), rng.randint(2, 11)]
    kernel = [rng.randint(1, 4), rng.randint(1, 4)]
    attributes = window(rng, sizes, kernel)
    # engines want padding smaller than the kernel, and windows that hold at least one element of the image
    for axis in range(2):
        if attributes["pads"][2 + axis] >= kernel[axis] or attributes["dilations"][axis] > 1:
            attributes["dilations"][axis] = 1
            attributes["pads"][2 + axis] = min(attributes["pads"][2 + axis], kernel[axis] - 1)
        if kernel[axis] > sizes[axis] + attributes["pads"][axis] + attributes["pads"][2 + axis]:
            kernel[axis] = 1
            attributes["pads"][axis] = attributes["pads"][2 + axis] = 0
    options = {"kernel_shape": kernel, **attributes}
    if operator == "AveragePool":
        options["count_include_pad"] = rng.randint(0, 1)
    return case(f"y = {operator}<{text(options)}>(x)", (rng.choice([2, 16]), *sizes), since=19)


@pytest.mark.parametrize("seed", SEEDS)
def test_convolutions(seed: int) -> None:
    check(random_convolution(seed), 20)


@pytest.mark.parametrize("seed", SEEDS)
def test_transposed_convolutions(seed: int) -> None:
    check(random_transposed(seed), 20)


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("seed", SEEDS)
def test_pooling(seed: int, operator: str) -> None:
    c = random_pool(seed, operator)
    check(c, opset_for(c))


@pytest.mark.parametrize("seed", SEEDS)
def test_small_maps_in_the_explainer(seed: int) -> None:
    """There convolutions on maps smaller than their kernel are matrix products."""
    c = random_convolution(seed, largest=3)
    classifier = finished(c, 20)
    x = images(c, 2).numpy().astype(np.float32)
    target = np.array([2, 1])
    one, still = np.ones(1, np.float32), np.zeros((1, *c.shape), np.float32)
    explained = run(
        build_explainer(classifier),
        {"image": x, "target": target, "baseline": 0 * x, "scale": one, "weight": one, "noise": still},
    )
    expected = run(add_input_gradient(classifier), {"x": x, "target": target})
    assert error(explained["logits"], expected["logits"]) < 1e-5
    assert error(explained["attribution"], expected["gradient"]) < 1e-5
    assert np.array_equal(explained["magnitude"], np.abs(explained["attribution"]))
