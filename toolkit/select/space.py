"""What may be chosen: pruning method, share, timing and fine-tuning, as one finite set of candidates."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from edge_runtime.errors import InputError, unknown
from toolkit.pruning import Pruning

STEP = 5
"""Per cent between two shares."""
TIMINGS = ("pre", "post")
RANKING = {"uniform": " in each layer", "global": " in all layers"}


class Candidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One way to prune; a field is left at its default where the method, or the timing, has no use for it.

    ``percent`` is the share to prune, 0 for the method's only one; ``fine_tune`` the epochs after post-training
    pruning, 0 for none; ``importance`` and ``scope`` are those of :class:`toolkit.pruning.Pruning`.
    """

    method: str = "none"
    percent: int = 0
    timing: str = "none"
    fine_tune: int = 0
    importance: str = ""
    scope: str = ""

    @property
    def slug(self) -> str:
        """Short name for folders: ``channel-50-post-ft2-taylor-global``."""
        parts = [self.method, f"{self.percent}" if self.percent else "", self.timing if self.timing != "none" else ""]
        parts += [f"ft{self.fine_tune}" if self.timing == "post" else "", self.importance, self.scope]
        return "-".join(filter(None, parts))

    @property
    def label(self) -> str:
        """Name for people: ``channel 50 % by taylor in all layers, after training, 2 epochs of fine-tuning``."""
        if self.method == "none":
            return "not pruned"
        ranked = f" by {self.importance}{RANKING.get(self.scope, '')}" if self.importance else ""
        parts = [f"{self.method}{f' {self.percent} %' if self.percent else ''}{ranked}"]
        if self.timing == "pre":
            parts.append("before training")
        else:
            epochs = f"{self.fine_tune} epoch{'s' if self.fine_tune > 1 else ''}" if self.fine_tune else "no"
            parts.append(f"after training, {epochs}{' of' if self.fine_tune else ''} fine-tuning")
        return ", ".join(parts)

    def pruning(self) -> Pruning:
        """Return how to prune; only for a candidate that is pruned."""
        given: dict[str, Any] = {"importance": self.importance, "scope": self.scope}
        amount = self.percent / 100 if self.percent else None
        return Pruning(self.method, amount, **{name: value for name, value in given.items() if value})


BASELINE = Candidate()


class Suggest(Protocol):
    """The part of an Optuna trial that :meth:`Space.suggest` needs."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int) -> int: ...


@dataclass(frozen=True)
class Method:
    """What can be chosen about one pruning method; ``percent`` is the published share, 0 where there is no choice.

    Importances and scopes are for trained networks: random weights all look alike.
    """

    percent: int
    importances: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()


METHODS: dict[str, Method] = {
    "l1": Method(20),
    "global": Method(20),
    "layered": Method(10),
    "channel": Method(50, ("l2", "l1", "taylor", "lamp"), ("uniform", "global")),
    "semi-structured": Method(0),
}
"""The methods that the search knows, in the order in which it begins with them."""


@dataclass(frozen=True)
class Space:
    """The candidates of one search: ``low`` to ``high`` per cent; ``fine_tune`` lists numbers of epochs."""

    methods: tuple[str, ...]
    timings: tuple[str, ...]
    fine_tune: tuple[int, ...]
    low: int = 10
    high: int = 90

    def __post_init__(self) -> None:
        for kind, names, table in (
            ("pruning method", self.methods, METHODS),
            ("timing", self.timings, dict.fromkeys(TIMINGS)),
        ):
            for name in names:
                if name not in table:
                    raise unknown(kind, name, table)
            if not names:
                raise InputError(f"there is no {kind} to choose from; name at least one")
        if not STEP <= self.low <= self.high <= 100 - STEP or self.low % STEP or self.high % STEP:
            raise InputError(
                f"shares from {self.low} to {self.high} % are not multiples of {STEP} that ascend within "
                f"{STEP} .. {100 - STEP}; choose others"
            )
        if "post" in self.timings and (not self.fine_tune or min(self.fine_tune) < 0):
            raise InputError(f"fine-tuning of {list(self.fine_tune)} epochs is no choice; give numbers of at least 0")

    def suggest(self, trial: Suggest) -> Candidate:
        """Return the candidate that an Optuna trial proposes."""
        method = trial.suggest_categorical("method", self.methods)
        timing = trial.suggest_categorical("timing", self.timings)
        chosen = {name: suggest(trial) for name, suggest in self._choices(method, timing).items()}
        return Candidate(method=method, timing=timing, **chosen)

    def parameters(self, candidate: Candidate) -> dict[str, Any]:
        """Return what an Optuna trial must propose for :meth:`suggest` to return ``candidate``."""
        chosen = ("method", "timing", *self._choices(candidate.method, candidate.timing))
        return {name: getattr(candidate, name) for name in chosen}

    def _choices(self, method: str, timing: str) -> dict[str, Callable[[Suggest], Any]]:
        """Return the other fields that a candidate of this method and timing has, and how each is suggested."""
        about, post = METHODS[method], timing == "post"
        choices: dict[str, Callable[[Suggest], Any]] = {}
        if about.percent:
            choices["percent"] = lambda trial: trial.suggest_int("percent", self.low, self.high, step=STEP)
        if post:
            choices["fine_tune"] = lambda trial: trial.suggest_categorical("fine_tune", self.fine_tune)
        if post and about.importances:
            choices["importance"] = lambda trial: trial.suggest_categorical("importance", about.importances)
        if post and about.scopes:
            choices["scope"] = lambda trial: trial.suggest_categorical("scope", about.scopes)
        return choices

    def all(self) -> Iterator[Candidate]:
        """Yield every candidate once."""
        for method, timing in itertools.product(self.methods, self.timings):
            about, post = METHODS[method], timing == "post"
            choices = itertools.product(
                range(self.low, self.high + 1, STEP) if about.percent else (0,),
                self.fine_tune if post else (0,),
                (about.importances if post else ()) or ("",),
                (about.scopes if post else ()) or ("",),
            )
            for percent, epochs, importance, scope in choices:
                yield Candidate(
                    method=method,
                    percent=percent,
                    timing=timing,
                    fine_tune=epochs,
                    importance=importance,
                    scope=scope,
                )

    def beginning(self) -> tuple[Candidate, ...]:
        """Return what to measure first: every method at its published share, after training where that is a choice."""
        timing = "post" if "post" in self.timings else self.timings[0]
        return tuple(self._published(name, timing) for name in self.methods)

    def _published(self, name: str, timing: str) -> Candidate:
        about, post = METHODS[name], timing == "post"
        return Candidate(
            method=name,
            percent=min(max(about.percent, self.low), self.high) if about.percent else 0,
            timing=timing,
            fine_tune=max(self.fine_tune) if post else 0,
            importance=about.importances[0] if post and about.importances else "",
            scope=about.scopes[0] if post and about.scopes else "",
        )
