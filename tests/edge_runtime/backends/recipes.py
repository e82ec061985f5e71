"""Recipes of engines for the tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_runtime.backends.keys import BuildOptions, Profile
from edge_runtime.backends.tensorrt_build import Recipe
from edge_runtime.bundle import Bundle


def recipe(bundle: Bundle, file: str, profiles: Sequence[Profile], **options: Any) -> Recipe:
    """Return how to build an engine of the bundle's ``file``."""
    return Recipe(bundle.read(file), file, bundle.manifest.input, tuple(profiles), BuildOptions(**options))
