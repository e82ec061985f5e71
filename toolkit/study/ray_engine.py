"""Cells as tasks of a Ray cluster. The machines share the study's folder, as if each had made the cells alone.

The driver holds the folder's lock, hands out a cell once its parent is done, and gathers how the cells end. A worker
holds the lock of what it makes, so that nothing is made twice even where Ray believes a worker dead that is not; the
task of one that is dead is started again and goes on from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import platform
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import torch

from edge_runtime.errors import InputError, RunError
from edge_runtime.folders import new_file
from toolkit.data import Dataset
from toolkit.study import cells as addresses
from toolkit.study import ray_cluster
from toolkit.study.cells import Cell
from toolkit.study.engine import (
    Ending,
    Outcome,
    StudyInterruptedError,
    StudyStoppedError,
    View,
    Workplace,
    alone,
    attempt,
    enter,
    settled,
)
from toolkit.study.engines import Workers
from toolkit.study.mailbox import Letter, Mailbox
from toolkit.study.schema import Study

RETRIES = 3
"""Of a cell whose worker was killed, or whose machine went away."""
POLL = 0.5  # seconds between looks at the mailbox
PAUSE = 1.0  # seconds between a worker's letters
GRACE = 30.0  # seconds for workers to end when the study is stopped
GPU_THREADS = 2
"""CPU threads of a cell that computes on a GPU, unless --threads says otherwise."""
TOKEN = ".shared"


@dataclass(frozen=True)
class Order:
    """What a worker needs besides cell and data: the folder, what proves that it is shared, threads, and the code."""

    study: Study
    out: Path
    token: str
    threads: int
    code: dict[str, str]
    mailbox: Any


def run_cells(
    study: Study, cells: Sequence[Cell], datasets: Mapping[str, Dataset], out: Path, view: View, workers: Workers
) -> Outcome:
    """Do what :func:`toolkit.study.engine.run_cells` does, on the cluster at ``workers.address``.

    ``out`` must be on storage that the driver and all machines reach by the same path. Raises InputError for a cluster
    without a machine that is large enough, StudyStoppedError where a machine does not see ``out`` or has other code.
    """
    assert workers.address is not None
    out = out.resolve()
    place, outcome = Workplace(out), Outcome()
    with alone(place), ray_cluster.connected(workers.address):
        needs = _needs(cells, workers)
        token = uuid.uuid4().hex
        with new_file(out / TOKEN, force=True, error=RunError) as temporary:
            temporary.write_text(token)
        mailbox = ray.remote(Mailbox).options(num_cpus=0).remote()
        order = Order(study, out, token, needs["num_cpus"], _code(), mailbox)
        crew = _Crew(ray.remote(_work).options(max_retries=RETRIES, **needs), order, _shared(datasets), view)
        waiting = [cell for cell in cells if not settled(cell, place, outcome, view)]
        with crew.dismissed():
            while waiting or crew.running:
                waiting = _hand_out(waiting, crew, place, outcome, view)
                for cell, ending in crew.endings():
                    enter(cell, ending, outcome, view)
    return outcome


@dataclass
class _Crew:
    """The tasks that run or wait for a worker."""

    task: Any
    order: Order
    datasets: dict[str, Any]
    view: View
    running: dict[Any, Cell] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)

    def take(self, cell: Cell) -> None:
        self.running[self.task.remote(self.order, cell, self.datasets[cell.subject.name])] = cell

    def endings(self) -> Iterator[tuple[Cell, Ending]]:
        """Pass the workers' letters on, and yield the cells that have ended since."""
        if not self.running:
            return
        ready, _ = ray.wait(list(self.running), num_returns=len(self.running), timeout=POLL)
        self._deliver()
        for reference in ready:
            cell = self.running.pop(reference)
            yield cell, _ending(cell, reference)

    def _deliver(self) -> None:
        by_name = {cell.name: cell for cell in self.running.values()}
        with contextlib.suppress(ray.exceptions.RayError):  # a lost mailbox costs the view, not the study
            for name, doing, done in ray.get(self.order.mailbox.take.remote(), timeout=GRACE):
                if name in by_name:
                    if name not in self.begun:
                        self.begun.add(name)
                        self.view.started(by_name[name])
                    self.view.step(by_name[name], doing, done)

    @contextlib.contextmanager
    def dismissed(self) -> Iterator[None]:
        """End what still runs, whatever ends the block: checkpoints are kept."""
        try:
            yield
        except KeyboardInterrupt:
            raise StudyInterruptedError(
                f"stopped with {len(self.running)} cells under way; start the same command again to go on"
            ) from None
        finally:
            for reference in self.running:
                ray.cancel(reference)
            if self.running:
                ray.wait(list(self.running), num_returns=len(self.running), timeout=GRACE)


