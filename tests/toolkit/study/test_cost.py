"""Estimates: from rates, and corrected by what is done."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.toolkit.squares import DATASET
from tests.toolkit.study.test_engine import STUDY, start
from toolkit.study import cells, cost
from toolkit.study.cost import Rates
from toolkit.study.engine import Workplace
from toolkit.study.schema import Attack, Strategy

RATES = Rates(step=1e-3, gradient=1e-4, forward=1e-5, road=1e-2)


def test_costs_of_known_rates() -> None:
    study = msgspec.structs.replace(
        STUDY, strategies=(*STUDY.strategies, Strategy(name="adversarial", eps=0.1)), attack=Attack(steps=5)
    )
    made = {cell.name: cell for cell in cells.plan(study, {"squares": DATASET})}
    train, validation = len(DATASET.train), len(DATASET.validation)
    natural = cost.training_cost(made["squares/natural/s0"], DATASET, RATES)
    assert natural == pytest.approx(2 * (train * 1e-3 + validation * 1e-5))
    attacked = cost.training_cost(made["squares/adversarial/s0"], DATASET, RATES)
    assert attacked - natural == pytest.approx(2 * train * 5 * 1e-4)
    assert cost.training_cost(made["squares/l1-post/s0"], DATASET, RATES) == 0
    # 80 classified; 10 explained by one gradient and one pair of curves each.
    assert cost.measuring_cost(study, DATASET, RATES) == pytest.approx(80 * 1e-5 + 10 * (1e-4 + 1e-2))


def test_estimates_are_positive_until_done_and_follow_what_is_done(tmp_path: Path) -> None:
    study = msgspec.structs.replace(STUDY, strategies=STUDY.strategies[:2])
    plan = cells.plan(study, {"squares": DATASET}, "cpu")
    place = Workplace(tmp_path)
    before = cost.estimates(study, plan, {"squares": DATASET}, place)
    assert all(seconds > 0 for seconds in before.values())
    start(tmp_path, msgspec.structs.replace(study, strategies=study.strategies[:1]))
    path = place.result(plan[0])
    slow = msgspec.json.decode(path.read_bytes())
    slow["seconds"] = {"training": 1e6}
    path.write_bytes(msgspec.json.encode(slow))
    after = cost.estimates(study, plan, {"squares": DATASET}, place)
    assert after[plan[0].name] == 0
    assert after[plan[1].name] > 1000 * before[plan[1].name]
