"""The device runtime: bundle, classifier, explainers, metrics, audits. NumPy and onnxruntime, never torch or onnx.

The public names below load their module on first use, so that ``import edge_runtime`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_runtime.audit import audit_bundle as audit_bundle
    from edge_runtime.benchmark import benchmark_bundles as benchmark_bundles
    from edge_runtime.bundle import Bundle as Bundle
    from edge_runtime.bundle import open_bundle as open_bundle
    from edge_runtime.classifier import Classifier as Classifier
    from edge_runtime.classifier import Prediction as Prediction
    from edge_runtime.errors import RoadworthyError as RoadworthyError
    from edge_runtime.explainer import Explainer as Explainer
    from edge_runtime.explainer import Explanation as Explanation
    from edge_runtime.preprocess import load_image as load_image
    from edge_runtime.preprocess import normalize as normalize
    from edge_runtime.preprocess import resize as resize

# Public name -> the module that holds it. "metrics" is itself a module.
_HOME = {
    "Bundle": "bundle",
    "Classifier": "classifier",
    "Explainer": "explainer",
    "Explanation": "explainer",
    "Prediction": "classifier",
    "RoadworthyError": "errors",
    "audit_bundle": "audit",
    "benchmark_bundles": "benchmark",
    "load_image": "preprocess",
    "metrics": "metrics",
    "normalize": "preprocess",
    "open_bundle": "bundle",
    "resize": "preprocess",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'edge_runtime' has no attribute {name!r}")
    module = importlib.import_module(f"edge_runtime.{_HOME[name]}")
    value = module if name == _HOME[name] else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
