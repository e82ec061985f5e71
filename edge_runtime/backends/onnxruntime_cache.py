"""Where onnxruntime's TensorRT provider keeps engines: a folder per model and platform, of its owner alone.

onnxruntime writes and reads these files itself, so their bytes are not hashed here; what it would take wrongly is kept
apart by the folder's name instead. Its own names for engines hold the compute capability and a hash of the graph's
structure, but not of its weights.
"""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

import msgspec

from edge_runtime.backends.cache import cache_root, private_folder
from edge_runtime.backends.keys import digest
from edge_runtime.device_identity import device_identity
from edge_runtime.manifest import Sha256
from edge_runtime.software import DISTRIBUTIONS, installed

# Newest first: the library that a process finds under these names is the one that onnxruntime loads.
LIBRARIES = ("libnvinfer.so.11", "libnvinfer.so.10")


class CacheKey(msgspec.Struct, frozen=True, kw_only=True):
    """All that an engine of onnxruntime's depends on; None where it cannot be found out."""

    model: Sha256
    onnxruntime: str | None
    tensorrt: int | None
    gpu: str | None
    board: str | None
    l4t_release: str | None
    machine: str


def cache_folder(model_digest: str) -> Path:
    """Return the folder for a model on this platform, made if need be; raises ProviderError unless it is private."""
    device = device_identity()
    key = CacheKey(
        model=model_digest,
        onnxruntime=onnxruntime_version(),
        tensorrt=library_version(),
        gpu=device.gpu,
        board=device.board,
        l4t_release=device.l4t_release,
        machine=platform.machine(),
    )
    root = cache_root() / "onnxruntime"
    private_folder(root)
    folder = root / digest(key)
    private_folder(folder)
    return folder


def onnxruntime_version() -> str | None:
    """Return the version of whichever distribution of onnxruntime is installed."""
    return next((version for name in DISTRIBUTIONS["onnxruntime"] if (version := installed(name))), None)


def library_version() -> int | None:
    """Return what TensorRT's library says of itself (100300 is 10.3.0), None where there is none."""
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        return int(library.getInferLibVersion())
    return None
