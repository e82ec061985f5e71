"""Running a model at export: onnxruntime's CPU provider, without chatter."""

from __future__ import annotations

import onnx
import onnxruntime

# Errors come as exceptions; logged as well, they would be more than the one line that a user gets.
FATAL_ONLY = 4


def cpu_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Return a session of ``model``; onnxruntime raises its own types where it does not accept it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
