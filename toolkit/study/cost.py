"""What the cells of a study will cost, from a few timed steps of each subject's network and from the cells done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from edge_runtime.manifest import PRESETS
from edge_runtime.metrics import ORDERS, road
from edge_runtime.preprocess import normalize
from toolkit import evaluation, models, recipes, training
from toolkit.adversarial import PgdConfig, pgd
from toolkit.data import Dataset
from toolkit.study.cells import Cell
from toolkit.study.engine import Workplace
from toolkit.study.schema import Study

REPEATS = 2
ROAD_IMAGES = 8
TIMED_BATCH = 64


@dataclass(frozen=True)
class Rates:
    """Seconds an image: one training step, one gradient of the input, one classification, one pair of ROAD curves."""

    step: float
    gradient: float
    forward: float
    road: float


def estimates(
    study: Study, cells: Sequence[Cell], datasets: Mapping[str, Dataset], place: Workplace
) -> dict[str, float]:
    """Return the seconds of each cell by name, 0 for those done.

    Done cells of a subject correct the timed steps: they saw the machine for longer.
    """
    costs: dict[str, float] = {}
    for subject in {cell.subject.name: cell.subject for cell in cells}.values():
        own = [cell for cell in cells if cell.subject.name == subject.name]
        waiting = [cell for cell in own if place.state(cell) != "done"]
        costs |= dict.fromkeys((cell.name for cell in own), 0.0)
        if not waiting:
            continue
        dataset = datasets[subject.name]
        rates = timed(own[0], dataset, study)
        factor = _correction([cell for cell in own if place.state(cell) == "done"], study, dataset, rates, place)
        for cell in waiting:
            fresh = place.state(cell) != "trained"
            costs[cell.name] = factor * (
                fresh * training_cost(cell, dataset, rates) + measuring_cost(study, dataset, rates)
            )
    return costs


def training_cost(cell: Cell, dataset: Dataset, rates: Rates) -> float:
    """Return the seconds that training the cell's network takes; 0 where it is only pruned."""
    if cell.config is None:
        return 0.0
    attacked = cell.config.adversarial.steps * rates.gradient if cell.config.adversarial else 0.0
    images = len(dataset.train) * (rates.step + attacked) + len(dataset.validation) * rates.forward
    return cell.config.epochs * images


def measuring_cost(study: Study, dataset: Dataset, rates: Rates) -> float:
    """Return the seconds that measuring one network takes."""
    options, count = study.evaluation, len(dataset.test)
    counted, explained, attacked = (
        min(count, limit or count) for limit in (options.accuracy_images, options.images, options.robust_images)
    )
    samples = sum(PRESETS[study.preset][name].samples for name in options.explainers)
    robust = attacked * options.robust_steps * rates.gradient if options.robust_eps else 0.0
    each = samples * rates.gradient + len(options.explainers) * rates.road
    return counted * rates.forward + robust + explained * each


def timed(cell: Cell, dataset: Dataset, study: Study) -> Rates:
    """Time a few steps of the cell's subject on its device."""
    subject, config = cell.subject, cell.trained_by
    device = recipes.device(config)
    model = models.build(
        subject.architecture, len(dataset.labels), width=subject.width, input_size=subject.size, seed=0
    )
    layout = torch.channels_last if device.type in config.channels_last else torch.contiguous_format
    model = model.to(device).to(memory_format=layout)
    spec = training.input_spec(dataset)
    sample = dataset.train.take(np.arange(min(len(dataset.train), config.batch, TIMED_BATCH)))
    arrays = normalize(sample.images, spec)
    images = torch.from_numpy(arrays).to(device).contiguous(memory_format=layout)
    labels = torch.from_numpy(sample.labels).to(device)
    optimizer = recipes.OPTIMIZERS[config.optimizer](model.parameters(), config)
    attack = PgdConfig(steps=1)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type in config.amp):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    few = min(ROAD_IMAGES, len(arrays))
    saliency = np.random.default_rng(0).random((few, *arrays.shape[2:]))
    classify = evaluation.classify(model)

    def curves() -> None:
        for order in ORDERS:
            road(classify, arrays[:few], saliency, sample.labels[:few], study.evaluation.road, order)

    return Rates(
        step=_seconds(step, device) / len(arrays),
        gradient=_seconds(lambda: pgd(model, images, labels, attack, spec), device) / len(arrays),
        forward=_seconds(lambda: classify(arrays), device) / len(arrays),
        road=_seconds(curves, device) / few if study.evaluation.road else 0.0,
    )


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """Return the shortest of a few calls after a warm-up."""
    shortest = float("inf")
    for _ in range(1 + REPEATS):
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        shortest = min(shortest, time.perf_counter() - started)
    return shortest


def _correction(done: Sequence[Cell], study: Study, dataset: Dataset, rates: Rates, place: Workplace) -> float:
    """Return how much longer the done cells took than the timed steps say."""
    expected = actual = 0.0
    for cell in done:
        result = place.known(cell)
        assert result is not None
        expected += training_cost(cell, dataset, rates) + measuring_cost(study, dataset, rates)
        actual += sum(result.seconds.values())
    return actual / expected if expected else 1.0
