"""Prune channels until a target is reached: a share of the channels, parameters, multiply-accumulates or latency."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from edge_runtime.errors import InputError
from toolkit.pruning import channels, size
from toolkit.pruning.channels import Network, guarded
from toolkit.pruning.importance import Examples
from toolkit.pruning.masks import prunable_layers
from toolkit.pruning.settings import Pruning

LEVELS = 256
"""Shares of the channels that are told apart where the target is counted."""
MEASURED_LEVELS = 32
"""The same where it is measured, which takes seconds each time: seven measurements at most, and confirmation."""
COUNTED: dict[str, Callable[[nn.Module, int], int]] = {"parameters": size.parameters, "macs": size.macs}
WORDS = {"parameters": "parameters", "macs": "multiply-accumulates", "latency": "latency"}


@dataclass(frozen=True)
class Pruned:
    """A pruned network. ``removed`` says what share of the original's prunable channels, parameters, macs and, where it
    was the target, measured latency is gone; empty for masks."""

    model: nn.Module
    removed: dict[str, float] = field(default_factory=dict)


def prune_channels(
    model: nn.Module,
    how: Pruning,
    *,
    input_size: int,
    examples: Examples | None = None,
    seed: int = 0,
    done: float = 1.0,
    original: nn.Module | None = None,
) -> Pruned:
    """Return ``model``, which may be changed in place, or a copy of it, without the least important channels.

    ``done`` (0..1) is the part of the target to reach now, counted from ``original`` (by default from ``model``).
    Raises InputError for a network that torch-pruning cannot follow and for a target that cannot be reached.
    """
    name, before = type(model).__name__, original if original is not None else model
    sizes = {what: count(before, input_size) for what, count in COUNTED.items()}
    with guarded(name):
        network = channels.analyse(model, input_size, how, examples, seed)
        widths = None if original is None else channels.analyse(original, input_size).sizes
    if not network.units:
        raise InputError(f"importance {how.importance!r} tells nothing about the channels of {name}; use l2")
    search = _Search(network, how, input_size, widths)
    reached = REACH[how.target](search, how.share * done, before)
    counted = {what: 1 - count(reached.model, input_size) / sizes[what] for what, count in COUNTED.items()}
    removed = {"channels": search.channels_gone(reached.share), **counted}
    if reached.latency is not None:
        removed["latency"] = reached.latency
    return Pruned(reached.model.train(), removed)


@dataclass(frozen=True)
class _Reached:
    """Where a search ended: the network, the share of channels it was asked to lose, and latency where measured."""

    model: nn.Module
    share: float
    latency: float | None = None


@dataclass
class _Search:
    """Candidates of one network, by the share of channels that they give up; equal ones are measured once."""

    network: Network
    how: Pruning
    input_size: int
    widths: dict[str, int] | None
    _known: dict[tuple[int, ...], float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return type(self.network.model).__name__

    def remove(self, share: float) -> nn.Module:
        """Remove ``share`` of the channels from the network itself, and return it."""
        return self._without(self.network, share)

    def candidate(self, share: float) -> nn.Module:
        """Return a copy of the network without ``share`` of its channels."""
        with guarded(self.name):
            copied = channels.analyse(copy.deepcopy(self.network.model), self.input_size)
        return self._without(copied, share)

    def smallest(self, target: float, levels: int, figure: Callable[[nn.Module], float]) -> tuple[float, ...]:
        """Return shares of channels, ascending, of different candidates that reached ``target`` by ``figure``.

        The first is the smallest of k / ``levels`` that does, as far as ``figure`` grows with the share. Raises
        InputError where not even the largest does.
        """
        low, high = 0, levels - 1
        reached = [high]
        most = self._figure(high / levels, figure)
        if most < target:
            raise self.unreachable(target, most)
        while high - low > 1:
            middle = (low + high) // 2
            if self._figure(middle / levels, figure) >= target:
                high = middle
                reached.append(middle)
            else:
                low = middle
        different = {self._counts(level / levels): level / levels for level in reached}
        return tuple(sorted(different.values()))

    def channels_gone(self, share: float) -> float:
        """Return the share of the channels of all units that goes when ``share`` is asked for: rounding adds to it."""
        left = channels.kept(self.network.units, self.how, share, self.widths)
        before = self.widths or self.network.sizes
        return 1 - sum(left[unit.name] * unit.repeats for unit in self.network.units) / sum(
            before[unit.name] * unit.repeats for unit in self.network.units
        )

    def unreachable(self, target: float, reached: float) -> InputError:
        return InputError(
            f"{self.name} cannot lose {target:.1%} of its {WORDS[self.how.target]} with channels in multiples of "
            f"{self.how.round_to}: {reached:.1%} is what goes at most; ask for less, or for another round_to"
        )

    def _figure(self, share: float, figure: Callable[[nn.Module], float]) -> float:
        counts = self._counts(share)
        if counts not in self._known:
            self._known[counts] = figure(self.candidate(share))
        return self._known[counts]

    def _counts(self, share: float) -> tuple[int, ...]:
        return tuple(channels.kept(self.network.units, self.how, share, self.widths).values())

    def _without(self, network: Network, share: float) -> nn.Module:
        units = self.network.units
        scores = {unit.name: unit.scores for unit in units if unit.scores is not None}
        classes = prunable_layers(network.model)[-1].weight.shape[0]
        with guarded(self.name):
            channels.remove(network, channels.kept(units, self.how, share, self.widths), scores)
            channels.check(network.model, classes, self.input_size)
        return network.model


def _by_channels(search: _Search, target: float, original: nn.Module) -> _Reached:
    return _Reached(search.remove(target), target)


def _by_count(search: _Search, target: float, original: nn.Module) -> _Reached:
    count = COUNTED[search.how.target]
    before = count(original, search.input_size)
    share, *_ = search.smallest(target, LEVELS, lambda model: 1 - count(model, search.input_size) / before)
    return _Reached(search.candidate(share), share)


def _by_latency(search: _Search, target: float, original: nn.Module) -> _Reached:
    """Measure candidates, and confirm the smallest that reaches the target by a longer measurement, or the next."""
    from toolkit.pruning.latency import CONFIRMING, SECONDS, LatencyMeter

    best = 0.0
    with LatencyMeter(original, search.input_size) as meter:
        for share in search.smallest(target, MEASURED_LEVELS, meter.saved):
            candidate = search.candidate(share)
            confirmed = meter.saved(candidate, CONFIRMING * SECONDS)
            if confirmed >= target:
                return _Reached(candidate, share, confirmed)
            best = max(best, confirmed)
    raise search.unreachable(target, best)


REACH: dict[str, Callable[[_Search, float, nn.Module], _Reached]] = {
    "channels": _by_channels,
    "parameters": _by_count,
    "macs": _by_count,
    "latency": _by_latency,
}
"""Target -> function that removes so much of it."""
