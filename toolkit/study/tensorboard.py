"""TensorBoard files of a study's trainings, for those who want to compare curves there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_runtime.extras import library

EXTRA = "tensorboard"


def require() -> None:
    """Raise InputError with the way out where TensorBoard is not installed."""
    library("tensorboard", EXTRA, "--tensorboard")


def write_events(folder: Path, history: Sequence[dict[str, Any]]) -> None:
    """Write every number of ``history``, a row per epoch (toolkit.runs), as a scalar; replaces what ``folder`` held."""
    from torch.utils.tensorboard import SummaryWriter

    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(folder)) as writer:
        for row in history:
            for name, value in row.items():
                if name != "epoch" and value is not None:
                    writer.add_scalar(name, value, row["epoch"])
