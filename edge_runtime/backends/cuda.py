"""CUDA memory and streams through NVIDIA's own Python bindings, ``cuda.bindings`` (package cuda-python)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from numpy.typing import NDArray

from edge_runtime.errors import EngineError, ProviderError

MODULE = "cuda.bindings.runtime"


def import_cuda() -> Any:
    """Import the bindings late; raises ProviderError with a hint where they are missing."""
    try:
        return import_module(MODULE)
    except ImportError as error:
        raise ProviderError(
            f"cuda.bindings is not installed ({error}); pip install cuda-bindings, of this system's CUDA version"
        ) from None


@dataclass(frozen=True)
class Gpu:
    """What an engine is tuned for; ``capability`` is the compute capability, as "8.7"."""

    name: str
    capability: str
    multiprocessors: int


class Cuda:
    """The calls that running an engine takes. They raise EngineError with CUDA's own words."""

    def __init__(self, cudart: Any) -> None:
        self._cudart = cudart

    def gpu(self) -> Gpu:
        """Return the device in use; raises ProviderError where there is none."""
        cudart = self._cudart
        try:
            device = self.call(cudart.cudaGetDevice)
            properties = self.call(cudart.cudaGetDeviceProperties, device)
        except (EngineError, RuntimeError) as error:  # the bindings raise RuntimeError where the driver is missing
            raise ProviderError(f"no CUDA device ({error}); use provider cpu") from None
        return Gpu(
            name=properties.name.decode(errors="replace").rstrip("\0"),
            capability=f"{properties.major}.{properties.minor}",
            multiprocessors=properties.multiProcessorCount,
        )

    def call(self, function: Any, *arguments: Any) -> Any:
        """Call ``function`` and return its result, if it has one; every CUDA call says first whether it succeeded."""
        status, *results = function(*arguments)
        if status != self._cudart.cudaError_t.cudaSuccess:
            _, text = self._cudart.cudaGetErrorString(status)
            raise EngineError(f"{function.__name__}: {text.decode(errors='replace')}")
        return results[0] if results else None


class Stream:
    """A queue of work for the GPU; ``handle`` is what TensorRT takes."""

    def __init__(self, cuda: Cuda, cudart: Any) -> None:
        self._cuda, self._cudart = cuda, cudart
        self._stream = cuda.call(cudart.cudaStreamCreate)
        self.handle = int(self._stream)

    def upload(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """Copy a contiguous array into device memory; it must live until :meth:`wait` returns."""
        self._copy(buffer.reserve(array.nbytes), array.ctypes.data, array.nbytes, "cudaMemcpyHostToDevice")

    def download(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """Copy device memory into a contiguous array, which is filled once :meth:`wait` has returned."""
        self._copy(array.ctypes.data, buffer.address, array.nbytes, "cudaMemcpyDeviceToHost")

    def _copy(self, target: int, source: int, count: int, kind: str) -> None:
        kinds = self._cudart.cudaMemcpyKind
        self._cuda.call(self._cudart.cudaMemcpyAsync, target, source, count, getattr(kinds, kind), self._stream)

    def wait(self) -> None:
        """Return once all work of this stream is done; raises EngineError where some of it failed."""
        self._cuda.call(self._cudart.cudaStreamSynchronize, self._stream)

    def close(self) -> None:
        """Give the stream back."""
        if self._stream is not None:
            self._cuda.call(self._cudart.cudaStreamDestroy, self._stream)
            self._stream = None


class Buffer:
    """Device memory for one tensor; it grows to the largest that was needed and stays there."""

    def __init__(self, cuda: Cuda, cudart: Any) -> None:
        self._cuda, self._cudart = cuda, cudart
        self.address = 0
        self._size = 0

    def reserve(self, size: int) -> int:
        """Return the address of at least ``size`` bytes; what was there before is lost where it had to grow."""
        if size > self._size or not self.address:
            self.close()
            # TensorRT takes no null address, and an empty tensor still needs one.
            self.address = int(self._cuda.call(self._cudart.cudaMalloc, max(size, 1)))
            self._size = size
        return self.address

    def close(self) -> None:
        """Give the memory back."""
        if self.address:
            address, self.address, self._size = self.address, 0, 0
            self._cuda.call(self._cudart.cudaFree, address)
