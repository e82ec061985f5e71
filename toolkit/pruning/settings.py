"""How to prune, as one frozen value, with the presets and the names that it may hold."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import get_args

from edge_runtime import variant
from edge_runtime.errors import InputError, unknown

DEFAULT_PRESET = "paper"
CHANNEL, SEMI_STRUCTURED = "channel", "semi-structured"
METHODS: tuple[str, ...] = tuple(name for name in get_args(variant.Pruning) if name != "none")
MASKING = tuple(method for method in METHODS if method != CHANNEL)
"""The methods that zero weights; ``channel`` makes the network smaller."""
IMPORTANCES: tuple[str, ...] = get_args(variant.Importance)
SCOPES: tuple[str, ...] = get_args(variant.Scope)
TARGETS: tuple[str, ...] = get_args(variant.Target)
MAX_ROUND_TO, MAX_STEPS = 1024, 100
GROUP = 4
"""Consecutive input channels that a semi-structured mask looks at: N of 4, as NVIDIA's sparse tensor cores do."""


@dataclass(frozen=True)
class Shares:
    """Share of weights (l1, global, semi-structured), filters (layered) or channels to prune, by kind of layer."""

    convolution: float
    hidden: float
    output: float


# "hidden" are the fully connected layers before the last one, "output" is the last one (PROTOCOL, pruning table).
PRESETS: dict[str, dict[str, Shares]] = {
    "paper": {
        "l1": Shares(0.2, 0.0, 0.1),
        "global": Shares(0.2, 0.2, 0.2),
        "layered": Shares(0.1, 0.1, 0.0),
        CHANNEL: Shares(0.5, 0.5, 0.0),
        SEMI_STRUCTURED: Shares(0.5, 0.5, 0.0),
    },
    "authors-code": {
        "l1": Shares(0.2, 0.1, 0.1),
        "global": Shares(0.2, 0.2, 0.2),
        "layered": Shares(0.1, 0.1, 0.1),
        CHANNEL: Shares(0.5, 0.5, 0.0),
        SEMI_STRUCTURED: Shares(0.5, 0.5, 0.0),
    },
}


@dataclass(frozen=True)
class Pruning:
    """How to prune: one of :data:`METHODS`, the share (None: the preset's), and the preset.

    The rest is for ``channel``: which channels count least (``importance``), whether every layer gives the same share
    or all compete (``scope``), what ``amount`` is a share of (``target``), and the multiple that channel counts stay
    (``round_to``). With ``steps`` above 1 the network is pruned and fine-tuned so many times, to i/steps of the target.

    Raises InputError for unknown names, numbers out of range, and options that the method has no use for.
    """

    method: str
    amount: float | None = None
    preset: str = DEFAULT_PRESET
    importance: str = "l2"
    scope: str = "uniform"
    target: str = "channels"
    round_to: int = 8
    steps: int = 1

    def __post_init__(self) -> None:
        for kind, name, names in (
            ("pruning method", self.method, METHODS),
            ("pruning preset", self.preset, PRESETS),
            ("importance", self.importance, IMPORTANCES),
            ("scope", self.scope, SCOPES),
            ("target", self.target, TARGETS),
        ):
            if name not in names:
                raise unknown(kind, name, names)
        if self.amount is not None and not 0 < self.amount < 1:
            raise InputError(f"pruning amount {self.amount:g} is outside (0, 1); 0.2 prunes 20 %")
        for name, number, limit in (("round_to", self.round_to, MAX_ROUND_TO), ("steps", self.steps, MAX_STEPS)):
            if not 1 <= number <= limit:
                raise InputError(f"{name} {number} is outside 1 .. {limit}")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in CHANNEL_OPTIONS and self.method != CHANNEL and value != field.default:
                raise InputError(f"{field.name} {value!r} is for method {CHANNEL}, not for {self.method}; leave it out")
        if self.method == SEMI_STRUCTURED:
            for step in range(1, self.steps + 1):
                zeros_of_group(self.share * step / self.steps)

    @property
    def share(self) -> float:
        """The share that the variant records."""
        return self.amount if self.amount is not None else preset_shares(self.method, self.preset).convolution

    def shares(self, done: float = 1.0) -> Shares:
        """Return the share of each kind of layer, of which the first ``done`` (0..1) is to be pruned."""
        shares = preset_shares(self.method, self.preset)
        factor = self.share / shares.convolution
        kinds = (self.share, shares.hidden * factor, shares.output * factor)
        return Shares(*(kind if done == 1.0 else kind * done for kind in kinds))


CHANNEL_OPTIONS = ("importance", "scope", "target", "round_to")


def preset_shares(method: str, preset: str = DEFAULT_PRESET) -> Shares:
    """Return what ``preset`` prunes with ``method``; raises InputError for an unknown preset."""
    if preset not in PRESETS:
        raise unknown("pruning preset", preset, PRESETS)
    return PRESETS[preset][method]


def zeros_of_group(share: float) -> int:
    """Return how many weights of every 4 a semi-structured mask of ``share`` zeroes; raises InputError for a fraction.

    0.5 is 2:4, which NVIDIA's sparse tensor cores run; 0.75 (1:4) satisfies 2:4 as well.
    """
    zeros = share * GROUP
    if abs(zeros - round(zeros)) > 1e-6:
        raise InputError(
            f"{SEMI_STRUCTURED} pruning zeroes 1, 2 or 3 of every {GROUP} weights, not a share of {share:g}; "
            "use amount 0.25, 0.5 or 0.75, and as many steps as it has quarters, or one"
        )
    return round(zeros)
