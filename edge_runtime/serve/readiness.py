"""Whether the loop does its work: model warm, frames flowing."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import InputError
from edge_runtime.live import LiveStatus, age, read_live

STALE_SECONDS = 5.0  # the loop writes several times a second
FRAME_SECONDS = 5.0


@dataclass(frozen=True)
class Reading:
    """The live status as it is now: ``obstacle`` says why the loop is not ready, None where it is.

    The text stays the same while nothing changes (it names times, not ages). ``fresh`` tells whether ``status`` is the
    present; a stale one is what the loop last wrote.
    """

    status: LiveStatus | None
    fresh: bool
    obstacle: str | None


def look(folder: Path) -> Reading:
    """Read the live folder; what cannot be read is an obstacle, never an exception."""
    try:
        status = read_live(folder)
    except InputError as error:
        return Reading(None, False, str(error))
    if status is None:
        return Reading(None, False, f"no vehicle loop writes to {folder}; start one, or name its live folder")
    # A monotonic clock that ran backwards: the machine was started anew since.
    fresh = 0 <= age(status) <= STALE_SECONDS
    return Reading(status, fresh, _obstacle(status, fresh))


def _obstacle(status: LiveStatus, fresh: bool) -> str | None:
    if status.state == "stopped":
        return f"the vehicle loop has stopped{_because(status.message)}"
    if not fresh:
        return f"the vehicle loop has written nothing since {_moment(status.written_wall)}; is its process still there?"
    if status.state == "starting":
        return "the model is being loaded"
    if status.state != "running":
        return f"the vehicle loop is {status.state}{_because(status.message)}"
    if status.last_frame_wall is None:
        return "no frame has come from the source yet"
    if status.written_wall - status.last_frame_wall > FRAME_SECONDS:
        return f"no frame has come from the source since {_moment(status.last_frame_wall)}"
    return None


def _because(message: str) -> str:
    return f": {message}" if message else ""


def _moment(wall: float) -> str:
    try:
        moment = datetime.datetime.fromtimestamp(wall, datetime.timezone.utc)
    except (OverflowError, OSError, ValueError):
        return "an impossible time"
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
