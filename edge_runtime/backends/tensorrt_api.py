"""TensorRT's Python package: found, its version, and its messages. One code path serves 10.3 and 11.x."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from edge_runtime.errors import ProviderError

MODULE = "tensorrt"
OLDEST = (10, 3)
LONGEST = 200


def import_tensorrt() -> Any:
    """Import TensorRT late; raises ProviderError with a hint where it is missing or too old."""
    try:
        trt = import_module(MODULE)
    except (ImportError, OSError) as error:  # OSError: its native libraries are not there
        raise ProviderError(
            f"the Python package tensorrt cannot be imported ({first_line(error)}); JetPack brings it, elsewhere: "
            "pip install tensorrt"
        ) from None
    if version_of(trt) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ProviderError(f"TensorRT {trt.__version__} is too old, engines need {oldest}; update JetPack")
    return trt


def version_of(trt: Any) -> tuple[int, ...]:
    """Return major and minor version."""
    return tuple(int(part) for part in trt.__version__.split(".")[:2])


def make_logger(trt: Any) -> Any:
    """Return a logger that keeps TensorRT's errors in ``errors`` and prints nothing."""

    class Messages(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(msg)

    return Messages()


def last_error(logger: Any) -> str:
    """Return TensorRT's last error as one line."""
    return first_line(logger.errors[-1]) if logger.errors else "TensorRT gave no reason"


def first_line(error: object) -> str:
    return " ".join(str(error).split())[:LONGEST]


def started(trt: Any, kind: Any, logger: Any) -> Any:
    """Return TensorRT's ``kind`` (Builder or Runtime); raises ProviderError where it does not start."""
    try:
        return kind(logger)
    except (TypeError, RuntimeError) as error:  # TypeError: the native library returned none
        reason = last_error(logger) if logger.errors else first_line(error)
        raise ProviderError(f"TensorRT {trt.__version__} does not start ({reason}); check driver and GPU") from None
