"""Cells on a Ray cluster: the same bits as here, a killed worker's cell goes on, none is made twice.

The cluster is a real one, on this machine and with token authentication; studies are started as users start them.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from tests.conftest import REPOSITORY
from tests.toolkit.conftest import Roadworthy
from tests.toolkit.study.test_engine import TINY, epochs_done, read

# A cluster of processes that import PyTorch each: about a minute of a quiet machine.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed"),
]

LONG = TINY.replace("epochs = 4", "epochs = 60")  # to be killed in the middle
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "9f4d1c0b7a684c53a1e2d3c4b5a69788"}
# Ray reads these when it is imported, so that studies need processes of their own.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
    **TOKEN,
    "PYTHONPATH": str(REPOSITORY),
    "OMP_NUM_THREADS": "1",
    "RAY_raylet_start_wait_time_s": "200",
}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of one machine with two CPUs."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        options = [
            "--num-cpus=2",
            "--include-dashboard=false",
            "--disable-usage-stats",
            "--object-store-memory=100000000",
            f"--temp-dir={folder}",
        ]
        head = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}", *options],
            env=ENVIRONMENT,
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
                head.wait(120)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(head.pid, signal.SIGKILL)


def study(address: str, toml: Path, out: Path, *more: str, **environment: str) -> subprocess.Popen[str]:
    """Start a study on the cluster."""
    arguments = [
        "study",
        str(toml),
        "--out",
        str(out),
        "--engine",
        "ray",
        "--address",
        address,
        "--device",
        "cpu",
        *more,
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "toolkit.cli", *arguments],
        cwd=REPOSITORY,
        env={**ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def workers() -> list[int]:
    """Return the processes that run a cell; Ray names them after the task."""
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


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(LONG, encoding="utf-8")
    return path


def test_a_cluster_gives_the_same_bits_and_killed_cells_go_on(
    address: str, toml: Path, tmp_path: Path, roadworthy: Roadworthy
) -> None:
    there, here = tmp_path / "ray", tmp_path / "local"
    process = study(address, toml, there, "--threads", "1")
    try:
        deadline = time.monotonic() + 900
        while not epochs_done(there, "natural"):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.02)
        killed = workers()
        for worker in killed:
            os.kill(worker, signal.SIGKILL)
        said, error = process.communicate(timeout=1200)
    finally:
        process.kill()
    # Ray tells of the killed workers on stdout as well.
    assert process.returncode == 0 and "6 of 6 cells done" in said, error
    assert killed
    counts = begun(there)
    assert len(counts) == 6 and set(counts.values()) == {1, 2}, "some were started again, none thrice"
    assert sum(counts.values()) - len(counts) <= len(killed), "and none but those that were killed"
    again = next(name for name, count in counts.items() if count == 2 and "natural" in name)
    log = (there / "logs" / f"{again}.log").read_text()
    assert log.count("epoch 1 of 60") == 1, "the checkpoint was used"

    assert roadworthy("study", toml, "--out", here, "--device", "cpu", "--threads", 1)[0] == 0
    assert results(there) == results(here) and read(there) == read(here)
    for path in here.glob("runs/*/model.safetensors"):
        assert (there / path.relative_to(here)).read_bytes() == path.read_bytes(), path.parent.name
    assert roadworthy("study", toml, "--out", there, "--device", "cpu", "--threads", 1)[0] == 0
    assert begun(there) == counts, "the other engine finds all done"


@pytest.mark.parametrize(
    ("more", "environment", "message"),
    [
        (("--threads", "99"), {}, "no machine of the cluster has 99 CPUs, the largest has 2; pass --threads"),
        (("--device", "cuda"), {}, "device 'cuda': no machine of the cluster has a GPU"),
        ((), {"RAY_AUTH_TOKEN": "0" * 32}, "are RAY_AUTH_MODE and RAY_AUTH_TOKEN those of the cluster?"),
    ],
)
def test_what_the_cluster_refuses(
    address: str, toml: Path, tmp_path: Path, more: tuple[str, ...], environment: dict[str, str], message: str
) -> None:
    process = study(address, toml, tmp_path / "out", *more, **environment)
    said, error = process.communicate(timeout=900)
    assert (process.returncode, said) == (2, ""), error
    assert message in error.splitlines()[-1]