def _hand_out(waiting: Sequence[Cell], crew: _Crew, place: Workplace, outcome: Outcome, view: View) -> list[Cell]:
    """Start the cells whose parents have ended, and return the others."""
    left: list[Cell] = []
    for cell in waiting:
        open_names = {each.name for each in (*left, *crew.running.values())}
        if any(above.name in open_names for above in addresses.ancestors(cell)):
            left.append(cell)
        elif not settled(cell, place, outcome, view):
            crew.take(cell)
    return left


def _ending(cell: Cell, reference: Any) -> Ending:
    try:
        ending = ray.get(reference)
    except ray.exceptions.RayError as error:
        line = " ".join(str(error).split())[:300]
        return Ending("failed", f"its worker was lost {RETRIES + 1} times ({type(error).__name__}: {line})")
    if isinstance(ending, str):
        raise StudyStoppedError(ending)
    assert isinstance(ending, Ending)
    return ending


def _needs(cells: Sequence[Cell], workers: Workers) -> dict[str, Any]:
    """Return the resources of one cell; raises InputError where no machine of the cluster has them."""
    wanted = {cell.trained_by.device for cell in cells} - {"cpu"}
    on_gpu = bool(wanted) and ray_cluster.most("GPU") >= 1
    if "cuda" in wanted and not on_gpu:
        raise InputError("device 'cuda': no machine of the cluster has a GPU; use cpu or auto")
    threads = workers.threads or (GPU_THREADS if on_gpu else torch.get_num_threads())
    largest = ray_cluster.most("CPU")
    if largest < threads:
        raise InputError(f"no machine of the cluster has {threads} CPUs, the largest has {largest:g}; pass --threads")
    return {"num_cpus": threads, **({"num_gpus": 1 / workers.cells_per_gpu} if on_gpu else {})}


def _shared(datasets: Mapping[str, Dataset]) -> dict[str, Any]:
    """Put every data set into the cluster's memory once, for all its cells."""
    kept: dict[int, Any] = {}
    for dataset in datasets.values():
        if id(dataset) not in kept:
            kept[id(dataset)] = ray.put(dataset)
    return {name: kept[id(dataset)] for name, dataset in datasets.items()}


def _code() -> dict[str, str]:
    """Return what must be the same on all machines for the same networks and measurements."""
    return {
        "training code": addresses.code_version(addresses.TRAINING_CODE)[:12],
        "measuring code": addresses.code_version(addresses.MEASURING_CODE)[:12],
        "torch": torch.__version__,
        "Python": ".".join(platform.python_version_tuple()[:2]),
    }


# --- on the worker


@dataclass
class _Letters:
    """The view of a worker: it writes letters, at most one a second."""

    mailbox: Any
    last: float = 0.0

    def started(self, cell: Cell) -> None:
        self._send((cell.name, "", 0.0))

    def step(self, cell: Cell, doing: str, done: float) -> None:
        if time.monotonic() - self.last >= PAUSE:
            self._send((cell.name, doing, done))

    def done(self, cell: Cell, seconds: float) -> None: ...

    def failed(self, cell: Cell, reason: str) -> None: ...

    def _send(self, letter: Letter) -> None:
        self.last = time.monotonic()
        self.mailbox.put.remote(letter)


def _work(order: Order, cell: Cell, dataset: Dataset) -> Ending | str:
    """Make one cell on this machine; returns what keeps the machine from it, in words, where something does."""
    if (obstacle := _obstacle(order)) is not None:
        return obstacle
    # As many as the driver would take: the order of floating-point sums depends on it.
    torch.set_num_threads(order.threads)
    view = _Letters(order.mailbox)
    view.started(cell)
    return attempt(order.study, cell, dataset, Workplace(order.out), view)


def _obstacle(order: Order) -> str | None:
    machine = platform.node()
    try:
        token = (order.out / TOKEN).read_text()
    except OSError:
        token = ""
    if token != order.token:
        return f"{machine} does not see {order.out} of this study; choose an --out that all machines share"
    for what, version in _code().items():
        if version != order.code[what]:
            return (
                f"{machine} has another {what} ({version}, here {order.code[what]}); install the same on all machines"
            )
    return None
