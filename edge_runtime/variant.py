"""A variant: the frozen description of how one model came to be. It travels from the run to the report, unchanged."""

from __future__ import annotations

from typing import Literal

import msgspec

Training = Literal["natural", "adversarial"]
Pruning = Literal["none", "l1", "global", "layered", "channel"]
Timing = Literal["none", "pre", "post"]


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Data set, architecture, training, pruning and seed of one model.

    ``eps`` is the L-infinity radius of adversarial training on the [0, 1] pixel scale (0 for natural training);
    ``amount`` the pruned share (0 without pruning); ``timing`` says whether pruning came before or after training;
    ``fine_tune_eps`` is the radius of adversarial fine-tuning; ``width`` multiplies the architecture's channel counts.
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

    @property
    def label(self) -> str:
        """Short name for tables and plots: ``natural``, ``l1``, ``adversarial+channel`` ..."""
        parts: list[str] = [self.training] if self.training != "natural" else []
        parts += [self.pruning] if self.pruning != "none" else []
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
            parts += [f"{self.pruning}{self.amount:g}", self.timing, f"ft{self.fine_tune_epochs}"]
        parts += [f"adversarial{self.fine_tune_eps:g}"] if self.fine_tune_eps else []
        return "-".join([*parts, f"s{self.seed}"])
