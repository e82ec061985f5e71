"""The audit log: what the vehicle saw, decided and could explain, in a file that shows every later change.

Schema, chain and guarantees: ``docs/audit_log.md``.
"""

from __future__ import annotations

from edge_runtime.log.buffer import Group
from edge_runtime.log.chain import Anchor
from edge_runtime.log.reader import LoggedRecord, read
from edge_runtime.log.record import (
    KINDS,
    EventRecord,
    Evicted,
    ExplainerReading,
    FrameRecord,
    LogIdentity,
    Lost,
    Record,
    RoadWindow,
)
from edge_runtime.log.verification import VerifyResult, verify
from edge_runtime.log.writer import AuditLog, LogStatus

__all__ = [
    "KINDS",
    "Anchor",
    "AuditLog",
    "EventRecord",
    "Evicted",
    "ExplainerReading",
    "FrameRecord",
    "Group",
    "LogIdentity",
    "LogStatus",
    "LoggedRecord",
    "Lost",
    "Record",
    "RoadWindow",
    "VerifyResult",
    "read",
    "verify",
]
