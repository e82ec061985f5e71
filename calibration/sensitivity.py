"""Which layer is to blame, and how few of them must stay in floating point."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import msgspec

from calibration.gate import refusals
from calibration.layers import Network
from calibration.probe import Probe
from calibration.quantise import Quantised, quantise, silent_layers
from calibration.ranges import Progress
from edge_runtime.errors import InputError
from edge_runtime.manifest import Gate, GateMeasures


class LayerSensitivity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one layer does. ``alone``: it alone is quantised; ``others``: all layers but it are.

    ``*_error`` is the relative root mean square error of the logits, ``*_drift`` 1 - the mean rank correlation of the
    explanations with the original's. ``others_*`` are None where it is the only layer.
    """

    layer: str
    operator: str
    weights: int
    alone_error: float
    alone_drift: float
    others_error: float | None
    others_drift: float | None


@dataclass(frozen=True)
class Candidate:
    """A quantised network with what the gate says of it; ``refused`` is empty where it lets it pass."""

    quantised: Quantised
    measured: GateMeasures
    refused: list[str]


@dataclass(frozen=True)
class Search:
    """All that candidates are made and judged with."""

    network: Network
    thresholds: Mapping[str, float]
    probe: Probe
    gate: Gate
    progress: Progress | None = None

    def candidate(self, kept: Collection[str]) -> Candidate:
        """Quantise all but ``kept`` and measure it."""
        quantised = quantise(self.network, self.thresholds, kept)
        measured = self.probe.measure(quantised)
        return Candidate(quantised, measured, refusals(self.gate, measured))

    def names(self) -> list[str]:
        """Return the layers that can be quantised."""
        silent = silent_layers(self.network, self.thresholds)
        return [layer.name for layer in self.network.layers if layer.name not in silent]

    def tell(self, stage: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(stage, done, total)


def sensitivities(search: Search, *, others: bool = True) -> list[LayerSensitivity]:
    """Return one row a layer, in the order of computation; ``others`` False leaves out the second half of the work."""
    names = search.names()
    rows = []
    for done, layer in enumerate(layer for layer in search.network.layers if layer.name in names):
        alone = [name for name in names if name != layer.name]
        error, correlation = search.probe.drift(quantise(search.network, search.thresholds, alone))
        rest: tuple[float, float] | None = None
        if others and len(names) > 1:
            rest = search.probe.drift(quantise(search.network, search.thresholds, [layer.name]))
        rows.append(
            LayerSensitivity(
                layer=layer.name,
                operator=layer.operator,
                weights=int(search.network.prepared.constants[layer.weight].size),
                alone_error=error,
                alone_drift=1 - correlation,
                others_error=None if rest is None else rest[0],
                others_drift=None if rest is None else 1 - rest[1],
            )
        )
        search.tell("layers", done + 1, len(names))
    return rows


def worst_first(rows: list[LayerSensitivity]) -> list[str]:
    """Return the layers' names, the one whose quantisation alone moves explanations most first."""
    return [row.layer for row in sorted(rows, key=lambda row: (-row.alone_drift, -row.alone_error))]


def keep_worst(search: Search, count: int, rows: list[LayerSensitivity]) -> Candidate:
    """Leave the ``count`` worst layers in floating point. Raises InputError where that leaves none to quantise."""
    if not 0 <= count < len(rows):
        raise InputError(f"--keep-fp {count} of {len(rows)} layers leaves nothing to quantise; keep fewer")
    return search.candidate(worst_first(rows)[:count])


def keep_fewest(search: Search, rows: list[LayerSensitivity]) -> Candidate:
    """Return the candidate that passes the gate with the fewest layers in floating point that this search finds.

    The layers are tried worst first: bisection finds how many of them the gate demands. Then every kept layer gets a
    second chance, the least harmful first, because together with others some are kept in vain. Where even one
    quantised layer is too much, the candidate returned is that one, with what refused it.
    """
    order = worst_first(rows)
    found: dict[int, Candidate] = {}

    def at(count: int) -> Candidate:
        if count not in found:
            found[count] = search.candidate(order[:count])
            search.tell("fewest layers", len(found), 0)
        return found[count]

    low, high = 0, len(order) - 1
    if at(high).refused:
        return at(high)
    while low < high:
        middle = (low + high) // 2
        if at(middle).refused:
            low = middle + 1
        else:
            high = middle
    return _second_chances(search, at(high), order[:high])


def _second_chances(search: Search, best: Candidate, kept: list[str]) -> Candidate:
    """Try every kept layer in INT8 after all, the last one first; only what still passes is taken."""
    for done, name in enumerate(reversed(kept[:-1])):  # without the last one alone the gate was seen to refuse
        fewer = [other for other in kept if other != name]
        tried = search.candidate(fewer)
        search.tell("second chances", done + 1, len(kept) - 1)
        if not tried.refused:
            best, kept = tried, fewer
    return best
