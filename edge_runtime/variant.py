"""A variant: the frozen description of how one model came to be. It travels from the run to the report, unchanged."""

from __future__ import annotations

from typing import Literal

import msgspec

Training = Literal["natural", "adversarial"]
Pruning = Literal["none", "l1", "global", "layered", "channel", "semi-structured"]
Timing = Literal["none", "pre", "post"]
Importance = Literal["l2", "l1", "taylor", "batch-norm", "lamp", "hessian", "random"]
Scope = Literal["uniform", "global"]
Target = Literal["channels", "parameters", "macs", "latency"]


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Data set, architecture, training, pruning and seed of one model.

    ``eps`` is the L-infinity radius of adversarial training on the [0, 1] pixel scale (0 for natural training);
    ``amount`` the pruned share (0 without pruning); ``timing`` says whether pruning came before or after training;
    ``fine_tune_eps`` is the radius of adversarial fine-tuning; ``width`` multiplies the architecture's channel counts.
    How channels were chosen: by ``importance``, in each layer or in competition (``scope``), so that ``amount`` of
    ``target`` goes, with counts in multiples of ``round_to``. ``steps`` counts prunings, with fine-tuning after each.
    """

    dataset: str
    architecture: str
    width: float = 1.0
    input_size: int = 32
    training: Training = "natural"
    eps: float = 0.0
    pruning: Pruning = "none"
    amount: float = 0.0
    timing: Timing = "none"
    fine_tune_epochs: int = 0
    fine_tune_eps: float = 0.0
    seed: int = 0
    importance: Importance = "l2"
    scope: Scope = "uniform"
    target: Target = "channels"
    round_to: int = 8
    steps: int = 1

    @property
    def label(self) -> str:
        """Short name for tables and plots: ``natural``, ``l1``, ``adversarial+channel-by-taylor`` ..."""
        parts: list[str] = [self.training] if self.training != "natural" else []
        parts += ["-".join([self.pruning, *self._choices])] if self.pruning != "none" else []
        parts += ["adversarial-ft"] if self.fine_tune_eps else []
        return "+".join(parts) or "natural"

    @property
    def slug(self) -> str:
        """Folder name that distinguishes any two variants."""
        parts = [self.dataset, self.architecture]
        parts += [f"w{self.width:g}"] if self.width != 1.0 else []
        parts += [str(self.input_size)]
        parts += [self.training if self.training == "natural" else f"{self.training}{self.eps:g}"]
        if self.pruning != "none":
            parts += [f"{self.pruning}{self.amount:g}", *self._choices, self.timing, f"ft{self.fine_tune_epochs}"]
        parts += [f"adversarial{self.fine_tune_eps:g}"] if self.fine_tune_eps else []
        return "-".join([*parts, f"s{self.seed}"])

    @property
    def _choices(self) -> list[str]:
        """What differs from plain pruning, in words that no two options share."""
        chosen = [f"by-{self.importance}"] if self.importance != "l2" else []
        chosen += [self.scope] if self.scope != "uniform" else []
        chosen += [self.target] if self.target != "channels" else []
        chosen += [f"round{self.round_to}"] if self.round_to != 8 else []
        return chosen + ([f"steps{self.steps}"] if self.steps != 1 else [])
