"""Where the cells of a study are made: here, or on the machines of a Ray cluster."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import InputError, unknown
from toolkit.data import Dataset
from toolkit.study import engine
from toolkit.study.cells import Cell
from toolkit.study.engine import Outcome, View
from toolkit.study.schema import Study

DEFAULT_ENGINE = "local"
ADDRESS = "RAY_ADDRESS"


@dataclass(frozen=True)
class Workers:
    """What an engine is told: ``address`` of the cluster, CPU ``threads`` of a cell (None: as many as PyTorch takes
    here), and how many ``cells_per_gpu`` share one."""

    address: str | None = None
    threads: int | None = None
    cells_per_gpu: int = 1


Engine = Callable[[Study, Sequence[Cell], Mapping[str, Dataset], Path, View, Workers], Outcome]


def chosen(name: str, workers: Workers) -> Engine:
    """Return the engine ``name``, after a look at what it needs: for an error before anything is read.

    Raises InputError for an unknown name, options that another engine would take, a missing package, or a cluster that
    does not answer.
    """
    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    for option, value in (("--threads", workers.threads), ("--cells-per-gpu", workers.cells_per_gpu)):
        if value is not None and value < 1:
            raise InputError(f"{option} {value} must be at least 1")
    CHECKS[name](workers)
    return ENGINES[name]


def _local(
    study: Study, cells: Sequence[Cell], datasets: Mapping[str, Dataset], out: Path, view: View, workers: Workers
) -> Outcome:
    return engine.run_cells(study, cells, datasets, out, view)


def _check_local(workers: Workers) -> None:
    if workers.address is not None or workers.cells_per_gpu != 1:
        raise InputError("--address and --cells-per-gpu are for clusters; add --engine ray, or drop them")


def _ray(
    study: Study, cells: Sequence[Cell], datasets: Mapping[str, Dataset], out: Path, view: View, workers: Workers
) -> Outcome:
    from toolkit.study import ray_engine

    return ray_engine.run_cells(study, cells, datasets, out, view, _with_address(workers))


def _check_ray(workers: Workers) -> None:
    if importlib.util.find_spec("ray") is None:
        raise InputError("--engine ray needs ray, which is not installed here: pip install 'roadworthy[ray]'")
    from toolkit.study import ray_cluster

    ray_cluster.check(_address(workers))


def _with_address(workers: Workers) -> Workers:
    return Workers(_address(workers), workers.threads, workers.cells_per_gpu)


def _address(workers: Workers) -> str:
    address = workers.address or os.environ.get(ADDRESS)
    if not address:
        raise InputError(
            f"--engine ray works on a running cluster: pass --address HOST:PORT or set {ADDRESS}; `ray start --head` "
            "starts one"
        )
    return address


ENGINES: dict[str, Engine] = {"local": _local, "ray": _ray}
CHECKS: dict[str, Callable[[Workers], None]] = {"local": _check_local, "ray": _check_ray}
