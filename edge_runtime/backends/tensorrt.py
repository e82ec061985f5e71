"""Run a TensorRT engine where an onnxruntime session would run: the same names in, the same arrays out."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.cuda import Buffer, Cuda, Stream
from edge_runtime.backends.keys import Profile
from edge_runtime.backends.profiles import FIRST_AXIS, IMAGES, POINTS
from edge_runtime.backends.tensorrt_api import first_line, last_error, make_logger, started
from edge_runtime.errors import EngineError, ProviderError

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Tensor:
    """One input or output of an engine."""

    name: str
    dtype: type[np.generic]


class UnloadableEngineError(ProviderError):
    """An engine that TensorRT does not take, though by its key it should."""


class TensorrtSession:
    """An engine with its memory. It runs in one thread at a time; others wait.

    ``plan`` is a serialised engine of this device's own cache: TensorRT runs what it holds. Raises
    UnloadableEngineError where TensorRT does not take it, ProviderError where the GPU has no room for it.
    """

    def __init__(self, trt: Any, cudart: Any, plan: bytes, profiles: Sequence[Profile], *, host_code: bool) -> None:
        self.version: str = trt.__version__
        self._profiles = tuple(profiles)
        self._logger = make_logger(trt)
        self._runtime = started(trt, trt.Runtime, self._logger)
        # A version-compatible engine brings the runtime of its version along, as code for the processor.
        self._runtime.engine_host_code_allowed = host_code
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise UnloadableEngineError(
                f"TensorRT {trt.__version__} does not load the engine ({last_error(self._logger)})"
            )
        self._engine = engine
        if engine.num_optimization_profiles != len(self._profiles):
            raise UnloadableEngineError(
                f"the engine has {engine.num_optimization_profiles} profiles, not {len(self._profiles)}"
            )
        self._inputs, self._outputs = tensors_of(trt, engine)
        self._context = engine.create_execution_context()
        if self._context is None:
            raise ProviderError(f"the engine does not fit into the GPU's memory ({last_error(self._logger)})")
        cuda = Cuda(cudart)
        self._stream = Stream(cuda, cudart)
        self._buffers = {each.name: Buffer(cuda, cudart) for each in (*self._inputs, *self._outputs)}
        self._active = -1
        self._turn = threading.Lock()
        # Sessions are dropped, not closed, as onnxruntime's are; the end of the process frees everything anyway.
        self._release = weakref.finalize(self, release, tuple(self._buffers.values()), self._stream)
        self._release.atexit = False

    def get_inputs(self) -> list[Tensor]:
        """Return the inputs, as onnxruntime's sessions do."""
        return list(self._inputs)

    def get_outputs(self) -> list[Tensor]:
        """Return the outputs, as onnxruntime's sessions do."""
        return list(self._outputs)

    def get_providers(self) -> list[str]:
        """Return what runs the model."""
        return [f"TensorRT {self.version}"]

    def run(self, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]], options: Any = None) -> list[NDArray[Any]]:
        """Run the engine and return the arrays of ``outputs``.

        A batch that no profile takes goes image by image. ``options`` are onnxruntime's: ``terminate`` ends such a
        series between two images; what the GPU has begun cannot be ended. Raises EngineError for a run that fails.
        """
        with self._turn:
            parts = []
            for piece in self._pieces(dict(feeds)):
                if options is not None and options.terminate:
                    raise EngineError("the run was terminated")
                parts.append(self._run(piece))
        return [
            parts[0][name] if len(parts) == 1 else np.concatenate([part[name] for part in parts]) for name in outputs
        ]

    def _pieces(self, feeds: Arrays) -> list[Arrays]:
        """Split a batch into the largest parts that a profile takes, along the images."""
        images, points = count(feeds, IMAGES), count(feeds, POINTS)
        most = max((each.images[2] for each in self._profiles if each.fits(each.images[2], points)), default=0)
        if not most:
            raise EngineError(f"the engine takes no {points} sample points at once; give a smaller chunk")
        if any(each.fits(images, points) for each in self._profiles):
            return [feeds]
        starts = range(0, images, most)
        return [{name: part(name, array, start, most) for name, array in feeds.items()} for start in starts]

    def _run(self, feeds: Arrays) -> Arrays:
        """Run one batch that a profile takes."""
        self._choose(count(feeds, IMAGES), count(feeds, POINTS))
        context, stream = self._context, self._stream
        held = {each.name: np.ascontiguousarray(feeds[each.name], each.dtype) for each in self._inputs}
        for name, array in held.items():
            if not context.set_input_shape(name, array.shape):
                raise EngineError(
                    f"the engine refuses {name} of shape {list(array.shape)} ({last_error(self._logger)})"
                )
            stream.upload(self._buffers[name], array)
            context.set_tensor_address(name, self._buffers[name].address)
        self._infer_shapes()
        found = {each.name: np.empty(self._shape(each.name), each.dtype) for each in self._outputs}
        for name, array in found.items():
            context.set_tensor_address(name, self._buffers[name].reserve(array.nbytes))
        if not context.execute_async_v3(stream.handle):
            raise EngineError(f"the engine does not run ({last_error(self._logger)})")
        for name, array in found.items():
            stream.download(self._buffers[name], array)
        stream.wait()
        return found

    def _choose(self, images: int, points: int) -> None:
        """Switch to the first profile that takes the sizes."""
        index = next(number for number, each in enumerate(self._profiles) if each.fits(images, points))
        if index == self._active:
            return
        if not self._context.set_optimization_profile_async(index, self._stream.handle):
            raise EngineError(f"the engine does not switch to profile {index} ({last_error(self._logger)})")
        self._stream.wait()
        self._active = index

    def _infer_shapes(self) -> None:
        try:
            missing = self._context.infer_shapes()
        except RuntimeError as error:
            raise EngineError(f"the engine cannot tell its outputs' shapes: {first_line(error)}") from None
        if missing:
            raise EngineError(f"the engine misses {', '.join(missing)}; export the bundle again")

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = tuple(self._context.get_tensor_shape(name))
        if any(length < 0 for length in shape):
            raise EngineError(f"the engine cannot tell the shape of {name}: {list(shape)}; export the bundle again")
        return shape

    def close(self) -> None:
        """Give the device's memory back; the session cannot run any more."""
        self._release()


def release(buffers: Sequence[Buffer], stream: Stream) -> None:
    for buffer in buffers:
        buffer.close()
    stream.close()


def tensors_of(trt: Any, engine: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return an engine's inputs and outputs; raises ProviderError for types that no bundle has."""
    # FP16 and INT8 graphs have float32 edges.
    dtypes: dict[Any, type[np.generic]] = {trt.DataType.FLOAT: np.float32, trt.DataType.INT64: np.int64}
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        kind = engine.get_tensor_dtype(name)
        if kind not in dtypes:
            raise ProviderError(f"tensor {name!r} of the engine is {kind}, which no bundle has; use provider cuda")
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        (inputs if is_input else outputs).append(Tensor(name, dtypes[kind]))
    return tuple(inputs), tuple(outputs)


def count(feeds: Mapping[str, NDArray[Any]], axis: str) -> int:
    """Return how many images, or sample points, a run has; 1 where its model knows none."""
    return next((len(array) for name, array in feeds.items() if FIRST_AXIS.get(name) == axis), 1)


def part(name: str, array: NDArray[Any], start: int, most: int) -> NDArray[Any]:
    """Return the part of an input that belongs to at most ``most`` images from ``start`` on."""
    return array[start : start + most] if FIRST_AXIS[name] == IMAGES else array
