"""What a calibration can be asked for; no heavy import, so that ``--help`` stays quick."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from calibration.thresholds import DEFAULT_METHOD
from edge_runtime.manifest import Gate
from edge_runtime.path import METHODS

if TYPE_CHECKING:
    from calibration.ranges import Ranges

DEFAULT_SAMPLES = 512
DEFAULT_PRECISION = "int8"
DEFAULT_IMAGES = 100


@dataclass(frozen=True)
class DriftOptions:
    """How many held-out images to explain, with which explainers, and the seed of every choice."""

    images: int = DEFAULT_IMAGES
    methods: tuple[str, ...] = tuple(METHODS)
    seed: int = 0


@dataclass(frozen=True)
class CalibrationOptions:
    """How to get to ``precision``, and what it must keep.

    ``samples`` images are drawn by ``seed``; ``ranges`` replaces what they would say. Layers named in ``keep`` stay in
    floating point; so do the ``keep_worst`` most harmful ones, or, with ``auto``, as few as the gate allows. ``cache``
    is the folder of observations, None for none. ``sensitivity`` asks for the table of layers even where nothing
    depends on it.
    """

    precision: str = DEFAULT_PRECISION
    samples: int = DEFAULT_SAMPLES
    method: str = DEFAULT_METHOD
    seed: int = 0
    gate: Gate = field(default_factory=Gate)
    ranges: Ranges | None = None
    keep: tuple[str, ...] = ()
    keep_worst: int = 0
    auto: bool = False
    sensitivity: bool = False
    cache: Path | None = None
    drift: DriftOptions = field(default_factory=DriftOptions)
