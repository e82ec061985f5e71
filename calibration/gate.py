"""The gate: does a precision keep what it must?"""

from __future__ import annotations

from edge_runtime.manifest import Gate, GateMeasures


def refusals(gate: Gate, measured: GateMeasures) -> list[str]:
    """Return a clause for each limit that ``measured`` breaks, the worst first; none if the gate lets it pass.

    Worst is what lies furthest beyond its limit, relative to it. A measure that is NaN breaks its limit.
    """
    rules = (
        ("accuracy drops by", measured.accuracy_drop, gate.max_accuracy_drop, 1.0),
        ("the rank correlation of its explanations is", measured.rank_correlation, gate.min_rank_correlation, -1.0),
        ("the area under ROAD grows by", measured.road_auc_increase, gate.max_road_auc_increase, 1.0),
    )
    found = []
    for what, value, limit, sign in rules:
        excess = sign * (value - limit)
        if not excess <= 0:
            bound = "at most" if sign > 0 else "at least"
            found.append((-excess / max(abs(limit), 1e-9), f"{what} {value:.4f} ({bound} {limit:g} is accepted)"))
    return [text for _, text in sorted(found)]
