"""What an audit log holds: the kinds of records (``KINDS``) and their canonical bytes.

A number that is not finite never enters the log: its field becomes null and ``flags`` names it. The bytes are JSON with
sorted keys and shortest round-trip floats, so that decoding returns the very same doubles.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from edge_runtime.device import DeviceReadings
from edge_runtime.device_identity import DeviceIdentity
from edge_runtime.errors import LogError
from edge_runtime.manifest import Method, Reduction, Sha256
from edge_runtime.variant import Variant

MAX_BODY_BYTES = 32 << 10
MAX_IMAGE_BYTES = 16 << 10


class LogIdentity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Software and bundle that wrote a record. Stored once per log and named in each record by its SHA-256.

    ``bundle_digest`` is the SHA-256 of the bundle's manifest, which identifies every byte of it. ``vehicle`` is the
    name that its owner gave it; reports of many logs group by it.
    """

    software: str
    bundle: str
    bundle_digest: str
    variant: Variant | None = None
    provider: str | None = None
    device: DeviceIdentity | None = None
    vehicle: str | None = None


class ExplainerReading(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One explainer's measures on one frame. ``gini`` is None where the saliency is all zero or not finite."""

    gini: float | None = None
    gradient_norm: float | None = None
    completeness_gap: float | None = None
    reduction: Reduction | None = None
    seed: int | None = None


class RoadWindow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """ROAD over a window of images: ``scores[i]`` after removing ``percentages[i]`` percent of the pixels.

    ``measure`` is "agreement" with the model's own prediction (on the road, where labels do not exist) or "accuracy"
    (on the bundle's audit set); the two are never mixed.
    """

    measure: Literal["agreement", "accuracy"]
    method: Method
    order: Literal["morf", "lerf"]
    percentages: tuple[float, ...]
    scores: tuple[float | None, ...]
    auc: float | None = None
    images: int | None = None


class FrameRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One classified frame.

    ``latency_ms`` holds milliseconds by stage, ``explainers`` measures by method. ``image`` and ``saliency`` are small
    encoded pictures (see ``thumbnails``), ``saliency_method`` says whose. ``box`` is the part of the frame that was
    classified (x0, y0, x1, y1 in pixels; None: all of it), ``truth`` its label where the source knows it. ``flags``
    names what was not finite, or what failed.
    """

    frame_id: str
    prediction: int | None = None
    label: str | None = None
    probability: float | None = None
    latency_ms: dict[str, float | None] = {}
    explainers: dict[Method, ExplainerReading] = {}
    road: tuple[RoadWindow, ...] = ()
    device: DeviceReadings | None = None
    saliency_method: Method | None = None
    image: bytes | None = None
    saliency: bytes | None = None
    box: tuple[int, int, int, int] | None = None
    truth: str | None = None
    flags: tuple[str, ...] = ()


class EventRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Something that happened beside the frames: a degraded mode, a drift alarm, a provider's failure."""

    name: str
    message: str = ""
    data: dict[str, float | str | None] = {}
    flags: tuple[str, ...] = ()


class Evicted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Gap: records ``first`` to ``last`` were removed to keep the byte cap; ``hash`` (hex) is that of ``last``.

    The log removes its oldest records only, so nothing older than ``last`` remains and the chain starts from ``hash``.
    """

    first: int
    last: int
    hash: Sha256


class Lost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Gap: ``count`` records taken between the two wall-clock times could not be stored; they never had a sequence."""

    count: int
    first_wall_ns: int
    last_wall_ns: int
    reason: str


Record = FrameRecord | EventRecord | Evicted | Lost

KINDS: dict[str, type[Record]] = {"frame": FrameRecord, "event": EventRecord, "evicted": Evicted, "lost": Lost}
_NAMES = {struct: kind for kind, struct in KINDS.items()}


class Stamp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """When and by whom a record was taken.

    ``identity`` is the SHA-256 (hex) of the :class:`LogIdentity`. ``clock_step_seconds`` is set when the wall clock
    moved against the monotonic one since the previous record (negative: backwards).
    """

    wall_ns: int
    monotonic_ns: int
    boot_id: str | None
    identity: str
    clock_step_seconds: float | None = None


class Encoded(msgspec.Struct, frozen=True):
    """A record's canonical parts: ``data`` is JSON, the pictures stand beside it."""

    kind: str
    data: bytes
    image: bytes | None = None
    saliency: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes that the parts occupy."""
        return len(self.data) + len(self.image or b"") + len(self.saliency or b"")


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    stamp: Stamp
    data: msgspec.Raw


def encode_record(record: Record) -> Encoded:
    """Return the record's canonical bytes. Raises LogError for values that do not fit the schema, naming the field."""
    kind = _NAMES.get(type(record))
    if kind is None:
        raise LogError(f"cannot log a {type(record).__name__}; known kinds: {', '.join(sorted(KINDS))}")
    flags: list[str] = []
    try:
        values = msgspec.to_builtins(record, builtin_types=(bytes,), enc_hook=_plain)
        clean = _finite(values, "", flags)
        if isinstance(clean.get("device"), dict):
            clean["device"] = {name: value for name, value in clean["device"].items() if value is not None}
        if flags:
            clean["flags"] = [*clean.get("flags", ()), *flags]
        msgspec.convert(clean, KINDS[kind])
        pictures = [clean.pop(name, None) for name in ("image", "saliency")]
        data = msgspec.json.encode(clean, order="deterministic")
    except (msgspec.ValidationError, TypeError, UnicodeEncodeError) as error:
        raise LogError(f"cannot log this {kind}: {error}") from error
    encoded = Encoded(kind, data, *pictures)
    _check_sizes(encoded)
    return encoded


def _check_sizes(encoded: Encoded) -> None:
    parts = (
        ("fields", encoded.data, MAX_BODY_BYTES),
        ("image", encoded.image, MAX_IMAGE_BYTES),
        ("saliency", encoded.saliency, MAX_IMAGE_BYTES),
    )
    for name, part, limit in parts:
        if part is not None and len(part) > limit:
            raise LogError(f"cannot log this {encoded.kind}: its {name} take {len(part)} bytes, at most {limit} fit")


def _plain(value: Any) -> Any:
    """Turn NumPy scalars into Python numbers."""
    if getattr(value, "ndim", None) == 0:
        return value.item()
    raise TypeError(f"{type(value).__name__} is no plain value; use numbers, text, lists and mappings")


def _finite(value: Any, path: str, flags: list[str]) -> Any:
    """Copy ``value`` with every NaN and infinity replaced by None and named in ``flags``."""
    if isinstance(value, float) and not math.isfinite(value):
        flags.append(f"{path}: {value}")
        return None
    if isinstance(value, dict):
        return {key: _finite(item, f"{path}.{key}" if path else str(key), flags) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item, f"{path}[{index}]", flags) for index, item in enumerate(value)]
    return value


