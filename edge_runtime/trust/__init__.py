"""Whom a vehicle believes: signed metadata (TUF) of bundles, checked against an installed root of trust.

Guarantees and commands: ``docs/trust.md``. Needs the extra ``trust``; every module imports without it.
"""

from __future__ import annotations

from edge_runtime.trust.opening import open_checked, open_required, open_with_root
from edge_runtime.trust.store import TrustStore, default_store, installed_store
from edge_runtime.trust.verification import Acceptance, Trusted, open_trusted

__all__ = [
    "Acceptance",
    "TrustStore",
    "Trusted",
    "default_store",
    "installed_store",
    "open_checked",
    "open_required",
    "open_trusted",
    "open_with_root",
]
