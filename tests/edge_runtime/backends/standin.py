"""TensorRT and CUDA as far as NVIDIA's recorded bindings go, with an engine that onnxruntime's CPU provider computes.

Every class has exactly the methods, arguments, argument types, properties and enum members of its record: what the
real bindings of that version would refuse, this refuses. Behind them stand small classes (``Does*``) that do what
NVIDIA documents, as far as the runtime needs it. Device memory is host memory at addresses that only this module knows.
"""

from __future__ import annotations

import ctypes
import enum
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from tests.edge_runtime.backends.bindings import CUDA, TENSORRT

MAGIC = b"stand-in engine of "


class Parameter:
    """One argument of a recorded signature: ``name: type`` and `` =`` where it has a default."""

    def __init__(self, text: str) -> None:
        self.optional = text.endswith(" =")
        self.name, _, self.type = text.removesuffix(" =").partition(": ")


def parameters(signature: str) -> list[Parameter]:
    return [Parameter(part) for part in signature.split(", ")] if signature else []


def bind(where: str, overloads: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments by name, as the first overload that takes them has it; raises TypeError like pybind11."""
    for signature in overloads:
        wanted = parameters(signature)
        if len(args) > len(wanted):
            continue
        given = dict(zip((each.name for each in wanted), args, strict=False))
        if set(given) & set(kwargs) or not set(kwargs) <= {each.name for each in wanted}:
            continue
        given |= kwargs
        missing = [each.name for each in wanted if each.name not in given and not each.optional]
        if not missing and all(fits(given[each.name], each.type) for each in wanted if each.name in given):
            return given
    raise TypeError(f"{where}(): incompatible function arguments {args} {kwargs}; supported: {overloads}")


def fits(value: Any, kind: str) -> bool:
    """Say whether pybind11 would convert ``value`` to the recorded type."""
    plain: dict[str, Any] = {
        "int": lambda: isinstance(value, int) and not isinstance(value, bool),
        "bool": lambda: isinstance(value, bool),
        "str": lambda: isinstance(value, str),
        "tuple": lambda: isinstance(value, tuple) and all(type(each) is int for each in value),
        "list": lambda: isinstance(value, list),
        "Dims": lambda: isinstance(value, tuple | list) and all(type(each) is int for each in value),
        "buffer": lambda: isinstance(value, bytes | bytearray | memoryview),
        "object": lambda: True,
    }
    if kind in plain:
        return bool(plain[kind]())
    names = {base.__qualname__ for base in type(value).__mro__}
    return kind in names


class Strict:
    """Base of the recorded classes: no attribute beyond the record."""

    record: dict[str, Any]
    does: type | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        overloads = self.record["methods"].get("__init__")
        if overloads is None:
            raise TypeError(f"{type(self).__name__}: No constructor defined!")
        self._begin(**bind(f"{type(self).__name__}.__init__", overloads, args, kwargs))

    def _begin(self, **arguments: Any) -> None:
        object.__setattr__(self, "_it", self.does(self, **arguments) if self.does else None)

    def __getattr__(self, name: str) -> Any:
        if name not in self.record["properties"]:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(object.__getattribute__(self, "_it"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if "record" not in vars(type(self)):  # a subclass in Python has a dictionary of its own
            object.__setattr__(self, name, value)
            return
        if self.record["properties"].get(name) != "rw":
            raise AttributeError(f"can't set attribute {name!r} of {type(self).__name__!r}")
        setattr(object.__getattribute__(self, "_it"), name, value)


def method(name: str, overloads: list[str]) -> Any:
    def call(self: Strict, *args: Any, **kwargs: Any) -> Any:
        arguments = bind(f"{type(self).__name__}.{name}", overloads, args, kwargs)
        it = object.__getattribute__(self, "_it")
        if not hasattr(it, name):
            raise NotImplementedError(f"the stand-in has no {type(self).__name__}.{name}; write it from the manual")
        return getattr(it, name)(**arguments)

    call.__name__ = name
    return call


@dataclass
class Faults:
    """What goes wrong in a stand-in, by the name of the call; ``logged`` is what TensorRT says of it."""

    calls: set[str] = field(default_factory=set)
    logged: str = "[stand-in] it does not work"
    counts: dict[str, int] = field(default_factory=dict)

    def happens(self, call: str, logger: Any = None) -> bool:
        self.counts[call] = self.counts.get(call, 0) + 1
        if call in self.calls and logger is not None:
            logger.log(logger.Severity.WARNING, "only a warning")
            logger.log(logger.Severity.ERROR, self.logged + "\nand more")
        return call in self.calls


class Module:
    """A stand-in of the package; ``faults`` makes it fail, ``memory`` is that of the device (see :class:`Cudart`)."""

    def __init__(self, version: str, memory: Cudart, faults: Faults | None = None) -> None:
        record = TENSORRT[version].recorded()
        self.__version__ = record["version"]
        self.faults = faults or Faults()
        self.memory = memory
        self._enums = {name: enum.IntEnum(name, members) for name, members in record["enums"].items()}  # type: ignore[misc]
        for name, found in self._enums.items():
            if "." not in name:
                setattr(self, name, found)
        for name, described in record["classes"].items():
            setattr(self, name, self._made(name, described))

    def _made(self, name: str, described: dict[str, Any]) -> type:
        does = globals().get(f"Does{name}")
        offered = {*described["methods"], *described["properties"], "module", "me"}
        if does is not None:
            own = {key for key in vars(does) if not key.startswith("_")}
            assert own <= offered, f"the bindings {self.__version__} have no {name}.{own - offered}"
        members: dict[str, Any] = {
            key: method(key, value) for key, value in described["methods"].items() if key != "__init__"
        }
        if described["buffer"]:
            members["__bytes__"] = _bytes
        severity = {"Severity": self._enums["ILogger.Severity"]} if name == "ILogger" else {}
        bound = None if does is None else type(name, (does,), {"module": self})
        return type(name, (Strict,), {"record": described, "does": bound, **members, **severity})

    def new(self, name: str, /, **arguments: Any) -> Any:
        """Make an object that has no constructor in Python."""
        kind = getattr(self, name)
        found = kind.__new__(kind)
        found._begin(**arguments)
        return found


# What pybind11 gives to some classes beyond names: the buffer protocol.
def _bytes(self: Any) -> bytes:
    return bytes(object.__getattribute__(self, "_it")._data)


class Does:
    """Base of what stands behind a recorded class: ``module`` is the stand-in, ``me`` the object that Python sees."""

    module: Module

    def __init__(self, me: Any) -> None:
        self.me = me


class DoesILogger(Does):
    def log(self, severity: Any, msg: str) -> None:
        raise AssertionError("the subclass overrides this")


class DoesIHostMemory(Does):
    def __init__(self, me: Any, data: bytes) -> None:
        super().__init__(me)
        self._data = data
        self.nbytes = len(data)


class DoesBuilder(Does):
    def __init__(self, me: Any, logger: Any) -> None:
        super().__init__(me)
        self._logger = logger
        if self.module.faults.happens("Builder"):
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags: int = 0) -> Any:
        wanted = 1 << int(self.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        assert flags == wanted, f"flags {flags} do not make a strongly typed network in {self.module.__version__}"
        return self.module.new("INetworkDefinition")

    def create_builder_config(self) -> Any:
        return self.module.new("IBuilderConfig")

    def create_optimization_profile(self) -> Any:
        return self.module.new("IOptimizationProfile")

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        network, config = network._it, config._it
        if self.module.faults.happens("build_serialized_network", self._logger):
            return None
        assert config._profiles and config._timing is not None
        described = {
            "profiles": config._profiles,
            "flags": sorted(flag.name for flag in config._raised),
            "hardware": config.hardware_compatibility_level.name,
            "level": config.builder_optimization_level,
            "workspace": config._workspace,
        }
        version = self.module.__version__.encode()
        timing = config._timing._it
        timing._data = (timing._data or version) + b"+"
        plan = b"\n".join([MAGIC + version, json.dumps(described).encode(), network._model])
        return self.module.new("IHostMemory", data=plan)


class DoesINetworkDefinition(Does):
    def __init__(self, me: Any) -> None:
        super().__init__(me)
        self._model = b""
        self._inputs: list[Any] = []

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    def get_input(self, index: int) -> Any:
        return self._inputs[index]


class DoesITensor(Does):
    def __init__(self, me: Any, name: str) -> None:
        super().__init__(me)
        self.name = name


class DoesOnnxParser(Does):
    def __init__(self, me: Any, network: Any, logger: Any) -> None:
        super().__init__(me)
        self._network, self._logger = network._it, logger
        self._errors: list[str] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def parse(self, model: bytes, path: str | None = None) -> bool:
        if self.module.faults.happens("parse without error", self._logger):
            return False
        try:
            graph = onnx.load_model_from_string(model).graph
            onnx.checker.check_model(model)
        except Exception as error:
            self._errors.append(f"Failed to parse:\n{error}")
            return False
        stored = {tensor.name for tensor in graph.initializer}
        self._network._model = model
        self._network._inputs = [
            self.module.new("ITensor", name=value.name) for value in graph.input if value.name not in stored
        ]
        return True

    def get_error(self, index: int) -> Any:
        return self.module.new("ParserError", text=self._errors[index])


class DoesParserError(Does):
    def __init__(self, me: Any, text: str) -> None:
        super().__init__(me)
        self._text = text

    def desc(self) -> str:
        return self._text


class DoesIOptimizationProfile(Does):
    def __init__(self, me: Any) -> None:
        super().__init__(me)
        self._shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        ascending = all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True))
        if not ascending or self.module.faults.happens("set_shape"):
            raise ValueError(f"{input} is inconsistent")
        self._shapes[input] = [list(min), list(opt), list(max)]


class DoesITimingCache(Does):
    def __init__(self, me: Any, data: bytes) -> None:
        super().__init__(me)
        self._data = data

    def serialize(self) -> Any:
        return self.module.new("IHostMemory", data=self._data)


class DoesIBuilderConfig(Does):
    def __init__(self, me: Any) -> None:
        super().__init__(me)
        self.builder_optimization_level = 3
        self.hardware_compatibility_level = self.module.HardwareCompatibilityLevel.NONE
        self._profiles: list[Any] = []
        self._raised = {self.module.BuilderFlag.TF32}
        self._timing: Any = None
        self._workspace = 0

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        assert pool == self.module.MemoryPoolType.WORKSPACE
        self._workspace = pool_size

    def set_flag(self, flag: Any) -> None:
        self._raised.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self._raised.discard(flag)

    def add_optimization_profile(self, profile: Any) -> int:
        if self.module.faults.happens("add_optimization_profile"):
            return -1
        self._profiles.append(profile._it._shapes)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        return self.module.new("ITimingCache", data=bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        data = cache._it._data
        if data and not data.startswith(self.module.__version__.encode()) and not ignore_mismatch:
            return False
        self._timing = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._timing


class DoesRuntime(Does):
    def __init__(self, me: Any, logger: Any) -> None:
        super().__init__(me)
        self._logger = logger
        self.engine_host_code_allowed = False
        if self.module.faults.happens("Runtime"):
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        first, _, rest = bytes(serialized_engine).partition(b"\n")
        if self.module.faults.happens("deserialize_cuda_engine", self._logger) or not first.startswith(MAGIC):
            return None
        described, _, model = rest.partition(b"\n")
        found = json.loads(described)
        same = first == MAGIC + self.module.__version__.encode()
        if not same and not ("VERSION_COMPATIBLE" in found["flags"] and self.engine_host_code_allowed):
            self._logger.log(self._logger.Severity.ERROR, "the engine is of another version")
            return None
        return self.module.new("ICudaEngine", model=model, profiles=found["profiles"], logger=self._logger)


class DoesICudaEngine(Does):
    def __init__(self, me: Any, model: bytes, profiles: list[Any], logger: Any) -> None:
        super().__init__(me)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._profiles, self._logger = profiles, logger
        self._inputs = {each.name: each for each in self._session.get_inputs()}
        self._outputs = {each.name: each for each in self._session.get_outputs()}

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    @property
    def num_io_tensors(self) -> int:
        return len(self._inputs) + len(self._outputs)

    def get_tensor_name(self, index: int) -> str:
        return [*self._inputs, *self._outputs][index]

    def get_tensor_mode(self, name: str) -> Any:
        return self.module.TensorIOMode.INPUT if name in self._inputs else self.module.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        kinds = {"tensor(float)": "FLOAT", "tensor(int64)": "INT64", "tensor(float16)": "HALF"}
        return self.module.DataType[kinds[(self._inputs | self._outputs)[name].type]]

    def create_execution_context(self) -> Any:
        if self.module.faults.happens("create_execution_context", self._logger):
            return None
        return self.module.new("IExecutionContext", engine=self)


class DoesIExecutionContext(Does):
    def __init__(self, me: Any, engine: DoesICudaEngine) -> None:
        super().__init__(me)
        self._engine = engine
        self._profile: int | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._results: dict[str, NDArray[Any]] = {}

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.module.memory.known_stream(stream_handle)
        if self.module.faults.happens("set_optimization_profile_async", self._engine._logger):
            return False
        self._profile = profile_index
        self._shapes = {}
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self._profile is not None, "no profile was chosen"
        least, _, most = self._engine._profiles[self._profile][name]
        inside = len(shape) == len(least) and all(a <= s <= b for a, s, b in zip(least, shape, most, strict=True))
        if not inside:
            self._engine._logger.log(self._engine._logger.Severity.ERROR, f"{name} is outside of the profile")
            return False
        self._shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert memory, "a null address"
        self._addresses[name] = memory
        return True

    def infer_shapes(self) -> list[str]:
        if self.module.faults.happens("infer_shapes raises"):
            raise RuntimeError("shapes cannot be inferred")
        missing = [name for name in self._engine._inputs if name not in self._shapes]
        return [*missing, *(["noise"] if self.module.faults.happens("infer_shapes") else [])]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if self.module.faults.happens("get_tensor_shape"):
            return (-1, 5)
        if name in self._shapes:
            return self._shapes[name]
        images, points = self._shapes["image"][0], self._shapes.get("scale", (1,))[0]
        rows = {"logits": images * points}.get(name, images)
        declared = self._engine._outputs[name].shape
        return (rows, *(int(length) for length in declared[1:]))

    def execute_async_v3(self, stream_handle: int) -> bool:
        memory = self.module.memory
        memory.known_stream(stream_handle)
        if self.module.faults.happens("execute_async_v3", self._engine._logger):
            return False
        feeds = {
            name: memory.read(self._addresses[name], self._shapes[name], "int64" if "int64" in each.type else "float32")
            for name, each in self._engine._inputs.items()
        }
        names = list(self._engine._outputs)
        for name, value in zip(names, self._engine._session.run(names, feeds), strict=True):
            assert value.shape == self.get_tensor_shape(name)
            memory.write(self._addresses[name], value)
        return True


class Cudart:
    """A stand-in of ``cuda.bindings.runtime``: functions and arguments of the record, memory of the host."""

    def __init__(self, version: str = "12") -> None:
        record = CUDA[version].recorded()
        self.faults: dict[str, str] = {}
        self.allocated: dict[int, Any] = {}
        self.streams: set[int] = set()
        self.most = 1 << 30
        self.properties = {"name": b"Orin\0\0", "major": 8, "minor": 7, "multiProcessorCount": 16}
        assert set(self.properties) <= set(record["properties"])
        for name, members in record["enums"].items():
            setattr(self, name, enum.IntEnum(name, members))  # type: ignore[misc]
        for name, overloads in record["functions"].items():
            setattr(self, name, self._made(name, overloads))

    def _made(self, name: str, overloads: list[str]) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            arguments = bind(name, overloads, args, kwargs)
            if name in self.faults:
                return (self.cudaError_t[self.faults[name]], None)
            found = getattr(self, f"_{name}")(**arguments)
            return (self.cudaError_t.cudaSuccess,) if found is None else (self.cudaError_t.cudaSuccess, found)

        call.__name__ = name
        return call

    def _cudaGetDevice(self) -> int:  # noqa: N802 - CUDA's names
        return 0

    def _cudaGetDeviceProperties(self, device: int) -> Any:  # noqa: N802
        return type("cudaDeviceProp", (), dict(self.properties))()

    def _cudaGetErrorString(self, error: Any) -> bytes:  # noqa: N802
        return f"stand-in: {error.name}".encode()

    def _cudaStreamCreate(self) -> Any:  # noqa: N802
        handle = 0x5000 + len(self.streams)
        self.streams.add(handle)
        return type("cudaStream_t", (), {"__int__": lambda stream: handle})()

    def _cudaStreamDestroy(self, stream: Any) -> None:  # noqa: N802
        self.streams.remove(int(stream))

    def _cudaStreamSynchronize(self, stream: Any) -> None:  # noqa: N802
        self.known_stream(int(stream))

    def _cudaMalloc(self, size: int) -> int:  # noqa: N802
        assert size > 0
        buffer = ctypes.create_string_buffer(b"\xff" * size, size)
        self.allocated[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def _cudaFree(self, devPtr: int) -> None:  # noqa: N802, N803
        del self.allocated[devPtr]

    def _cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: Any, stream: Any) -> None:  # noqa: N802
        self.known_stream(int(stream))
        device = dst if kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice else src
        assert count <= len(self.allocated[device]), "a copy beyond the end of device memory"
        ctypes.memmove(dst, src, count)

    def known_stream(self, handle: int) -> None:
        assert handle in self.streams, "an unknown stream"

    def read(self, address: int, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """Return a copy of device memory as an array."""
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        assert count <= len(self.allocated[address]), "the engine reads beyond the end of device memory"
        return np.frombuffer(ctypes.string_at(address, count), dtype).reshape(shape)

    def write(self, address: int, array: NDArray[Any]) -> None:
        """Fill device memory."""
        assert array.nbytes <= len(self.allocated[address]), "the engine writes beyond the end of device memory"
        ctypes.memmove(address, np.ascontiguousarray(array).ctypes.data, array.nbytes)
