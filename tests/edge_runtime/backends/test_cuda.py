"""Device memory grows, is reused and given back; what CUDA refuses is one line."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.backends import cuda
from edge_runtime.backends.cuda import Buffer, Cuda, Gpu, Stream, import_cuda
from edge_runtime.errors import EngineError, ProviderError
from tests.edge_runtime.backends.bindings import CUDA
from tests.edge_runtime.backends.standin import Cudart


@pytest.fixture(params=CUDA)
def cudart(request: pytest.FixtureRequest) -> Cudart:
    return Cudart(request.param)


def test_the_gpu(cudart: Cudart) -> None:
    assert Cuda(cudart).gpu() == Gpu("Orin", "8.7", 16)


def test_no_gpu(cudart: Cudart) -> None:
    cudart.faults["cudaGetDevice"] = "cudaErrorInsufficientDriver"
    with pytest.raises(ProviderError, match=r"no CUDA device \(cudaGetDevice: stand-in: cudaErrorInsufficientDriver\)"):
        Cuda(cudart).gpu()


def test_no_driver_library(cudart: Cudart, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise RuntimeError("libcuda.so.1 is not there")

    monkeypatch.setattr(cudart, "cudaGetDevice", missing)
    with pytest.raises(ProviderError, match=r"no CUDA device .libcuda.so.1 is not there"):
        Cuda(cudart).gpu()


def test_memory_is_kept_until_it_must_grow(cudart: Cudart) -> None:
    buffer = Buffer(Cuda(cudart), cudart)
    first = buffer.reserve(100)
    assert buffer.reserve(40) == first
    buffer.reserve(101)
    assert len(cudart.allocated) == 1
    buffer.close()
    buffer.close()
    assert not cudart.allocated
    assert buffer.reserve(0)  # an empty tensor has an address too


def test_arrays_go_there_and_back(cudart: Cudart) -> None:
    driver = Cuda(cudart)
    stream, buffer = Stream(driver, cudart), Buffer(driver, cudart)
    sent, received = np.arange(12, dtype=np.float32), np.zeros(12, np.float32)
    stream.upload(buffer, sent)
    stream.download(buffer, received)
    stream.wait()
    np.testing.assert_array_equal(sent, received)
    assert stream.handle in cudart.streams
    stream.close()
    stream.close()
    assert not cudart.streams


@pytest.mark.parametrize("call", ["cudaMalloc", "cudaStreamCreate", "cudaMemcpyAsync"])
def test_what_cuda_refuses(cudart: Cudart, call: str) -> None:
    cudart.faults[call] = "cudaErrorMemoryAllocation"
    driver = Cuda(cudart)
    with pytest.raises(EngineError, match=f"^{call}: stand-in: cudaErrorMemoryAllocation$"):
        stream = Stream(driver, cudart)
        stream.upload(Buffer(driver, cudart), np.zeros(3))


def test_without_the_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "MODULE", "cuda_that_is_nowhere")
    with pytest.raises(ProviderError, match=r"cuda.bindings is not installed .*pip install cuda-bindings"):
        import_cuda()
