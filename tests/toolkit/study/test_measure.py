"""Measuring one network: the runtime's own metrics on Captum's explanations."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest
import torch

from edge_runtime.errors import DataError
from edge_runtime.manifest import PRESETS
from edge_runtime.metrics import gini, reduce_channels, road
from edge_runtime.preprocess import normalize
from tests.toolkit.squares import DATASET
from toolkit import evaluation, models, training
from toolkit.study import measure
from toolkit.study.measure import Measured
from toolkit.study.schema import Evaluation

SPEC = training.input_spec(DATASET)
OPTIONS = Evaluation(images=12, accuracy_images=30, road=(0.0, 50.0), robust_steps=2, robust_images=10, shown=3)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return models.build("vgg_small", 4, width=0.5, input_size=16, seed=1).eval()


def measured(model: torch.nn.Module, options: Evaluation = OPTIONS, preset: str = "paper") -> Measured:
    return measure.measure(model, SPEC, DATASET, options, preset, lambda stage, done, total: None)


def test_accuracy_counts_its_images(model: torch.nn.Module) -> None:
    found = measured(model)
    numbers = measure.chosen(len(DATASET.test), 30, 0)
    assert found.accuracy == evaluation.accuracy(model, DATASET.test.take(numbers), SPEC)
    assert len(found.correct) == 30 and found.correct.count("1") / 30 == found.accuracy
    assert found.robust_accuracy is not None and 0 <= found.robust_accuracy <= 1


@pytest.mark.parametrize("preset", ["paper", "authors-code"])
def test_measures_are_those_of_the_runtime(model: torch.nn.Module, preset: str) -> None:
    found = measured(model, preset=preset)
    numbers = measure.chosen(len(DATASET.test), 12, 0)
    assert found.images == tuple(numbers.tolist())
    images, labels = normalize(DATASET.test.images[numbers], SPEC), DATASET.test.labels[numbers]
    classify = evaluation.classify(model)
    target = classify(images).argmax(1)
    right = target == labels
    for name in ("vg", "ig"):
        how = PRESETS[preset][name]
        maps = reduce_channels(evaluation.captum_explain(model, images, how, target, SPEC), how.reduction)
        assert found.explainers[name].gini.values == pytest.approx(gini(maps).tolist(), rel=1e-4)
        curves = found.explainers[name].road
        assert curves is not None and curves.images == tuple(numbers[right].tolist())
        expected = road(classify, images[right], maps[right], labels[right], OPTIONS.road, "lerf")
        assert np.array_equal(curves.correct("lerf"), expected.correct)


def test_gradient_norm_is_that_of_autograd(model: torch.nn.Module) -> None:
    found = measured(model)
    image = torch.from_numpy(normalize(DATASET.test.images[list(found.images[:1])], SPEC)).requires_grad_()
    logits = model(image)
    (gradient,) = torch.autograd.grad(logits[0, logits.argmax()], image)
    assert found.explainers["vg"].gradient_norm.values[0] == pytest.approx(float(gradient.norm()), rel=1e-4)


def test_nothing_right_has_no_curves(model: torch.nn.Module) -> None:
    wrong = 1 + evaluation.predict(model, DATASET.test.images, SPEC).argmax(1)
    data = dataclasses.replace(DATASET, test=dataclasses.replace(DATASET.test, labels=wrong % 4))
    found = measure.measure(model, SPEC, data, OPTIONS, "paper", lambda stage, done, total: None)
    assert found.accuracy == 0 and found.explainers["vg"].road is None


def test_explanations_that_do_not_fit_are_made_in_smaller_batches(
    model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = measured(model)
    explain = evaluation.captum_explain

    def tight(network: torch.nn.Module, images: np.ndarray, *rest: object) -> np.ndarray:
        if len(images) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return explain(network, images, *rest)

    monkeypatch.setattr(evaluation, "captum_explain", tight)
    found = measured(model, msgspec.structs.replace(OPTIONS, explainers=("vg",)))
    assert found.explainers["vg"].gini.values == pytest.approx(whole.explainers["vg"].gini.values, rel=1e-4)
    assert "explains 4 images at a time" in caplog.text


def test_examples_are_of_different_classes(model: torch.nn.Module) -> None:
    shown = measured(model).examples
    assert shown is not None and len(set(shown.labels)) == 3
    assert set(shown.saliency) == {"vg", "ig", "sg"} and shown.saliency["vg"].shape == (3, 16, 16)


def test_the_sample_is_the_same_for_every_network() -> None:
    assert measure.chosen(80, 12, 0).tolist() == measure.chosen(80, 12, 0).tolist()
    assert measure.chosen(80, None, 0).tolist() == list(range(80))
    assert measure.chosen(80, 12, 0).tolist() != measure.chosen(80, 12, 1).tolist()


def test_no_test_images_are_refused() -> None:
    empty = dataclasses.replace(DATASET, test=DATASET.test.take(np.zeros(0, np.int64)))
    with pytest.raises(DataError, match="no test split"):
        measure.require_test_images(empty)
