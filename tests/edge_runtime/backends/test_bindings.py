"""The record is what NVIDIA's wheels offer, and the code uses nothing beyond it: neither in 10.3 nor in 11.4."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.edge_runtime.backends import bindings
from tests.edge_runtime.backends.bindings import CUDA, TENSORRT
from tests.edge_runtime.backends.standin import parameters

REPOSITORY = Path(__file__).resolve().parents[3]
BACKENDS = REPOSITORY / "edge_runtime" / "backends"

# How the code calls an object of each class, as a variable or as an attribute of self; "" is the package itself.
ROLES = {
    "trt": "",
    "builder": "Builder",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "_context": "IExecutionContext",
    "engine": "ICudaEngine",
    "first": "ParserError",
    "left": "ITimingCache",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "_runtime": "Runtime",
    "shapes": "IOptimizationProfile",
    "tensor": "ITensor",
}
USERS = ("tensorrt_api.py", "tensorrt_build.py", "tensorrt.py")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Folders with the real wheels; needs the package index and a C compiler."""
    if bindings.compiler() is None:
        pytest.skip("no C compiler for the libraries that TensorRT's bindings want to find")
    found = {}
    for version, wheel in TENSORRT.items():
        found[version] = tmp_path_factory.mktemp(f"tensorrt-{version}")
        problem = bindings.install(wheel, found[version])
        if problem:
            pytest.skip(problem)
        bindings.write_libraries(found[version] / "libraries", wheel.soname)
    yield found


@pytest.mark.parametrize("version", TENSORRT)
def test_the_record_is_what_the_wheel_offers(wheels: dict[str, Path], version: str) -> None:
    assert bindings.record_tensorrt(TENSORRT[version], wheels[version]) == TENSORRT[version].recorded()


@pytest.mark.parametrize("version", CUDA)
def test_the_record_of_cuda_is_what_the_wheel_offers(tmp_path: Path, version: str) -> None:
    problem = bindings.install(CUDA[version], tmp_path)
    if problem:
        pytest.skip(problem)
    assert bindings.record_cuda(tmp_path) == CUDA[version].recorded()


REAL = """
import sys
sys.path.append(sys.argv[1])
from edge_runtime.backends import tensorrt_api
tensorrt_api.MODULE = "tensorrt_bindings"
from edge_runtime.backends.keys import BuildOptions, Profile
from edge_runtime.backends.tensorrt import TensorrtSession
from edge_runtime.backends.tensorrt_build import Recipe, build_engine
from edge_runtime.errors import ProviderError
from edge_runtime.manifest import InputSpec
trt = tensorrt_api.import_tensorrt()
logger = tensorrt_api.make_logger(trt)
logger.log(trt.ILogger.Severity.WARNING, "warning")
logger.log(trt.ILogger.Severity.ERROR, "first line\\nsecond line")
print(trt.__version__, tensorrt_api.version_of(trt), tensorrt_api.last_error(logger))
spec = InputSpec(height=8, width=8, mean=(0, 0, 0), std=(1, 1, 1))
recipe = Recipe(b"", "classifier.onnx", spec, (Profile(images=(1, 1, 1)),), BuildOptions())
for attempt in (lambda: build_engine(trt, recipe), lambda: TensorrtSession(trt, None, b"", (), host_code=False)):
    try:
        attempt()
    except ProviderError as error:
        print(error)
"""


@pytest.mark.parametrize("version", TENSORRT)
def test_the_real_bindings_without_a_library_behind_them(wheels: dict[str, Path], version: str) -> None:
    """Import, version and logger are real here; builder and runtime do not start, and say so."""
    first, *others = bindings.run(REAL, wheels[version], str(REPOSITORY)).splitlines()
    full = TENSORRT[version].recorded()["version"]
    assert first == f"{full} ({version.replace('.', ', ')}) first line second line"
    reason = "pybind11::init(): factory function returned nullptr"
    assert others == [f"TensorRT {full} does not start ({reason}); check driver and GPU"] * 2


# ---- the code stays within the record -------------------------------------------------------------------------------


def role(node: ast.expr) -> str | None:
    """Return the class that an expression is called by, None where it is none of TensorRT's."""
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return ROLES.get(name)


def uses(tree: ast.AST) -> Iterator[tuple[str, str, ast.Call | None]]:
    """Yield class, dotted name, and the call where it is one, of everything that the code takes from TensorRT."""
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or id(node) in inner:
            continue
        path, base = [node.attr], node.value
        while role(base) is None and isinstance(base, ast.Attribute):
            path.insert(0, base.attr)
            base = base.value
        found = role(base)
        if found is not None:
            yield found, ".".join(path), calls.get(id(node))


def trees() -> Iterator[tuple[str, ast.Module]]:
    for name in USERS:
        yield name, ast.parse((BACKENDS / name).read_text(encoding="utf-8"))


