"""The Pareto set: the points that no other beats in everything that counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from toolkit.select.measures import OBJECTIVES, Point


def steps(points: Sequence[Point]) -> NDArray[np.int64]:
    """Return every objective in whole steps of its resolution, smaller is better, [N, objectives].

    Rounding, and not a tolerance, because it keeps "dominates" transitive.
    """
    rows = [[each.sign * round(getattr(point, each.name) / each.resolution) for each in OBJECTIVES] for point in points]
    return np.asarray(rows, np.int64).reshape(len(points), len(OBJECTIVES))


def pareto(points: Sequence[Point]) -> list[Point]:
    """Return the points that none dominates: at least as good in every objective, and better in one."""
    table = steps(points)
    no_worse = (table[:, None] <= table[None]).all(axis=2)
    better = (table[:, None] < table[None]).any(axis=2)
    dominated = np.logical_and(no_worse, better).any(axis=0)
    return [points[index] for index in np.flatnonzero(~dominated).tolist()]
