"""Roots are made for the plan that was asked for, and rotate with the signatures of old and new keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.errors import InputError, TrustError
from edge_runtime.trust.metadata import decode
from export.signing import Plan, create_keys, rotate_keys
from tests.edge_runtime.trust.publisher import PASSPHRASE, Publisher


def test_the_plan_is_followed(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "keys", Plan(root_keys=3, root_threshold=2, targets_keys=2, days=30))
    root = publisher.keys.root()
    assert {name: (role.threshold, len(role.keyids)) for name, role in root.roles.items()} == {
        "root": (2, 3),
        "targets": (1, 2),
        "snapshot": (1, 0),
        "timestamp": (1, 0),
    }
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "plan", [Plan(root_keys=0), Plan(root_keys=2, root_threshold=3), Plan(targets_keys=17), Plan(days=0)]
)
def test_impossible_plans(tmp_path: Path, plan: Plan) -> None:
    with pytest.raises(InputError, match="cannot be"):
        create_keys(tmp_path / "keys", PASSPHRASE, plan)
    assert not (tmp_path / "keys").exists()


def test_a_folder_in_use(publisher: Publisher) -> None:
    before = sorted(path.name for path in publisher.folder.iterdir())
    with pytest.raises(TrustError, match="keys are never overwritten"):
        create_keys(publisher.folder, PASSPHRASE, Plan())
    assert sorted(path.name for path in publisher.folder.iterdir()) == before


def test_one_key_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "keys", Plan(root_keys=3, root_threshold=2))
    before = publisher.keys.root().roles["root"].keyids
    path = publisher.rotate("root", before[1][:12])
    after = publisher.keys.root()
    assert set(before) - set(after.roles["root"].keyids) == {before[1]}
    assert len(after.roles["root"].keyids) == 3
    assert before[1] not in after.keys
    metadata = decode(path.read_bytes(), "root", path)
    assert set(metadata.signatures) == set(before) | set(after.roles["root"].keyids)


def test_a_lost_root_key_is_survived_when_the_threshold_allows(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "keys", Plan(root_keys=3, root_threshold=2))
    lost = publisher.keys.root().roles["root"].keyids[0]
    publisher.keys.key_path("root", lost).unlink()
    publisher.rotate("root", lost)
    assert lost not in publisher.keys.root().keys
    for keyid in publisher.keys.root().roles["root"].keyids[:2]:
        publisher.keys.key_path("root", keyid).unlink()
    before = sorted(publisher.folder.iterdir())
    with pytest.raises(TrustError, match="holds 1 of the 2 root keys"):
        publisher.rotate("targets")
    assert sorted(publisher.folder.iterdir()) == before


def test_what_cannot_be_rotated(publisher: Publisher) -> None:
    with pytest.raises(InputError, match="unknown role 'target'; nearest: targets"):
        publisher.rotate("target")
    with pytest.raises(TrustError, match="names no targets key 'zz'"):
        publisher.rotate("targets", "zz")
    with pytest.raises(TrustError, match="check the passphrase"):
        rotate_keys(publisher.folder, "wrong horse battery", "targets")
    assert not publisher.root(2).exists()
