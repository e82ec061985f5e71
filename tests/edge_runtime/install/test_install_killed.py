"""kill -9 at every step of an installation: exactly one whole bundle is active, and the next installation works."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.errors import TrustError
from edge_runtime.install import CURRENT, STEPS, Places, install_bundle
from edge_runtime.install.activation import Job
from edge_runtime.trust import TrustStore, open_trusted
from tests.edge_runtime.install.install_killed import MIDDLE
from tests.edge_runtime.trust.publisher import Publisher

REPOSITORY = Path(__file__).resolve().parents[3]
FIRST_WITH_NEW = STEPS.index("switched")


@pytest.fixture(scope="module")
def victim() -> Iterator[subprocess.Popen[str]]:
    """The server of children that install."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.edge_runtime.install.install_killed"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    ) as server:
        yield server
        assert server.stdin is not None
        server.stdin.close()


@pytest.mark.parametrize("step", [*STEPS, MIDDLE])
def test_exactly_one_whole_bundle_stays_active(
    step: str, victim: subprocess.Popen[str], publisher: Publisher, bundle: Path, tmp_path: Path
) -> None:
    trust, places = TrustStore(tmp_path / "trust"), Places(tmp_path / "places")
    trust.install([publisher.root()])
    old = install_bundle(bundle, places, Job(trust=trust))
    publisher.rotate("targets")
    publisher.sign(bundle)
    request = {"source": str(bundle), "places": str(places.folder), "trust": str(trust.folder), "step": step}
    assert victim.stdin is not None and victim.stdout is not None
    victim.stdin.write(json.dumps(request) + "\n")
    victim.stdin.flush()
    assert int(victim.stdout.readline()) == -signal.SIGKILL

    expected = 2 if step in STEPS and STEPS.index(step) >= FIRST_WITH_NEW else 1
    assert open_trusted(places.folder / CURRENT, trust.load())[1].version == expected
    current = places.target(CURRENT)
    assert current is not None
    assert (current == old.name) == (expected == 1)

    again = install_bundle(bundle, places, Job(trust=trust))
    assert again.accepted is not None
    assert again.accepted.version == 2
    assert open_trusted(places.folder / CURRENT, trust.load())[1].version == 2
    assert trust.load().highest == 2
    assert not [name for name in os.listdir(places.versions) if name.startswith(".")]
    with pytest.raises(TrustError):
        open_trusted(places.versions / old.name, trust.load())
    shutil.rmtree(places.folder)
