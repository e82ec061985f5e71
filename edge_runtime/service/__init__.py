"""The vehicle loop as a systemd service: notifications of a running loop, and the unit. See ``docs/service.md``."""

from __future__ import annotations

from edge_runtime.service.notify import Notifier
from edge_runtime.service.unit import UnitOptions, unit_text

__all__ = ["Notifier", "UnitOptions", "unit_text"]
