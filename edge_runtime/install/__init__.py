"""Put a bundle in the place that the vehicle runs from: verified, tested, switched in one step, with a way back.

Guarantees and commands: ``docs/install.md``.
"""

from __future__ import annotations

from edge_runtime.install.activation import STEPS, Installed, install_bundle, roll_back
from edge_runtime.install.bounded import Limits, bounded_self_test
from edge_runtime.install.places import CURRENT, PREVIOUS, Place, Places, default_folder

__all__ = [
    "CURRENT",
    "PREVIOUS",
    "STEPS",
    "Installed",
    "Limits",
    "Place",
    "Places",
    "bounded_self_test",
    "default_folder",
    "install_bundle",
    "roll_back",
]
