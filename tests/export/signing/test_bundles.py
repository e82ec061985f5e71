"""Signing names every file, counts versions, and is checked as a device checks it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.bundle import open_bundle
from edge_runtime.errors import BundleError, InputError, TrustError
from edge_runtime.trust.metadata import decode
from tests.edge_runtime.trust.publisher import Publisher


def targets(bundle: Path) -> set[str]:
    return set(decode((bundle / "metadata" / "targets.json").read_bytes(), "targets", "targets").signed.targets)


def test_every_file_is_named(publisher: Publisher, bundle: Path) -> None:
    assert targets(bundle) == {"manifest.json", *open_bundle(bundle).manifest.files}


def test_versions_count_up(publisher: Publisher, bundle: Path) -> None:
    assert publisher.sign(bundle).version == 2
    assert publisher.sign(bundle, version=10).version == 10
    assert publisher.sign(bundle).version == 11
    with pytest.raises(InputError, match="version 11 was given before"):
        publisher.sign(bundle, version=11)


def test_the_metadata_is_replaced_and_nothing_stays_beside(publisher: Publisher, bundle: Path) -> None:
    (bundle / "metadata" / "old").write_text("x")
    publisher.rotate("targets")
    publisher.sign(bundle)
    assert sorted(path.name for path in (bundle / "metadata").iterdir()) == [
        "1.root.json",
        "2.root.json",
        "targets.json",
    ]
    assert not [path for path in bundle.parent.iterdir() if path.name.startswith(".")]


def test_a_damaged_bundle_is_not_signed(publisher: Publisher, bundle: Path) -> None:
    (bundle / "extra").write_text("x")
    with pytest.raises(BundleError, match="which the manifest does not name"):
        publisher.sign(bundle)


def test_the_bundle_may_not_outlive_the_root(publisher: Publisher, bundle: Path) -> None:
    with pytest.raises(TrustError, match="before the bundle; rotate a key"):
        publisher.sign(bundle, days=3651)
    with pytest.raises(InputError, match="0 days cannot be"):
        publisher.sign(bundle, days=0)
