"""What a running vehicle loop shows of itself: a small folder, rewritten a few times a second, that others only read.

The loop writes and never waits for a reader, so a page, a health check or a scraper that hangs cannot touch
classification. The folder belongs on a memory file system (the default does): it is the present, not a record, and
would wear flash out. Files are replaced atomically; a reader sees the old or the new one, never half of one.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from pathlib import Path

import msgspec

from edge_runtime.device import DeviceReadings
from edge_runtime.errors import InputError
from edge_runtime.latency import LatencySummary

LIVE_FORMAT = 1
STATUS = "status.json"
PICTURES = ("frame.jpg", "overlay.jpg")
MAX_STATUS_BYTES = 4 << 20
MAX_PICTURE_BYTES = 16 << 20
SERIES_POINTS = 600  # what a page draws; older points are in the log


class Counts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Frames since the start; ``produced`` is always the sum of the others and of those ``waiting`` in the queue."""

    produced: int = 0
    processed: int = 0
    dropped: int = 0
    failed: int = 0
    waiting: int = 0


class Shown(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One classified frame or box. ``probability`` and ``label`` are None where the logits are not finite."""

    frame_id: str
    label: str | None
    prediction: int | None
    probability: float | None
    box: tuple[int, int, int, int] | None = None


class Histogram(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Counts of milliseconds since the start: ``counts[i]`` are at most ``edges[i]``, the last ones above all edges.

    Not cumulative; ``len(counts) == len(edges) + 1``; ``total`` is the sum of all samples in milliseconds.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


class Series(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A measure over time, newest last, at most SERIES_POINTS: ``wall`` seconds since 1970; None where undefined."""

    wall: tuple[float, ...] = ()
    values: tuple[float | None, ...] = ()
    baseline: float | None = None  # the desktop's mean, from the manifest


class DriftState(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One watched measure against the manifest's baseline; ``p_value`` None until the window is full."""

    drifted: bool
    p_value: float | None
    threshold: float
    window: int
    since_wall: float | None = None  # when the present state began


class LiveStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The loop at one moment.

    ``written_wall``, ``started_wall`` and ``last_frame_wall`` are seconds since 1970; ``boot_monotonic`` is
    ``time.monotonic()`` at writing, for an age that a changed wall clock cannot spoil. ``state`` is "starting" (no
    model yet), "running", "waiting" (no frames from the source; ``message`` says why) or "stopped". ``step`` is the
    degradation step, 0 for none, ``step_name`` what it leaves out. ``gini``, ``road`` and ``latency`` have one entry
    per explainer or stage, ``drift`` one per watched measure, ``events`` the newest last. ``log`` is what the audit log
    says of itself, by the names of its status ("acknowledged", "pending", "lost", "error") and "path".
    """

    format: int = LIVE_FORMAT
    written_wall: float
    boot_monotonic: float
    started_wall: float
    process: int
    state: str
    message: str = ""
    bundle: str
    digest: str
    source: str
    provider: str
    counts: Counts
    frames_per_second: float | None = None
    last_frame_wall: float | None = None
    shown: Shown | None = None
    saliency_method: str | None = None
    latency: dict[str, LatencySummary] = {}
    histograms: dict[str, Histogram] = {}
    gini: dict[str, Series] = {}
    road: dict[str, Series] = {}
    confidence: Series = Series()
    drift: dict[str, DriftState] = {}
    step: int = 0
    step_name: str = "nothing left out"
    device: DeviceReadings | None = None
    log: dict[str, float | str | None] = {}
    events: tuple[tuple[float, str, str], ...] = ()  # wall seconds, name, message


def default_live_folder() -> Path:
    """Return the folder used where none is named: in this user's run-time folder, else in shared memory or /tmp."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base:
        return Path(base) / "roadworthy"
    shared = Path("/dev/shm")
    return (shared if shared.is_dir() else Path("/tmp")) / f"roadworthy-{os.getuid()}"


class LiveWriter:
    """Writes the folder. A failure to write is returned, never raised: showing is not worth a frame."""

    def __init__(self, folder: Path) -> None:
        """Make the folder, readable by this user alone; raises InputError where that is impossible.

        A folder that others own or may write to is refused: with links in it they could redirect what is written.
        """
        self.folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = folder.stat()
        except OSError as error:
            raise InputError(f"{folder}: {error.strerror}; name another folder for the live status") from error
        if found.st_uid != os.getuid() or found.st_mode & stat.S_IWOTH:
            raise InputError(f"{folder} belongs to others, or all may write to it; name another for the live status")
        for name in (STATUS, *PICTURES):  # what an earlier process left is not the present
            with contextlib.suppress(FileNotFoundError):
                (folder / name).unlink()

    def write(self, status: LiveStatus, pictures: dict[str, bytes] | None = None) -> str | None:
        """Replace the pictures given, then the status; return the reason of a failure, else None."""
        try:
            for name, data in (pictures or {}).items():
                self._replace(name, data)
            self._replace(STATUS, msgspec.json.encode(status))
        except OSError as error:
            return error.strerror or str(error)
        return None

    def _replace(self, name: str, data: bytes) -> None:
        temporary = self.folder / f".{name}.new"
        temporary.write_bytes(data)
        temporary.replace(self.folder / name)


def read_live(folder: Path) -> LiveStatus | None:
    """Return the status, None where there is none; raises InputError for a file that is no status."""
    path = folder / STATUS
    try:
        with path.open("rb") as file:
            data = file.read(MAX_STATUS_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; check the folder's owner") from error
    if len(data) > MAX_STATUS_BYTES:
        raise InputError(f"{path} holds over {MAX_STATUS_BYTES} bytes; it was not written by roadworthy")
    try:
        return msgspec.json.decode(data, type=LiveStatus)
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: {error}; it was written by another version of roadworthy") from error


def read_picture(folder: Path, name: str) -> bytes | None:
    """Return one of PICTURES, None where there is none yet, or none that a loop would have written."""
    assert name in PICTURES, name
    with contextlib.suppress(OSError), (folder / name).open("rb") as file:
        data = file.read(MAX_PICTURE_BYTES + 1)
        return data if len(data) <= MAX_PICTURE_BYTES else None
    return None


def picture_versions(folder: Path) -> dict[str, str]:
    """Return those of PICTURES that are there, each with a text that changes whenever it is rewritten."""
    found = {}
    for name in PICTURES:
        with contextlib.suppress(OSError):
            entry = (folder / name).stat()
            found[name] = f"{entry.st_mtime_ns}-{entry.st_ino}"
    return found


def age(status: LiveStatus) -> float:
    """Return the seconds since the status was written, on this machine's monotonic clock."""
    return time.monotonic() - status.boot_monotonic
