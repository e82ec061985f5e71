"""Cells on a Ray cluster: the same bits as here, a killed worker's cell goes on, none is made twice.

The cluster is a real one, on this machine and with token authentication.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from edge_runtime.errors import InputError
from tests.conftest import REPOSITORY
from tests.toolkit.conftest import Roadworthy, one_line
from tests.toolkit.squares import DATASET
from tests.toolkit.study.test_engine import STUDY, Watched, start
from toolkit import runs
from toolkit.study import cells, engines
from toolkit.study.cells import Cell
from toolkit.study.engine import Workplace
from toolkit.study.engines import Workers
from toolkit.study.schema import Overrides

pytest.importorskip("ray")
from toolkit.study import ray_cluster

# A cluster of processes that import PyTorch each: half a minute of a quiet machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

# Long enough to be killed in the middle.
LONG = msgspec.structs.replace(STUDY, training=Overrides(epochs=60, batch=32, learning_rate=0.05))
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "9f4d1c0b7a684c53a1e2d3c4b5a69788"}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of one machine with two CPUs; this process's environment holds its token meanwhile."""
    port = free_port()
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        values = {**TOKEN, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "RAY_raylet_start_wait_time_s": "200"}
        for name, value in values.items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        options = [
            "--num-cpus=2",
            "--include-dashboard=false",
            "--disable-usage-stats",
            "--object-store-memory=100000000",
            f"--temp-dir={folder}",
        ]
        head = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            assert head.stdout is not None
            said = []
            for line in head.stdout:
                said.append(line)
                if "Ray runtime started" in line:
                    break
            else:
                pytest.fail("the cluster did not start: " + "".join(said[-20:]))
            yield f"127.0.0.1:{port}"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(head.pid, signal.SIGTERM)
            try:
                head.wait(30)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(head.pid, signal.SIGKILL)


@dataclass
class Killing(Watched):
    """Kills, once, the worker that makes the cell ``victim``, after its first checkpoint."""

    victim: str = ""
    partial: Path = Path()
    killed: list[int] = field(default_factory=list)

    def step(self, cell: Cell, doing: str, done: float) -> None:
        if cell.name == self.victim and not self.killed and runs.load_history(self.partial):
            self.killed = workers()
            for process in self.killed:
                os.kill(process, signal.SIGKILL)


def workers() -> list[int]:
    """Return the processes that run a task of ours; Ray names them after it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if path.read_bytes().startswith(b"ray::_work"):
                found.append(int(path.parent.name))
    return found


def results(out: Path) -> dict[str, dict[str, object]]:
    """Return what was measured, without times and remarks."""
    rows = [msgspec.json.decode(path.read_bytes()) for path in out.glob("cells/*.json")]
    return {row["name"]: {**row, "seconds": None, "notes": None} for row in rows}


def begun(out: Path) -> dict[str, int]:
    return {path.stem: path.read_text().count(" begins: ") for path in out.glob("logs/*.log")}


def test_a_cluster_gives_the_same_bits_and_a_killed_cell_goes_on(address: str, tmp_path: Path) -> None:
    plan = cells.plan(LONG, {"squares": DATASET}, "cpu")
    there, here = tmp_path / "ray", tmp_path / "local"
    natural = next(cell for cell in plan if cell.name == "squares/natural/s0")
    view = Killing(victim=natural.name, partial=runs.partial_folder(Workplace(there).run(natural)))
    run = engines.chosen("ray", Workers(address, threads=1))
    outcome = run(LONG, plan, {"squares": DATASET}, there, view, Workers(address, threads=1))
    assert not outcome.failures and set(outcome.results) == {cell.name for cell in plan}
    assert view.killed, "a worker was killed"
    assert sorted(name for kind, name in view.events if kind == "done") == sorted(cell.name for cell in plan)
    counts = begun(there)
    assert counts.pop("squares-natural-s0") == 2, "started again, once"
    assert all(count <= 2 for count in counts.values())  # the other CPU's cell may have been killed with it
    assert "epoch 1 of 60" not in (there / "logs/squares-natural-s0.log").read_text().split(" begins: ")[2]
    start(here, LONG)
    assert results(there) == results(here)
    for cell in plan:
        first, second = (Workplace(out).run(cell) / runs.WEIGHTS for out in (there, here))
        assert first.read_bytes() == second.read_bytes(), cell.name
    again = Watched()
    run(LONG, plan, {"squares": DATASET}, there, again, Workers(address, threads=1))
    assert again.events == [], "done cells are skipped"
    local, events = start(there, LONG)
    assert events == [] and len(local.results) == len(plan), "and by the other engine as well"


def test_what_the_cluster_cannot_do_is_one_line(
    address: str, roadworthy: Roadworthy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = ("study", "rendered", "--out", tmp_path / "out", "--engine", "ray", "--only", "*/natural/s0")
    many = one_line(roadworthy(*study, "--address", address, "--threads", 99, "--device", "cpu")).splitlines()[-1]
    assert "no machine of the cluster has 99 CPUs, the largest has 2; pass --threads" in many
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    with pytest.raises(InputError, match=r"does not take this study: .*RAY_AUTH_TOKEN"):
        ray_cluster.check(address)
