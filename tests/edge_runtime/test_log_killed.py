"""kill -9 at 200 random points: no acknowledged record is lost, and the chain verifies after every one."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.log import Anchor, verify
from tests.edge_runtime.log_tools import open_log

KILLS = 200
LOGS = 4  # each is killed many times: crash, recovery, crash during recovery
REPOSITORY = Path(__file__).resolve().parents[2]


class Victim:
    """A server of children that log, and the pipe of what they acknowledge."""

    def __init__(self) -> None:
        self._pipe, writing = os.pipe()
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.edge_runtime.log_killed", str(writing)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[writing],
            cwd=REPOSITORY,
        )
        os.close(writing)
        self._rest = b""

    def ask(self, line: str) -> None:
        assert self._server.stdin is not None
        self._server.stdin.write(line + "\n")
        self._server.stdin.flush()

    def answer(self) -> int:
        assert self._server.stdout is not None
        return int(self._server.stdout.readline().split()[1])

    def acknowledgements(self, seconds: float) -> list[Anchor]:
        """Return the anchors that arrive within a time; a line that the kill cut short never was complete."""
        if not select.select([self._pipe], [], [], seconds)[0]:
            return []
        *lines, self._rest = (self._rest + os.read(self._pipe, 1 << 16)).split(b"\n")
        return [Anchor.parse(line.decode()) for line in lines]

    def forget_partial(self) -> None:
        self._rest = b""

    def close(self) -> None:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(timeout=30)
        self._server.stdout.close()
        os.close(self._pipe)


@pytest.fixture
def victim() -> Iterator[Victim]:
    victim = Victim()
    yield victim
    victim.close()


def kill_once(victim: Victim, path: Path, seed: int, randomness: random.Random) -> list[Anchor]:
    """Let a child log to ``path``, kill it at a random point, return what it acknowledged."""
    victim.ask(f"{path} {seed}")
    child = victim.answer()
    wanted, acknowledged = randomness.choice((0, 1, 2, 6)), []
    deadline = time.monotonic() + 30
    while len(acknowledged) < wanted and time.monotonic() < deadline:
        acknowledged += victim.acknowledgements(1.0)
    time.sleep(randomness.uniform(0, 0.008))
    os.kill(child, signal.SIGKILL)
    assert victim.answer() == -signal.SIGKILL, "the child ended by itself"
    while arrived := victim.acknowledgements(0):
        acknowledged += arrived
    victim.forget_partial()
    assert len(acknowledged) >= wanted
    return acknowledged


def test_no_acknowledged_record_is_lost_in_200_kills(victim: Victim, tmp_path: Path) -> None:
    randomness = random.Random(7)
    last: dict[Path, Anchor] = {}
    in_the_middle = 0
    for kill in range(KILLS):
        path = tmp_path / f"audit-{kill % LOGS}.log"
        acknowledged = kill_once(victim, path, kill, randomness)
        in_the_middle += bool(acknowledged)
        last[path] = acknowledged[-1] if acknowledged else last.get(path, Anchor(0, b""))
        if not last[path].sequence:
            continue  # killed before anything was acknowledged: there may be no log yet
        result = verify(path, anchor=last[path])
        assert result.ok, f"kill {kill}: {result.problem}"
        assert "anchor" in result.checked_by
    assert in_the_middle > KILLS / 2
    for path, anchor in last.items():
        with open_log(path) as log:
            assert log.head.sequence >= anchor.sequence
        assert verify(path, anchor=anchor).ok
