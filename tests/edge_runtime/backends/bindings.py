"""What NVIDIA's bindings offer, recorded: ``python -m tests.edge_runtime.backends.bindings`` writes it anew.

TensorRT's binding wheels import without its native libraries as long as libraries of the right names are there, so ten
functions in C that return null stand in for those. Every class of CLASSES is recorded whole: methods with their
arguments, properties, enum members. Signatures are read from pybind11's docstrings and, for cuda.bindings, from Cython.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RECORDED = HERE / "recorded"

LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
ENTRY_POINTS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getBuilderPluginRegistry"),
    *("getPluginRegistry", "getNvOnnxParserVersion", "initLibNvInferPlugins", "getInferLibVersion"),
)


@dataclass(frozen=True)
class Wheel:
    """A binding wheel as pip names it, the version of its libraries' names, and where its record lies."""

    requirement: str
    soname: str
    record: Path

    def recorded(self) -> dict[str, Any]:
        """Return the committed record."""
        found: dict[str, Any] = json.loads(self.record.read_text(encoding="utf-8"))
        return found


TENSORRT = {
    "10.3": Wheel("tensorrt-cu12-bindings==10.3.0", "10", RECORDED / "tensorrt-10.3.json"),
    "11.4": Wheel("tensorrt-cu13-bindings==11.4.0.106", "11", RECORDED / "tensorrt-11.4.json"),
}
CUDA = {
    "12": Wheel("cuda-bindings==12.9.10", "", RECORDED / "cuda-12.json"),
    "13": Wheel("cuda-bindings==13.5.0", "", RECORDED / "cuda-13.json"),
}

TENSORRT_SCRIPT = '''
import ctypes, enum, inspect, json, re
import tensorrt_bindings as trt

CLASSES = """Builder IBuilderConfig ICudaEngine IExecutionContext IHostMemory ILogger INetworkDefinition
IOptimizationProfile ITensor ITimingCache OnnxParser ParserError Runtime""".split()
ENUMS = """BuilderFlag DataType HardwareCompatibilityLevel ILogger.Severity MemoryPoolType NetworkDefinitionCreationFlag
TensorIOMode""".split()

def split(arguments):
    depth, part = 0, ""
    for character in arguments:
        depth += (character in "[(<{") - (character in "])>}")
        if character == "," and not depth:
            yield part.strip()
            part = ""
        else:
            part += character
    if part.strip():
        yield part.strip()

TYPES = {"typing.SupportsInt": "int", "typing.SupportsFloat": "float", "typing_extensions.Buffer": "buffer"}

def one(argument):
    "name: type, with = at the end where it has a default."
    name, _, rest = argument.partition(":")
    kind, equals, _ = rest.partition(" = ")
    kind = TYPES.get(kind.strip(), kind.strip()).replace("tensorrt_bindings.tensorrt.", "")
    return f"{name.strip()}: {kind}{' =' if equals else ''}"

def overloads(name, function):
    found = []
    for line in (function.__doc__ or "").splitlines():
        match = re.fullmatch(r"(?:\\d+\\. )?" + name + r"\\((.*)\\) -> .*", line.strip())
        if match and match[1] != "*args, **kwargs":
            found.append(", ".join(one(part) for part in split(match[1]) if not part.startswith("self")))
    return found

def described(kind):
    methods, properties = {}, {}
    for name, member in inspect.getmembers(kind):
        if isinstance(member, property):
            properties[name] = "rw" if member.fset else "r"
        elif callable(member) and (not name.startswith("_") or name == "__init__"):
            methods[name] = overloads(name, member)
    empty = kind.__new__(kind)
    return {
        "methods": {name: value for name, value in methods.items() if value},
        "properties": properties,
        "buffer": bool(ctypes.pythonapi.PyObject_CheckBuffer(ctypes.py_object(empty))),
    }

def looked_up(path):
    found = trt
    for name in path.split("."):
        found = getattr(found, name)
    return found

print(json.dumps({
    "version": trt.__version__,
    "names": sorted(name for name in dir(trt) if not name.startswith("_")),
    "classes": {name: described(getattr(trt, name)) for name in CLASSES},
    "enums": {name: {key: int(value) for key, value in looked_up(name).__members__.items()} for name in ENUMS},
}))
'''

CUDA_SCRIPT = """
import inspect, json
import cuda.bindings
from cuda.bindings import runtime

FUNCTIONS = '''cudaFree cudaGetDevice cudaGetDeviceProperties cudaGetErrorString cudaMalloc cudaMemcpyAsync
cudaStreamCreate cudaStreamDestroy cudaStreamSynchronize'''.split()
ENUMS = ["cudaError_t", "cudaMemcpyKind"]

def arguments(function):
    found = inspect.signature(function).parameters.values()
    return [", ".join(f"{p.name}: object{' =' if p.default is not p.empty else ''}" for p in found)]

print(json.dumps({
    "version": cuda.bindings.__version__,
    "functions": {name: arguments(getattr(runtime, name)) for name in FUNCTIONS},
    "properties": sorted(name for name in dir(runtime.cudaDeviceProp) if not name.startswith("_")),
    "enums": {name: {m.name: int(m.value) for m in getattr(runtime, name)} for name in ENUMS},
}))
"""


def install(wheel: Wheel, folder: Path) -> str | None:
    """Install the wheel alone into ``folder``; returns None, or why pip could not."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--no-input"]
    command += ["--disable-pip-version-check", "--retries", "1", "--timeout", "15", "--only-binary", ":all:"]
    try:
        done = subprocess.run(
            [*command, "--target", str(folder), wheel.requirement],
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"pip did not get {wheel.requirement} within 180 s"
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return f"pip cannot get {wheel.requirement} here: {last}" if done.returncode else None


def compiler() -> str | None:
    """Return the C compiler, None where there is none."""
    return shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc")


def write_libraries(folder: Path, soname: str) -> None:
    """Compile libraries whose entry points return null."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "null.c"
    source.write_text("\n".join(f"void *{name}(void) {{ return 0; }}" for name in ENTRY_POINTS) + "\n")
    for library in LIBRARIES:
        name = f"lib{library}.so.{soname}"
        command = [compiler() or "cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source)]
        subprocess.run(command, check=True, capture_output=True, timeout=120)


def environment(folder: Path) -> dict[str, str]:
    """Return the environment in which the wheels of ``folder`` are imported, and its libraries found."""
    return {**os.environ, "PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(folder / "libraries")}


def run(script: str, folder: Path, *arguments: str) -> str:
    """Run ``script`` in a process of its own, because two versions of the bindings exclude each other."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment(folder),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def record_tensorrt(wheel: Wheel, folder: Path) -> dict[str, Any]:
    """Describe the wheel that lies in ``folder``."""
    write_libraries(folder / "libraries", wheel.soname)
    found: dict[str, Any] = json.loads(run(TENSORRT_SCRIPT, folder))
    return found


def record_cuda(folder: Path) -> dict[str, Any]:
    """Describe the wheel that lies in ``folder``."""
    found: dict[str, Any] = json.loads(run(CUDA_SCRIPT, folder))
    return found


def main() -> None:
    """Write every record."""
    import tempfile

    for wheel in (*TENSORRT.values(), *CUDA.values()):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            problem = install(wheel, folder)
            if problem:
                raise SystemExit(problem)
            found = record_tensorrt(wheel, folder) if wheel.soname else record_cuda(folder)
        wheel.record.parent.mkdir(exist_ok=True)
        wheel.record.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        print(f"{wheel.record.name}: {found['version']}")


if __name__ == "__main__":
    main()
