"""Will the device build engines of this bundle? Asked on the desktop, where the graphs can be read.

Engines are built where they run (``edge_runtime.backends``), which needs neither onnx nor this module. What can be
known before is whether each version of TensorRT takes every node, and whether the graphs' inputs have the shapes that
the engines' profiles give them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from edge_runtime.backends.keys import Profile
from edge_runtime.backends.opening import profiles_of
from edge_runtime.backends.profiles import PROFILES, input_shapes
from edge_runtime.bundle import Bundle, precision_file
from edge_runtime.errors import BundleError, RoadworthyError
from edge_runtime.manifest import InputSpec
from export.tensorrt_support import Finding, check


@dataclass(frozen=True)
class FileReport:
    """What speaks against building an engine of the bundle's file ``file``."""

    file: str
    findings: tuple[Finding, ...]
    shapes: tuple[str, ...]

    @property
    def refused(self) -> bool:
        """Whether a version of TensorRT that was asked about would not build it."""
        return bool(self.shapes) or any(finding.severity == "error" for finding in self.findings)


def check_bundle(bundle: Bundle, version: str | None = None) -> list[FileReport]:
    """Return a report of every graph of ``bundle``, in every precision, on TensorRT ``version`` (None: all known).

    Raises InputError for a version that the tables do not know, BundleError for a file that is no model.
    """
    return [check_file(bundle, file, version) for file in graphs_of(bundle)]


def graphs_of(bundle: Bundle) -> Iterator[str]:
    """Yield the names of the bundle's graphs."""
    for precision in bundle.precisions:
        for file in PROFILES:
            if bundle.has(name := precision_file(file, precision)):
                yield name


def check_file(bundle: Bundle, file: str, version: str | None) -> FileReport:
    try:
        model = onnx.load_model_from_string(bundle.read(file))
    except RoadworthyError:
        raise
    except Exception as error:  # protobuf's own, of no common type
        raise BundleError(f"{file} is not an ONNX model ({error}); export the bundle again") from None
    profiles = profiles_of(bundle, file)
    return FileReport(file, tuple(check(model, version)), tuple(shape_problems(model, profiles, bundle.manifest.input)))


def shape_problems(model: onnx.ModelProto, profiles: tuple[Profile, ...], spec: InputSpec) -> list[str]:
    """Return where an input of ``model`` does not take the shapes of a profile."""
    stored = {tensor.name for tensor in model.graph.initializer}
    problems = []
    for value in model.graph.input:
        if value.name in stored:
            continue
        declared = [each.dim_value if each.HasField("dim_value") else None for each in value.type.tensor_type.shape.dim]
        shapes = {shape for profile in profiles for shape in input_shapes(value.name, profile, spec)}
        for shape in sorted(shapes):
            if len(shape) != len(declared) or any(d not in (None, s) for d, s in zip(declared, shape, strict=True)):
                axes = ["any" if axis is None else axis for axis in declared]
                problems.append(f"input {value.name!r} is declared {axes} and cannot be {list(shape)}")
    return problems
