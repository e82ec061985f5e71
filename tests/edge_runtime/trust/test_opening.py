"""Once a root is installed, only signed bundles open; without the library nothing does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.bundle import Bundle
from edge_runtime.errors import TrustError
from edge_runtime.trust import TrustStore, open_checked, open_required
from edge_runtime.trust.store import VARIABLE
from tests.edge_runtime.trust.publisher import Publisher

REPOSITORY = Path(__file__).resolve().parents[3]


def test_the_installed_root_decides(
    tiny: Bundle, bundle: Path, publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_runtime.trust.store.SYSTEM", tmp_path / "system")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "user"))
    assert open_checked(tiny.path)[1] is None
    monkeypatch.setenv(VARIABLE, str(tmp_path / "trust"))
    TrustStore(tmp_path / "trust").install([publisher.root()])
    with pytest.raises(TrustError, match="is not signed"):
        open_required(tiny.path)
    assert open_required(bundle).labels == tiny.labels


def test_without_the_extra_nothing_opens(bundle: Path, publisher: Publisher, tmp_path: Path) -> None:
    TrustStore(tmp_path / "trust").install([publisher.root()])
    script = (
        "import sys\n"
        "for name in ('tuf', 'tuf.api', 'tuf.api.metadata'):\n    sys.modules[name] = None\n"
        "from edge_runtime.trust import open_required\n"
        "from edge_runtime.errors import InputError\n"
        "try:\n    open_required(sys.argv[1])\n"
        "except InputError as error:\n    print(error)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script, str(bundle)],
        cwd=REPOSITORY,
        env={VARIABLE: str(tmp_path / "trust")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.stdout.strip() == "signed metadata needs tuf: pip install 'roadworthy[trust]'", finished.stderr
