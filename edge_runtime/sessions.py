"""Inference sessions: one table of execution providers, and no silent fallback to a slower one."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edge_runtime.errors import BundleError, InputError, ProviderError, unknown
from edge_runtime.onnx_guard import refuse_unsafe

if TYPE_CHECKING:
    import onnxruntime

    from edge_runtime.bundle import Bundle
    from edge_runtime.manifest import InputSpec

FATAL_ONLY = 4  # onnxruntime's log level: what fails here is raised, and then said in one line
DEFAULT_PROVIDER = "cpu"
TENSORRT = "tensorrt"
# 85 images or 32 sample points at 32 x 32: more is hardly faster but much larger (benchmarks/runtime.py measures it).
CPU_BATCH_BYTES, CPU_CHUNK_BYTES = 1 << 20, 3 << 17
# All 50 sample points at 64 x 64 in one run. A choice, not a measurement.
GPU_BATCH_BYTES, GPU_CHUNK_BYTES = 1 << 24, 1 << 22
LEAST_POINTS = 4  # for large images, where one image alone would leave the engine's threads idle


@dataclass(frozen=True)
class Provider:
    """One row of the table: onnxruntime's name, its options for a model's SHA-256, what may follow it, and the help.

    ``fallback`` runs the operators that the provider lacks; it is never allowed to take over the whole model.
    ``batch_bytes`` and ``chunk_bytes`` bound one run of the classifier and of the explainer, in bytes of input.
    """

    engine: str
    batch_bytes: int
    chunk_bytes: int
    options: Callable[[str], dict[str, str]]
    fallback: tuple[str, ...]
    help: str


def no_options(model_digest: str) -> dict[str, str]:
    return {}


def cuda_options(model_digest: str) -> dict[str, str]:
    return {
        # The exhaustive search of cuDNN's algorithms would be repeated for every new batch size.
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        # TF32 keeps ten bits of the mantissa: units near their kink would decide otherwise, and gradients jump.
        "use_tf32": "0",
    }


def tensorrt_options(model_digest: str) -> dict[str, str]:
    """Cache engines and the timing of layers per model and platform (see ``backends.onnxruntime_cache``).

    Neither FP16 nor INT8 is switched on: onnxruntime then makes the network strongly typed, by the graph's own types.
    """
    from edge_runtime.backends.onnxruntime_cache import cache_folder

    cache = str(cache_folder(model_digest))
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": cache,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": cache,
        "trt_force_timing_cache": "0",
    }


PROVIDERS: dict[str, Provider] = {
    "cpu": Provider(
        engine="CPUExecutionProvider",
        batch_bytes=CPU_BATCH_BYTES,
        chunk_bytes=CPU_CHUNK_BYTES,
        options=no_options,
        fallback=(),
        help="install onnxruntime: pip install 'roadworthy[cpu]'",
    ),
    "cuda": Provider(
        engine="CUDAExecutionProvider",
        batch_bytes=GPU_BATCH_BYTES,
        chunk_bytes=GPU_CHUNK_BYTES,
        options=cuda_options,
        fallback=("CPUExecutionProvider",),
        help="it needs an NVIDIA GPU, onnxruntime-gpu, and the CUDA and cuDNN libraries that it asks for; "
        "or use provider cpu",
    ),
    TENSORRT: Provider(
        engine="TensorrtExecutionProvider",
        batch_bytes=GPU_BATCH_BYTES,
        chunk_bytes=GPU_CHUNK_BYTES,
        options=tensorrt_options,
        fallback=("CUDAExecutionProvider", "CPUExecutionProvider"),
        help="it needs an NVIDIA GPU and TensorRT's libraries, with its Python package or onnxruntime-gpu; "
        "or use provider cuda or cpu",
    ),
}


def open_session(
    bundle: Bundle, name: str, provider: str, threads: int | None, *, integers: bool = True
) -> onnxruntime.InferenceSession:
    """Return a session on the verified bytes of the bundle's file ``name``.

    ``threads`` limits the CPU threads of one run (None: as many as there are cores). Without ``integers`` a quantised
    graph is computed in floating point, to the same values up to rounding. Raises InputError for an unknown
    provider or a bad number of threads, ProviderError when the provider is not there or would not run the model,
    BundleError when the file is missing, changed, unsafe or not a model.
    """
    if provider not in PROVIDERS:
        raise unknown("provider", provider, PROVIDERS)
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}; give a number of at least 1, or leave it out to use all cores")
    model = bundle.read(name)
    refuse_unsafe(model, name)
    options = session_options(threads)
    if not integers and provider != TENSORRT:  # TensorRT makes its own choice, layer by layer
        # A gradient reads what lies before each rounding, so no layer becomes an integer kernel; onnxruntime would
        # still keep its weights as integers and dequantise them in every run, which took nine tenths of the time.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if provider == TENSORRT:
        from edge_runtime.backends.opening import open_tensorrt

        return open_tensorrt(bundle, name, model, lambda: create(model, name, provider, options))
    return create(model, name, provider, options)


def run_session(
    session: onnxruntime.InferenceSession, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]
) -> list[NDArray[Any]]:
    """Run the engine once, for as long as it takes; the vehicle loop puts a supervised one in its place."""
    found: list[NDArray[Any]] = session.run(list(outputs), dict(feeds))
    return found


# How classifier and explainer run their sessions: session, names of the outputs, inputs by name -> outputs.
Run = Callable[["onnxruntime.InferenceSession", Sequence[str], Mapping[str, NDArray[Any]]], list[NDArray[Any]]]


def default_batch(provider: str, spec: InputSpec) -> int:
    """Return how many images one run of the classifier takes."""
    return max(LEAST_POINTS, PROVIDERS[provider].batch_bytes // image_bytes(spec))


def default_chunk(provider: str, spec: InputSpec) -> int:
    """Return how many sample points one run of the explainer takes."""
    return max(LEAST_POINTS, PROVIDERS[provider].chunk_bytes // image_bytes(spec))


def largest_chunk(provider: str, spec: InputSpec) -> int:
    """Return the most sample points that one run of the explainer can take.

    TensorRT's engines are built for sizes; beyond them they would not run, or be built anew.
    """
    return default_chunk(provider, spec) if provider == TENSORRT else sys.maxsize


def image_bytes(spec: InputSpec) -> int:
    return 4 * 3 * spec.height * spec.width


def session_options(threads: int | None) -> onnxruntime.SessionOptions:
    options = import_onnxruntime().SessionOptions()
    options.log_severity_level = FATAL_ONLY
    # A bundle has two sessions in one process. Threads that spin on after a run take the cores from the other one: with
    # both in use that made gradients of ResNet-18 at 224x224 take 1.5 times as long.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def create(model: bytes, name: str, provider: str, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """Create the session and make sure that ``provider``, and not its fallback, runs it."""
    ort = import_onnxruntime()
    row = PROVIDERS[provider]
    if row.engine not in ort.get_available_providers():
        raise ProviderError(f"provider {provider} is not part of this onnxruntime {ort.__version__}; {row.help}")
    if provider != DEFAULT_PROVIDER:
        ort.set_default_logger_severity(FATAL_ONLY)
        preload_libraries(ort)
    providers = [(row.engine, row.options(hashlib.sha256(model).hexdigest())), *((each, {}) for each in row.fallback)]
    try:
        # onnxruntime's own retry on another provider hides the failure, so it is off.
        session = ort.InferenceSession(model, options, providers=providers, enable_fallback=0)
    except Exception as error:  # onnxruntime raises a dozen unrelated types, all of them about this model or provider
        if provider == DEFAULT_PROVIDER:
            raise BundleError(f"{name} cannot be loaded ({first_line(error)}); export the bundle again") from error
        reason = missing_library(ort, provider) or first_line(error)
        raise ProviderError(f"provider {provider} cannot load {name} ({reason}); {row.help}") from error
    if session.get_providers()[0] != row.engine:
        reason = missing_library(ort, provider) or "no GPU, or none that it supports"
        raise ProviderError(f"provider {provider} does not start on this machine ({reason}); {row.help}")
    release_memory(session)
    return session


def import_onnxruntime() -> Any:
    """Import onnxruntime late (it takes longer than the rest of the runtime), with a hint where it is missing."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ProviderError(f"onnxruntime is not installed ({error}); {PROVIDERS[DEFAULT_PROVIDER].help}") from error
    return onnxruntime


def preload_libraries(ort: Any) -> None:
    """Load CUDA and cuDNN from their wheels, where they are installed as such; system libraries need no help."""
    if hasattr(ort, "preload_dlls"):  # onnxruntime 1.21 and later
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            ort.preload_dlls()


def missing_library(ort: Any, provider: str) -> str | None:
    """Return what the system's linker says of a provider that did not start, None where its libraries are all there."""
    folder = Path(ort.__file__).parent / "capi"
    for part in ("shared", provider):
        library = folder / f"libonnxruntime_providers_{part}.so"
        try:
            if library.exists():
                ctypes.CDLL(str(library))
        except OSError as error:
            return first_line(error)
    return None


def release_memory(session: onnxruntime.InferenceSession) -> None:
    """Give back what only the session's creation needed; for VGG-16 it is more than the weights themselves.

    onnxruntime keeps the model's bytes for a retry on another provider, which is off here, and glibc keeps the freed
    blocks of graph optimisation.
    """
    if hasattr(session, "_model_bytes"):
        session._model_bytes = b""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # musl has none
        trim(0)


def first_line(error: Exception) -> str:
    """Return the first line of an engine's message, at most 200 characters."""
    return str(error).strip().split("\n")[0][:200]
