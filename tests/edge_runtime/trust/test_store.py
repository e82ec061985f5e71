"""What a device believes survives, grows only, and never silently goes away."""

from __future__ import annotations

import os
import shutil
import stat
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from edge_runtime.errors import TrustError
from edge_runtime.trust import TrustStore, default_store, installed_store, open_trusted
from edge_runtime.trust.store import SYSTEM, VARIABLE
from tests.edge_runtime.trust.publisher import Publisher


@pytest.fixture
def store(tmp_path: Path, publisher: Publisher) -> TrustStore:
    made = TrustStore(tmp_path / "deep" / "trust")
    assert not made.is_installed()
    assert made.install([publisher.root()]) == 1
    return made


def test_acceptance_is_remembered(store: TrustStore, publisher: Publisher, bundle: Path, tmp_path: Path) -> None:
    old = shutil.copytree(bundle, tmp_path / "old")
    publisher.rotate("targets")
    publisher.sign(bundle)
    accepted = open_trusted(bundle, store.load())[1]
    store.accept(accepted)
    again = TrustStore(store.folder).load()
    assert (again.highest, again.digest, sorted(again.roots)) == (2, accepted.digest, [1, 2])
    assert again.newest == accepted.time
    with pytest.raises(TrustError, match="valid targets signatures that root version 2 asks for"):
        open_trusted(old, again)


def test_going_back_is_allowed_until_the_next_acceptance(
    store: TrustStore, publisher: Publisher, bundle: Path, tmp_path: Path
) -> None:
    old = Path(shutil.copytree(bundle, tmp_path / "old"))
    before = open_trusted(old, store.load())[1]
    publisher.sign(bundle)
    store.accept(open_trusted(bundle, store.load())[1])
    store.allow(before.digest)
    store.accept(open_trusted(old, store.load())[1])  # activating it again lowers nothing
    assert store.load().highest == 2
    publisher.sign(bundle)
    store.accept(open_trusted(bundle, store.load())[1])
    with pytest.raises(TrustError, match="has accepted version 3"):
        open_trusted(old, store.load())


def test_the_newest_time_never_goes_back(store: TrustStore, bundle: Path) -> None:
    first = store.load().newest
    later = first + timedelta(days=3)
    store.accept(open_trusted(bundle, store.load(), later)[1])
    assert store.load().newest == later
    store.accept(open_trusted(bundle, store.load(), datetime(1970, 1, 1, tzinfo=timezone.utc))[1])
    assert store.load().newest == later


def test_roots_are_installed_one_after_the_other(store: TrustStore, publisher: Publisher) -> None:
    for _ in range(3):
        publisher.rotate("root")
    with pytest.raises(TrustError, match="is root version 3, this device trusts version 1; install version 2 first"):
        store.install([publisher.root(3)])
    assert store.install([publisher.root(2), publisher.root(3)]) == 3
    assert store.install([publisher.root(3)]) == 3
    assert store.install([publisher.root(4)]) == 4
    fresh = TrustStore(store.folder.parent / "fresh")
    assert fresh.install([publisher.root(3)]) == 3
    with pytest.raises(TrustError, match="old roots are refused"):
        fresh.install([publisher.root(2)])


def test_a_strangers_root_is_refused(store: TrustStore, tmp_path: Path) -> None:
    stranger = Publisher(tmp_path / "stranger")
    stranger.rotate("root")
    with pytest.raises(TrustError, match="old roots are refused"):
        store.install([stranger.root(1)])
    with pytest.raises(TrustError, match="valid root signatures that root version 1 asks for"):
        store.install([stranger.root(2)])
    assert max(store.load().roots) == 1


def test_an_expired_root_is_refused_and_leaves_nothing_installed(tmp_path: Path, publisher: Publisher) -> None:
    store = TrustStore(tmp_path / "trust")
    with pytest.raises(TrustError, match="expired at"):
        store.install([publisher.root()], datetime.now(timezone.utc) + timedelta(days=4000))
    assert not store.is_installed()


@pytest.mark.parametrize("damage", ["missing", "truncated", "no root", "newer"])
def test_a_damaged_store_refuses(store: TrustStore, damage: str) -> None:
    state = store.folder / "state.json"
    if damage == "missing":
        state.unlink()
    elif damage == "truncated":
        state.write_bytes(state.read_bytes()[:20])
    elif damage == "no root":
        (store.folder / "1.root.json").unlink()
    else:
        state.write_text(state.read_text().replace('"format": 1', '"format": 2'))
    assert store.is_installed()
    with pytest.raises(TrustError, match=r"install the root of trust again|update this one"):
        store.load()


def test_a_root_without_its_state_does_not_count(store: TrustStore, publisher: Publisher) -> None:
    """The power went between the two writes: the old state holds, with the old root."""
    publisher.rotate("root")
    shutil.copy(publisher.root(2), store.folder)
    assert max(store.load().roots) == 1
    assert store.install([publisher.root(2)]) == 2


def test_a_folder_without_permission_is_no_absent_one(store: TrustStore) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    store.folder.chmod(0)
    try:
        with pytest.raises(TrustError, match="cannot be read"):
            store.is_installed()
    finally:
        store.folder.chmod(stat.S_IRWXU)


def test_where_trust_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, publisher: Publisher) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "named"))
    assert default_store().folder == tmp_path / "named"
    with pytest.raises(TrustError, match="holds no root"):
        installed_store()
    default_store().install([publisher.root()])
    found = installed_store()
    assert found is not None
    assert found.folder == tmp_path / "named"
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr("edge_runtime.trust.store.SYSTEM", tmp_path / "system")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert installed_store() is None
    assert default_store().folder == tmp_path / "user" / "roadworthy" / "trust"
    TrustStore(tmp_path / "system").install([publisher.root()])
    assert default_store().folder == tmp_path / "system"
    assert SYSTEM.is_absolute()
