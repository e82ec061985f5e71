"""Versions that belong beside every figure."""

from __future__ import annotations

import platform
from importlib import metadata

# Distribution names by what they are called in records; the engine has one distribution per kind of device.
DISTRIBUTIONS = {
    "roadworthy": ("roadworthy",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-jetson"),
    "numpy": ("numpy",),
}


def software_versions() -> dict[str, str]:
    """Return name -> version of Python, of this package and of what computes; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for name, candidates in DISTRIBUTIONS.items():
        versions = [version for each in candidates if (version := installed(each)) is not None]
        if versions:
            found[name] = versions[0]
    return found


def installed(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
