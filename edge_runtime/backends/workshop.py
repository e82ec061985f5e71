"""Build the engines of a whole bundle ahead of their first use."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from edge_runtime.backends.cache import EngineCache
from edge_runtime.backends.keys import BuildOptions
from edge_runtime.backends.opening import build, native_runtime, subject_of
from edge_runtime.backends.profiles import PROFILES
from edge_runtime.bundle import Bundle
from edge_runtime.onnx_guard import refuse_unsafe


class BuiltEngine(msgspec.Struct, frozen=True, kw_only=True):
    """One engine: whether it was ``built`` now or had been, its size in bytes and the seconds that its build took."""

    file: str
    precision: str
    built: bool
    size: int
    seconds: float
    sha256: str


def build_bundle(
    bundle: Bundle,
    precisions: Sequence[str] = (),
    options: BuildOptions | None = None,
    *,
    force: bool = False,
    tell: Callable[[str], None] = lambda file: None,
) -> list[BuiltEngine]:
    """Build an engine of every graph of ``bundle`` in ``precisions`` (none: all) unless it is there; ``force`` anyway.

    ``tell`` hears the name of each file before its engine is built. Raises ProviderError where TensorRT is not there or
    refuses a graph, InputError for a precision that the bundle lacks and for options that cannot be.
    """
    options = options or BuildOptions()
    files = [(bundle.file(file, each), each) for each in precisions or bundle.precisions for file in PROFILES]
    runtime, cache = native_runtime(), EngineCache()
    found = []
    for file, precision in files:
        if not bundle.has(file):
            continue
        tell(file)
        model = bundle.read(file)
        refuse_unsafe(model, file)
        subject = subject_of(bundle, file, model)
        built = build(runtime, cache, bundle, subject, model, options, force=force)
        record = cache.record(subject.key(runtime.platform, options))
        found.append(
            BuiltEngine(
                file=file,
                precision=precision,
                built=built,
                size=record.size,
                seconds=record.seconds,
                sha256=record.sha256,
            )
        )
    return found
