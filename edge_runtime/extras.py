"""Libraries that the device install does not bring: imported when they are needed, with the way to get them."""

from __future__ import annotations

import importlib
from typing import Any

from edge_runtime.errors import InputError


def library(module: str, extra: str, user: str) -> Any:
    """Import ``module``; raises InputError naming who needs it (``user``) and the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        needed = module.partition(".")[0]
        raise InputError(f"{user} needs {needed}: pip install 'roadworthy[{extra}]'") from error
