"""Log records as flat columns and as lines of text."""

from __future__ import annotations

import datetime
import json
from typing import Any

import msgspec

from edge_runtime.device_identity import DeviceIdentity
from edge_runtime.log.reader import LoggedRecord
from edge_runtime.text import printable


def flatten(entry: LoggedRecord) -> dict[str, Any]:
    """Return one record as columns: nested names joined by dots, lists as JSON text, None where there is nothing."""
    stamp, identity = entry.stamp, entry.identity
    columns: dict[str, Any] = {
        "sequence": entry.sequence,
        "kind": entry.kind,
        "time": wall_text(stamp.wall_ns),
        "wall_ns": stamp.wall_ns,
        "monotonic_ns": stamp.monotonic_ns,
        "boot_id": stamp.boot_id,
        "clock_step_seconds": stamp.clock_step_seconds,
        "software": identity.software,
        "bundle": identity.bundle,
        "bundle_digest": identity.bundle_digest,
        "variant": identity.variant.slug if identity.variant else None,
        "vehicle": identity.vehicle,
        "device_model": _model(identity.device),
        "provider": identity.provider,
    }
    _add(columns, "", msgspec.to_builtins(entry.record, builtin_types=(bytes,)))
    return columns


def _model(device: DeviceIdentity | None) -> str | None:
    """Return the board's name, or the processor's where the board has none."""
    return None if device is None else device.board or device.cpu_model


def wall_text(wall_ns: int) -> str:
    """Return a wall-clock time as ISO 8601 in UTC, with all nine digits."""
    seconds, nanoseconds = divmod(wall_ns, 10**9)
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def as_json_line(entry: LoggedRecord) -> str:
    """Return a record as one line of JSON, pictures by their size only."""
    columns = {name: len(value) if isinstance(value, bytes) else value for name, value in flatten(entry).items()}
    return json.dumps({name: value for name, value in columns.items() if value is not None})


def as_text_line(entry: LoggedRecord) -> str:
    """Return a record as one line for people: what identifies it, then its own values."""
    columns = flatten(entry)
    own = list(columns)[list(columns).index("provider") + 1 :]
    values = (f"{name}={_short(columns[name])}" for name in own if columns[name] is not None)
    return f"{entry.sequence:>8}  {wall_text(entry.stamp.wall_ns)[:23]}  {entry.kind:<7}  {'  '.join(values)}"


def _short(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))


def _add(columns: dict[str, Any], name: str, value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _add(columns, f"{name}.{key}" if name else key, item)
    elif isinstance(value, (list, tuple)):
        columns[name] = json.dumps(value) if value else None
    else:
        columns[name] = value
