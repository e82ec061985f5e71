"""Running a model at export: onnxruntime's CPU provider, without chatter."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnxruntime

# Errors come as exceptions; logged as well, they would be more than the one line that a user gets.
FATAL_ONLY = 4


def cpu_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Return a session of ``model``; onnxruntime raises its own types where it does not accept it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def expose(model: onnx.ModelProto, tensors: Sequence[str]) -> None:
    """Make ``tensors`` outputs of the graph."""
    present = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in present)