def encode_body(stamp: Stamp, data: bytes) -> bytes:
    """Return the stored body: the stamp and the record's own fields."""
    return msgspec.json.encode(_Body(stamp, msgspec.Raw(data)), order="deterministic")


def decode_body(kind: str, body: bytes, image: bytes | None, saliency: bytes | None) -> tuple[Stamp, Record]:
    """Invert :func:`encode_record` and :func:`encode_body`. Raises LogError for a kind or body of no known schema."""
    if kind not in KINDS:
        raise LogError(f"unknown kind of record {kind!r}; known: {', '.join(sorted(KINDS))}")
    try:
        outer = msgspec.json.decode(body, type=_Body)
        record = msgspec.json.decode(outer.data, type=KINDS[kind])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LogError(f"this {kind} does not follow its schema: {error}") from error
    if isinstance(record, FrameRecord) and (image is not None or saliency is not None):
        record = msgspec.structs.replace(record, image=image, saliency=saliency)
    return outer.stamp, record


def encode_identity(identity: LogIdentity) -> bytes:
    """Return the identity's canonical bytes, whose SHA-256 names it. Raises LogError for a name that is no UTF-8."""
    try:
        return msgspec.json.encode(identity, order="deterministic")
    except UnicodeEncodeError as error:
        raise LogError(f"the log cannot hold the name {error.object!r}, which is no UTF-8; use another") from error
