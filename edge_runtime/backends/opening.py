"""Open a session for provider ``tensorrt``: a native engine where TensorRT's package is there, else onnxruntime's.

Native engines come first because they are the ones that ``roadworthy engine`` builds, lists and clears, and whose bytes
are hashed before they are loaded. Both ways run the same graphs with the same types.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_runtime.backends.cache import EngineCache, Subject
from edge_runtime.backends.cuda import Cuda, import_cuda
from edge_runtime.backends.keys import BuildOptions, Platform, Profile
from edge_runtime.backends.profiles import engine_profiles
from edge_runtime.backends.tensorrt import TensorrtSession, UnloadableEngineError
from edge_runtime.backends.tensorrt_api import import_tensorrt
from edge_runtime.backends.tensorrt_build import Recipe, build_engine, check_options
from edge_runtime.device import Tree
from edge_runtime.device_identity import l4t_release
from edge_runtime.errors import EngineError, ProviderError, unknown
from edge_runtime.sessions import TENSORRT, default_batch, default_chunk

if TYPE_CHECKING:
    from edge_runtime.bundle import Bundle

VARIABLE = "ROADWORTHY_TENSORRT"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runtime:
    """TensorRT and CUDA on this device, and what an engine must match to run here."""

    trt: Any
    cudart: Any
    platform: Platform


def native_runtime() -> Runtime:
    """Return this device's TensorRT; raises ProviderError where package, bindings or GPU are missing."""
    trt, cudart = import_tensorrt(), import_cuda()
    gpu = Cuda(cudart).gpu()
    here = Platform(
        tensorrt=trt.__version__,
        compute_capability=gpu.capability,
        gpu=gpu.name,
        multiprocessors=gpu.multiprocessors,
        machine=platform.machine(),
        l4t_release=l4t_release(Tree("/")),
    )
    return Runtime(trt, cudart, here)


def subject_of(bundle: Bundle, name: str, model: bytes) -> Subject:
    """Return what an engine of the bundle's file ``name`` is built from."""
    return Subject(bundle.manifest.name, name, hashlib.sha256(model).hexdigest(), profiles_of(bundle, name))


def profiles_of(bundle: Bundle, name: str) -> tuple[Profile, ...]:
    """Return the sizes that an engine of the bundle's file ``name`` is built for."""
    spec = bundle.manifest.input
    return engine_profiles(bundle.manifest, name, default_batch(TENSORRT, spec), default_chunk(TENSORRT, spec))


def open_native(bundle: Bundle, name: str, model: bytes) -> TensorrtSession:
    """Return a session on the device's own engine of ``model``, which is built where there is none that may be loaded.

    Raises ProviderError where TensorRT is not there, or builds or loads no engine.
    """
    runtime, cache = native_runtime(), EngineCache()
    subject = subject_of(bundle, name, model)
    session = load(runtime, cache, subject)
    if session is None:
        logger.warning("building the TensorRT engine of %s; this takes minutes, once", name)
        build(runtime, cache, bundle, subject, model)
        session = load(runtime, cache, subject)
    if session is None:
        raise ProviderError(f"TensorRT does not load the engine of {name} that it has just built; check disk and GPU")
    return session


def load(runtime: Runtime, cache: EngineCache, subject: Subject) -> TensorrtSession | None:
    """Return a session on the newest engine that runs here, None where there is none.

    One that by its record should run and yet is not taken, as after a driver's update, is removed.
    """
    while (found := cache.find(subject, runtime.platform)) is not None:
        record, plan = found
        host_code = record.key.options.version_compatible
        try:
            return TensorrtSession(runtime.trt, runtime.cudart, plan, subject.profiles, host_code=host_code)
        except UnloadableEngineError as error:
            logger.warning("%s; removed", error)
            cache.clear([record.key.digest])
    return None


def build(
    runtime: Runtime,
    cache: EngineCache,
    bundle: Bundle,
    subject: Subject,
    model: bytes,
    options: BuildOptions | None = None,
    *,
    force: bool = False,
) -> bool:
    """Build the engine of ``subject`` into the cache unless it is there; returns whether it had to be built.

    Without ``options`` any engine that runs here will do.
    """
    chosen = options or BuildOptions()
    check_options(chosen, runtime.platform)
    with cache.lock():  # another process may have built it meanwhile
        if not force and cache.find(subject, runtime.platform, options) is not None:
            return False
        recipe = Recipe(model, subject.file, bundle.manifest.input, subject.profiles, chosen)
        start = time.monotonic()
        built = build_engine(runtime.trt, recipe, cache.timing(runtime.platform))
        cache.store(subject, subject.key(runtime.platform, chosen), built.plan, time.monotonic() - start)
        cache.store_timing(runtime.platform, built.timing)
    return True


# onnxruntime's way is its caller's, which knows how to make sessions.
Opener = Callable[[], Any]


def open_tensorrt(bundle: Bundle, name: str, model: bytes, through_onnxruntime: Opener) -> Any:
    """Return the first session that starts; raises ProviderError with every reason where none does.

    ``$ROADWORTHY_TENSORRT`` names one of the ways ("native", "onnxruntime") to take no other.
    """
    ways: dict[str, Opener] = {
        "native": lambda: open_native(bundle, name, model),
        "onnxruntime": through_onnxruntime,
    }
    only = os.environ.get(VARIABLE)
    if only and only not in ways:
        raise unknown(f"way in ${VARIABLE}", only, ways)
    reasons = []
    for way, opener in ways.items():
        if only in (None, "", way):
            try:
                return opener()
            except (ProviderError, EngineError) as error:
                reasons.append(f"{way}: {error}")
    raise ProviderError("; ".join(reasons))
