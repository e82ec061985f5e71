"""Results by subject, strategy, timing and seed."""

from __future__ import annotations

from tests.toolkit.study.synthetic import STUDY, result
from toolkit.study.grid import Grid, role
from toolkit.study.schema import Strategy


def test_an_unpruned_network_is_the_same_at_every_timing() -> None:
    grid = Grid.of(STUDY, [result("natural", "none", 1), result("natural", "none", 0), result("l1", "post", 0)])
    (subject,) = STUDY.subjects
    natural, _, l1 = STUDY.strategies
    assert list(grid.get(subject, natural, "pre")) == list(grid.natural(subject)) == [0, 1]
    assert list(grid.get(subject, l1, "post")) == [0]
    assert grid.get(subject, l1, "pre") == {}
    assert grid.timings() == ["pre", "post"]
    assert [list(each) for each in grid.pruned(subject, ["pre", "post"])] == [[], [0]]


def test_hybrids_fill_no_column_of_the_paper() -> None:
    assert role(Strategy(name="a", pruning="l1", timing=("post",))) == "l1"
    assert role(Strategy(name="a", pruning="l1", timing=("post",), parent="adv")) is None
    assert role(Strategy(name="a", pruning="l1", timing=("post-tuned",), eps=0.01)) is None
    assert role(Strategy(name="a", pruning="channel", timing=("post",))) is None
