"""What the report shows of one bundle: measurements only, whatever tool took them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval (None where the tool gave none)."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class RoadCurves:
    """ROAD of one explainer: accuracy after removing each percentage of pixels, most (MoRF) or least relevant first."""

    percentages: tuple[float, ...]
    morf: tuple[float, ...]
    lerf: tuple[float, ...]
    morf_auc: float
    lerf_auc: float

    @property
    def combined(self) -> float:
        """(LeRF - MoRF) / 2 of the areas: higher is more faithful."""
        return (self.lerf_auc - self.morf_auc) / 2


@dataclass(frozen=True)
class Latency:
    """Percentiles of all samples, in milliseconds."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Examples:
    """Images uint8 [n,H,W,3] with the saliency maps float [n,H,W] of each explainer, true and predicted labels."""

    images: npt.NDArray[np.uint8]
    saliency: dict[str, npt.NDArray[np.float32]]
    labels: tuple[str, ...]
    predicted: tuple[str, ...]


@dataclass(frozen=True)
class Summary:
    """One bundle: what it is, what it costs, and how well it can be explained.

    ``size`` in bytes is that of the classifier's file, ``latency`` by task ("classify", "vg", "ig", "sg").
    """

    name: str
    digest: str
    size: int | None = None
    macs: int | None = None
    parameters: int | None = None
    nonzero_parameters: int | None = None
    accuracy: Estimate | None = None
    audited: int = 0
    latency: dict[str, Latency] = field(default_factory=dict)
    gini: dict[str, Estimate] = field(default_factory=dict)
    gradient_norm: dict[str, Estimate] = field(default_factory=dict)
    road: dict[str, RoadCurves] = field(default_factory=dict)
    examples: Examples | None = None
