"""Results of a study that nobody ran, with known answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_runtime.audit import distribution
from edge_runtime.variant import Variant
from toolkit.study.results import CellResult, Explained, Road
from toolkit.study.schema import Evaluation, Strategy, Study, Subject

LEVELS = (1.0, 21.0, 41.0, 61.0, 91.0)
STUDY = Study(
    title="Synthetic",
    subjects=(Subject(name="s", dataset="rendered", architecture="vgg16", compare="lisa-vgg"),),
    strategies=(
        Strategy(name="natural"),
        Strategy(name="adv", eps=0.01),
        Strategy(name="l1", pruning="l1", timing=("pre", "post")),
    ),
    seeds=(0, 1, 2),
    evaluation=Evaluation(explainers=("vg",), road=LEVELS),
)


def result(
    strategy: str,
    timing: str,
    seed: int,
    *,
    correct: str = "1110",
    gini: Sequence[float] = (0.5, 0.6),
    norm: Sequence[float] = (2.0, 4.0),
    morf: Sequence[str] = ("11111", "11111"),
    lerf: Sequence[str] = ("11111", "11111"),
    robust: float | None = None,
) -> CellResult:
    images = tuple(range(len(gini)))
    explained = Explained(
        gini=distribution(np.asarray(gini)),
        gradient_norm=distribution(np.asarray(norm)),
        road=Road(percentages=LEVELS, images=images, morf=tuple(morf), lerf=tuple(lerf)),
    )
    return CellResult(
        name=f"s/{strategy}-{timing}/s{seed}",
        key="k" * 64,
        run_key="r" * 64,
        subject="s",
        strategy=strategy,
        timing=timing,
        seed=seed,
        variant=Variant(dataset="d", architecture="vgg16", seed=seed),
        accuracy=correct.count("1") / len(correct),
        correct=correct,
        robust_accuracy=robust,
        images=images,
        explainers={"vg": explained},
        parameters=1,
        nonzero_parameters=1,
        macs=1,
        sparsity=0.0,
        device="cpu",
        software={},
        seconds={},
    )