def problem(record: dict[str, Any], owner: str, path: str, call: ast.Call | None) -> str | None:
    """Return why the bindings would refuse a use, or None."""
    if owner:
        described = record["classes"][owner]
        name, _, rest = path.partition(".")
        if rest or not (name in described["methods"] or name in described["properties"]):
            return f"{owner} has no {path}"
        if name in described["properties"]:
            return None if call is None else f"{owner}.{name} is no method"
        return unbound(call, described["methods"][name], f"{owner}.{name}")
    name, _, rest = path.partition(".")
    if name == "__version__":
        return None
    if name in record["classes"] and rest:
        severity, _, member = rest.partition(".")
        enum = record["enums"].get(f"{name}.{severity}")
        if enum is not None:
            return None if not member or member in enum else f"{path} does not exist"
        return unbound(call, record["classes"][name]["methods"].get(rest, []), path, bound=False)
    if name in record["enums"]:
        return None if not rest or rest in record["enums"][name] else f"{name} has no member {rest}"
    return None if name in record["classes"] and name in record["names"] else f"the package has no {path}"


def unbound(call: ast.Call | None, overloads: list[str], where: str, *, bound: bool = True) -> str | None:
    """Return why no overload takes a call's arguments, or None; a method that is only named is fine."""
    if call is None:
        return None if overloads else f"{where} does not exist"
    count = len(call.args) - (0 if bound else 1)
    given = {keyword.arg for keyword in call.keywords}
    for signature in overloads:
        wanted = parameters(signature)
        names = [each.name for each in wanted]
        missing = {each.name for each in wanted[count:] if not each.optional} - given
        if count <= len(names) and given <= set(names[count:]) and not missing:
            return None
    return f"{where} does not take {count} arguments and {sorted(map(str, given))}"


@pytest.mark.parametrize("version", TENSORRT)
def test_the_code_uses_only_what_is_recorded(version: str) -> None:
    record = TENSORRT[version].recorded()
    found = [(name, use) for name, tree in trees() for use in uses(tree)]
    assert [f"{name}: {said}" for name, use in found if (said := problem(record, *use))] == []
    # The walk does find what the code is known to use; a role that nobody plays is out of date.
    assert {("IExecutionContext", "execute_async_v3"), ("", "BuilderFlag.TF32")} <= {use[:2] for _, use in found}
    assert {use[0] for _, use in found} == set(ROLES.values())


def test_the_walk_finds_what_would_be_refused() -> None:
    record = TENSORRT["11.4"].recorded()
    lines = {
        "config.set_flag(trt.BuilderFlag.FP16)": "BuilderFlag has no member FP16",
        "builder.build_engine(network, config)": "Builder has no build_engine",
        "context.execute_async_v2(bindings, stream)": "IExecutionContext has no execute_async_v2",
        "config.set_timing_cache(cache, ignore=True)": "IBuilderConfig.set_timing_cache does not take",
        "self._context.set_tensor_address(name)": "IExecutionContext.set_tensor_address does not take 1",
        "trt.IInt8Calibrator": "the package has no IInt8Calibrator",
        "trt.ILogger.Severity.FATAL": "ILogger.Severity.FATAL does not exist",
        "engine.num_io_tensors()": "ICudaEngine.num_io_tensors is no method",
    }
    for line, expected in lines.items():
        said = [each for use in uses(ast.parse(line)) if (each := problem(record, *use))]
        assert any(each.startswith(expected) for each in said), (line, said)


def test_nobody_else_imports_tensorrt_or_cuda() -> None:
    """Objects of the two packages reach no other module than those that the walk reads, but for passing them on."""
    for path in sorted((REPOSITORY / "edge_runtime").rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        imported = {name.partition(".")[0] for name in imported}
        assert not imported & {"tensorrt", "tensorrt_bindings", "cuda", "cupy"}, path
    opening = ast.parse((BACKENDS / "opening.py").read_text(encoding="utf-8"))
    assert {use[:2] for use in uses(opening) if use[0] != "Runtime"} == {("", "__version__")}


def test_the_code_uses_only_what_cuda_bindings_have() -> None:
    """Functions are called as ``call(cudart.function, arguments)``."""
    tree = ast.parse((BACKENDS / "cuda.py").read_text(encoding="utf-8"))
    used: set[str] = set()
    for wheel in CUDA.values():
        record = wheel.recorded()
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr.startswith("cuda") and isinstance(node.ctx, ast.Load):
                used.add(node.attr)
                enum_members = {member for members in record["enums"].values() for member in members}
                assert node.attr in {*record["functions"], *record["enums"], *enum_members}, node.attr
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("cudaMemcpy"):
                assert node.value in record["enums"]["cudaMemcpyKind"]
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "call":
                function = node.args[0]
                assert isinstance(function, ast.Attribute)
                count = len(node.args) - 1
                assert any(len(parameters(each)) == count for each in record["functions"][function.attr])
        assert {"major", "minor", "name", "multiProcessorCount"} <= set(record["properties"])
        assert set(record["functions"]) <= used, "recorded, but no longer used"


def test_this_machines_cuda_bindings_tell_that_there_is_no_gpu() -> None:
    """The real bindings import without a driver; where there is one, they name the GPU."""
    pytest.importorskip("cuda.bindings.runtime", reason="cuda.bindings is not installed")
    from edge_runtime.backends.cuda import Cuda, import_cuda
    from edge_runtime.errors import ProviderError

    try:
        gpu = Cuda(import_cuda()).gpu()
    except ProviderError as error:
        assert "no CUDA device (cudaGetDevice" in str(error) and "\n" not in str(error)
    else:
        assert gpu.name and "." in gpu.capability and gpu.multiprocessors > 0
    assert "cuda" in sys.modules
