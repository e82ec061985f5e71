"""The results of a study by subject, strategy, timing and seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from toolkit.study import paper
from toolkit.study.results import CellResult
from toolkit.study.schema import NATURAL, TIMINGS, Strategy, Study, Subject

BySeed = Mapping[int, CellResult]


@dataclass(frozen=True)
class Grid:
    """What is known of a study's cells; those that failed or were left out are missing."""

    study: Study
    cells: Mapping[tuple[str, str, str], BySeed]

    @classmethod
    def of(cls, study: Study, results: Iterable[CellResult]) -> Grid:
        cells: dict[tuple[str, str, str], dict[int, CellResult]] = {}
        for result in sorted(results, key=lambda each: each.seed):
            cells.setdefault((result.subject, result.strategy, result.timing), {})[result.seed] = result
        return cls(study, cells)

    def get(self, subject: Subject, strategy: Strategy, timing: str) -> BySeed:
        """Return the results by seed; an unpruned network is the same at every timing."""
        return self.cells.get((subject.name, strategy.name, timing if strategy.timing else "none"), {})

    def natural(self, subject: Subject) -> BySeed:
        """Return the results of the network that is trained naturally and not pruned."""
        found = [strategy for strategy in self.study.strategies if role(strategy) == NATURAL]
        return self.get(subject, found[0], "none") if found else {}

    def timings(self) -> list[str]:
        """Return the timings that occur, in the paper's order."""
        present = {timing for strategy in self.study.strategies for timing in strategy.timing}
        return [timing for timing in TIMINGS if timing in present]

    def pruned(self, subject: Subject, timings: Iterable[str]) -> Iterator[BySeed]:
        """Yield the results of the networks that are pruned as in the paper, from the natural one, at ``timings``."""
        for strategy in self.study.strategies:
            for timing in strategy.timing:
                if role(strategy) in paper.PRUNINGS and timing in timings:
                    yield self.get(subject, strategy, timing)

    def adversarial(self, subject: Subject) -> Iterator[BySeed]:
        """Yield the results of the networks that are trained adversarially and not pruned."""
        for strategy in self.study.strategies:
            if role(strategy) == "adversarial":
                yield self.get(subject, strategy, "none")


def role(strategy: Strategy) -> str | None:
    """Return the column of the paper's tables that a strategy fills; None for one that the paper does not have."""
    if strategy.pruning == "none":
        return "adversarial" if strategy.eps else NATURAL
    as_published = not strategy.eps and strategy.amount is None and strategy.parent in (None, NATURAL)
    return strategy.pruning if as_published and strategy.pruning in paper.PRUNINGS else None
