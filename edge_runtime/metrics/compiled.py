"""The compiled imputer (imputer.c), where the installation found a C compiler: the same algorithm as multigrid.py."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.metrics.multigrid import MAX_ITERATIONS

if TYPE_CHECKING:
    from edge_runtime.metrics.imputation import Problem

LIBRARY = "edge_runtime.metrics._imputer"


class Task(ctypes.Structure):
    """``Task`` of imputer.c, field by field."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("channels", "height", "width", "levels", "max_iterations")),
        ("images", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("values", "middle", "half", "rank", "thresholds", "noise")),
        ("limit", ctypes.c_float),
        ("out", ctypes.c_void_p),
    ]


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the library, or None where the installation had no compiler to build it, or built another version."""
    spec = importlib.util.find_spec(LIBRARY)
    return load(Path(spec.origin)) if spec is not None and spec.origin is not None else None


def load(path: Path) -> ctypes.CDLL | None:
    """Open the library at ``path``; None if its ``Task`` is of another version."""
    loaded = ctypes.CDLL(str(path))
    loaded.roadworthy_task_size.restype = ctypes.c_int64
    if loaded.roadworthy_task_size() != ctypes.sizeof(Task):
        return None
    loaded.roadworthy_impute.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    loaded.roadworthy_impute.restype = ctypes.c_int
    return loaded


def solve(compiled: ctypes.CDLL, problem: Problem, out: NDArray[np.float32], part: slice) -> None:
    """Impute the images of ``part`` at every level into ``out`` [L, N, C, H, W]. Lets go of Python's lock."""
    count, channels, height, width = problem.images.shape
    thresholds = np.array(problem.removed, np.int32)
    arrays = [
        np.ascontiguousarray(a) for a in (problem.images, problem.middle, problem.half, problem.order, thresholds)
    ]
    task = Task(channels, height, width, len(thresholds), MAX_ITERATIONS, count, *(_address(a) for a in arrays))
    task.noise = None
    if problem.stream.size:
        base, size = _address(problem.stream), problem.stream.itemsize
        addresses = (ctypes.c_void_p * count)(*(base + size * offset for offset in problem.offsets))
        task.noise = ctypes.cast(addresses, ctypes.c_void_p)
    task.limit, task.out = problem.limit**2, _address(out)
    status = compiled.roadworthy_impute(ctypes.byref(task), part.start, part.stop)
    if status == 2:
        raise MemoryError("the imputation's buffers do not fit into memory")
    if status:
        raise RuntimeError(f"linear imputation did not converge in {MAX_ITERATIONS} iterations")


def _address(array: NDArray[Any]) -> int:
    return array.ctypes.data
