"""The errors that a user can cause or meet. Each message says what is wrong, names the value, and gives the way out.

The command line prints them as one line and exits with ``exit_code``; every other exception is a bug and keeps its
traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RoadworthyError(Exception):
    """Base of all expected failures."""

    exit_code = 2


class InputError(RoadworthyError):
    """An argument, option or image that cannot be used."""


class DataError(RoadworthyError):
    """A data set that is missing, empty, damaged or inconsistent."""


class RunError(RoadworthyError):
    """A training run folder that is missing, damaged or already there."""


class BundleError(RoadworthyError):
    """A bundle that is missing, damaged, changed, or from a newer version."""


class TrustError(BundleError):
    """Signatures, versions or dates that this device does not accept, or a publisher's keys that cannot be used."""


class InstallError(RoadworthyError):
    """A bundle that was not activated; what was active before still is."""


class ExportError(RoadworthyError):
    """A model that cannot be exported, or whose export disagrees with the original."""


class UnsupportedOperatorError(ExportError):
    """An ONNX graph holding operators without a gradient rule; the message lists all of them."""


class LogError(RoadworthyError):
    """An audit log that is damaged, altered, or from a newer version."""


class ProviderError(RoadworthyError):
    """An execution provider that is not available or gives wrong results."""


class EngineError(RoadworthyError):
    """A run of the inference engine that failed, or took too long and was ended."""


class GateError(RoadworthyError):
    """A quality gate that did not pass; nothing was changed."""

    exit_code = 3


def unknown(kind: str, value: str, choices: Iterable[str]) -> InputError:
    """Return an :class:`InputError` for an unknown name, with the nearest known ones.

    ``kind`` is the noun for the message ("model", "method"), ``choices`` the known names.
    """
    names = sorted(choices)
    near = difflib.get_close_matches(value, names, n=3, cutoff=0.5)
    if near:
        hint = "nearest: " + ", ".join(near)
    else:
        hint = "known: " + ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return InputError(f"unknown {kind} {value!r}; {hint}")
