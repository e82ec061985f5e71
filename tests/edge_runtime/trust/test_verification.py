"""A bundle is the publisher's, whole, new enough and not expired, or it is refused."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.errors import BundleError, TrustError
from edge_runtime.trust import Acceptance, Trusted, open_trusted, open_with_root
from edge_runtime.trust.metadata import decode, encode
from edge_runtime.trust.verification import MAX_ROOTS
from export.signing import Plan, sign_bundle
from tests.edge_runtime.trust.publisher import PASSPHRASE, Publisher

QUICK_POSITIONS, ALL_POSITIONS = 12, 1000
BOOTED = datetime(1970, 1, 1, 0, 0, 7, tzinfo=timezone.utc)


def trusting(publisher: Publisher, *versions: int, **beliefs: Any) -> Trusted:
    """Return the beliefs of a device that knows these roots of a publisher."""
    roots = {version: publisher.root(version).read_bytes() for version in versions or (1,)}
    return Trusted(roots, **beliefs)


def after(accepted: Acceptance, trusted: Trusted) -> Trusted:
    """Return the beliefs once a bundle was activated."""
    return Trusted({**trusted.roots, **accepted.roots}, accepted.version, accepted.digest, newest=accepted.time)


def test_a_signed_bundle_opens(publisher: Publisher, bundle: Path) -> None:
    opened, accepted = open_trusted(bundle, trusting(publisher))
    assert opened.golden().images.shape[0] == 4
    assert (accepted.version, accepted.root_version, dict(accepted.roots)) == (1, 1, {})


def test_without_metadata_it_is_not_signed(publisher: Publisher, bundle: Path) -> None:
    shutil.rmtree(bundle / "metadata")
    with pytest.raises(TrustError, match="is not signed"):
        open_trusted(bundle, trusting(publisher))


def tamper(bundle: Path, trusted: Trusted, positions: int) -> tuple[int, list[str]]:
    """Change single random bytes of every file; return how many changes there were, and those that were accepted."""
    randomness = random.Random(0)
    tried, accepted = 0, []
    for path in sorted(each for each in bundle.rglob("*") if each.is_file()):
        data = path.read_bytes()
        for _ in range(positions):
            position = randomness.randrange(len(data))
            changed = bytearray(data)
            # Half of the changes flip one bit: a capital letter, or a digit's neighbour, is the likelier to pass.
            mask = 1 << randomness.randrange(8) if randomness.random() < 0.5 else randomness.randrange(1, 256)
            changed[position] ^= mask
            path.write_bytes(changed)
            tried += 1
            try:
                open_trusted(bundle, trusted)
            except BundleError:
                continue
            accepted.append(f"{path.name}[{position}] ^ {mask}")
        path.write_bytes(data)
    return tried, accepted


def test_no_changed_byte_is_accepted(publisher: Publisher, bundle: Path) -> None:
    publisher.rotate("targets")
    publisher.sign(bundle)
    tried, accepted = tamper(bundle, trusting(publisher, 1), QUICK_POSITIONS)
    assert tried == 8 * QUICK_POSITIONS  # manifest, four files, two roots, targets
    assert accepted == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("versions", [(1,), (2,), (1, 2)], ids=["old root", "new root", "both"])
def test_no_changed_byte_is_accepted_in_a_thousand_places(
    publisher: Publisher, bundle: Path, versions: tuple[int, ...]
) -> None:
    publisher.rotate("targets")
    publisher.sign(bundle)
    tried, accepted = tamper(bundle, trusting(publisher, *versions), ALL_POSITIONS)
    assert tried == 8 * ALL_POSITIONS
    assert accepted == []


@pytest.mark.parametrize(
    "name",
    ["notes.txt", ".hidden", "models/extra.onnx", "metadata/notes.txt", "metadata/.targets.json", "metadata/a/b"],
)
def test_an_extra_file_is_refused(publisher: Publisher, bundle: Path, name: str) -> None:
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_text("x")
    with pytest.raises(BundleError, match="remove it"):
        open_trusted(bundle, trusting(publisher))


@pytest.mark.parametrize("name", ["classifier.onnx", "manifest.json", "metadata/targets.json", "metadata/1.root.json"])
def test_a_linked_or_missing_file_is_refused(publisher: Publisher, bundle: Path, tmp_path: Path, name: str) -> None:
    shutil.move(bundle / name, tmp_path / "elsewhere")
    if name != "metadata/1.root.json":  # the device has that one; without it the rest still stands
        with pytest.raises(BundleError):
            open_trusted(bundle, trusting(publisher))
    (bundle / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError):
        open_trusted(bundle, trusting(publisher))
    (bundle / name).unlink()
    os.mkfifo(bundle / name)
    with pytest.raises(BundleError):
        open_trusted(bundle, trusting(publisher))


def test_a_manifest_of_other_files_is_refused(publisher: Publisher, bundle: Path) -> None:
    """Even its publisher cannot sign a manifest that names fewer files than the metadata, or other ones."""
    publisher.forge(bundle, lambda targets: targets.targets.pop("audit_set.npz"))
    with pytest.raises(BundleError, match="what was signed is not what manifest"):
        open_trusted(bundle, trusting(publisher))


def test_a_consistent_change_of_file_and_manifest_is_refused(publisher: Publisher, bundle: Path) -> None:
    data = (bundle / "audit_set.npz").read_bytes() + b"0"
    (bundle / "audit_set.npz").write_bytes(data)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["audit_set.npz"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(TrustError, match=r"manifest\.json is not the one that was signed"):
        open_trusted(bundle, trusting(publisher))


def test_another_publisher_is_refused(publisher: Publisher, bundle: Path, tmp_path: Path) -> None:
    stranger = Publisher(tmp_path / "stranger")
    stranger.sign(bundle)
    with pytest.raises(TrustError, match="root version 1 is not the one that this device trusts"):
        open_trusted(bundle, trusting(publisher))
    shutil.copy(publisher.root(), bundle / "metadata" / "1.root.json")
    with pytest.raises(TrustError, match="has 0 of the 1 valid targets signatures"):
        open_trusted(bundle, trusting(publisher))


def test_a_root_key_does_not_sign_bundles(publisher: Publisher, bundle: Path) -> None:
    publisher.forge(bundle, lambda targets: None, role="root")
    with pytest.raises(TrustError, match="has 0 of the 1 valid targets signatures"):
        open_trusted(bundle, trusting(publisher))


def test_too_few_signatures_and_one_too_many(bundle: Path, tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "several", Plan(targets_keys=3, targets_threshold=2))
    publisher.sign(bundle)
    path = bundle / "metadata" / "targets.json"
    whole = json.loads(path.read_text())
    assert len(whole["signatures"]) == 3
    for kept, message in ((2, None), (1, "has 1 of the 2 valid targets signatures"), (0, "has 0 of the 2")):
        path.write_text(spelt({**whole, "signatures": whole["signatures"][:kept]}))
        if message is None:
            open_trusted(bundle, trusting(publisher))
        else:
            with pytest.raises(TrustError, match=message):
                open_trusted(bundle, trusting(publisher))
    twice = [whole["signatures"][0]] * 2
    path.write_text(spelt({**whole, "signatures": twice}))
    with pytest.raises(TrustError, match="Multiple signatures"):
        open_trusted(bundle, trusting(publisher))
    stray = {"keyid": "0" * 64, "sig": whole["signatures"][0]["sig"]}
    path.write_text(spelt({**whole, "signatures": [*whole["signatures"], stray]}))
    with pytest.raises(TrustError, match="a signature that does not count"):
        open_trusted(bundle, trusting(publisher))


def spelt(document: object) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def test_old_versions_are_refused(publisher: Publisher, bundle: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(bundle, tmp_path / "old"))
    trusted = trusting(publisher)
    trusted = after(open_trusted(bundle, trusted)[1], trusted)
    open_trusted(old, trusted)  # the same bundle again
    publisher.sign(bundle)
    trusted = after(open_trusted(bundle, trusted)[1], trusted)
    with pytest.raises(TrustError, match="has version 1, this device has accepted version 2"):
        open_trusted(old, trusted)
    allowed = open_trusted(old, trusting(publisher))[1].digest
    open_trusted(old, Trusted(trusted.roots, trusted.highest, trusted.digest, allowed))


def test_another_bundle_of_the_same_version_is_refused(publisher: Publisher, bundle: Path) -> None:
    trusted = trusting(publisher)
    trusted = after(open_trusted(bundle, trusted)[1], trusted)
    publisher.forge(bundle, lambda targets: setattr(targets, "expires", targets.expires + timedelta(days=1)))
    with pytest.raises(TrustError, match="another bundle of version 1 was accepted"):
        open_trusted(bundle, trusted)


def test_targets_keys_rotate(publisher: Publisher, bundle: Path, tmp_path: Path) -> None:
    retired = Path(shutil.copytree(publisher.folder, tmp_path / "retired"))
    publisher.rotate("targets")
    publisher.sign(bundle)
    trusted = trusting(publisher)
    opened = open_trusted(bundle, trusted)[1]
    assert (opened.root_version, list(opened.roots)) == (2, [2])
    trusted = after(opened, trusted)
    sign_bundle(bundle, retired, PASSPHRASE, version=9)
    with pytest.raises(TrustError, match="has 0 of the 1 valid targets signatures that root version 2 asks for"):
        open_trusted(bundle, trusted)


@pytest.mark.parametrize("known", [1, 2, 3])
def test_root_keys_rotate(bundle: Path, tmp_path: Path, known: int) -> None:
    publisher = Publisher(tmp_path / "several", Plan(root_keys=3, root_threshold=2))
    first = publisher.keys.root().roles["root"].keyids[0]
    publisher.rotate("root", first[:10])
    publisher.rotate("root")
    publisher.sign(bundle)
    accepted = open_trusted(bundle, trusting(publisher, known))[1]
    assert (accepted.root_version, list(accepted.roots)) == (3, list(range(known + 1, 4)))


def test_a_root_that_the_old_keys_did_not_sign_is_refused(publisher: Publisher, bundle: Path, tmp_path: Path) -> None:
    stranger = Publisher(tmp_path / "stranger")
    stranger.rotate("targets")
    stranger.sign(bundle)
    shutil.copy(publisher.root(), bundle / "metadata" / "1.root.json")
    with pytest.raises(TrustError, match=r"2\.root\.json has 0 of the 1 valid root signatures that root version 1"):
        open_trusted(bundle, trusting(publisher))


def test_a_root_that_its_own_keys_did_not_sign_is_refused(publisher: Publisher, bundle: Path) -> None:
    publisher.rotate("root")
    publisher.sign(bundle)
    path = bundle / "metadata" / "2.root.json"
    document = json.loads(path.read_text())
    old = set(json.loads(publisher.root().read_text())["signed"]["roles"]["root"]["keyids"])
    document["signatures"] = [each for each in document["signatures"] if each["keyid"] in old]
    path.write_text(spelt(document))
    with pytest.raises(TrustError, match="has 0 of the 1 valid root signatures that root version 2"):
        open_trusted(bundle, trusting(publisher))


def test_the_line_of_roots_has_no_gap_and_no_older_end(publisher: Publisher, bundle: Path) -> None:
    publisher.rotate("targets")
    publisher.rotate("targets")
    publisher.sign(bundle)
    (bundle / "metadata" / "2.root.json").unlink()
    with pytest.raises(TrustError, match="lacks one of the roots 1 to 3"):
        open_trusted(bundle, trusting(publisher))
    (bundle / "metadata" / "3.root.json").unlink()
    with pytest.raises(TrustError, match="ends with a root older than this device's"):
        open_trusted(bundle, trusting(publisher, 3))


def test_many_roots_are_refused_unread(publisher: Publisher, bundle: Path) -> None:
    for number in range(2, MAX_ROOTS + 3):
        (bundle / "metadata" / f"{number}.root.json").write_text("{}")
    with pytest.raises(TrustError, match=f"holds {MAX_ROOTS + 3} files"):
        open_trusted(bundle, trusting(publisher))


def test_expired_metadata_is_refused(publisher: Publisher, bundle: Path) -> None:
    accepted = open_trusted(bundle, trusting(publisher))[1]
    late = accepted.expires
    open_trusted(bundle, trusting(publisher), late - timedelta(seconds=1))
    with pytest.raises(TrustError, match="expired at"):
        open_trusted(bundle, trusting(publisher), late)
    with pytest.raises(TrustError, match="root version 1 expired"):
        open_trusted(bundle, trusting(publisher), late + timedelta(days=3650))


def test_a_clock_in_1970_is_no_way_around_expiry(publisher: Publisher, bundle: Path) -> None:
    trusted = trusting(publisher)
    accepted = open_trusted(bundle, trusted, BOOTED)[1]
    assert accepted.time > datetime(2026, 1, 1, tzinfo=timezone.utc)  # when it was signed
    remembered = trusting(publisher, newest=accepted.expires)
    with pytest.raises(TrustError, match="expired at"):
        open_trusted(bundle, remembered, BOOTED)


def test_what_was_accepted_never_expires_by_what_is_remembered(publisher: Publisher, bundle: Path) -> None:
    """A clock that once ran ahead must not lock a vehicle out: only times within the validity are remembered."""
    trusted = trusting(publisher)
    expires = open_trusted(bundle, trusted)[1].expires
    accepted = open_trusted(bundle, trusted, expires - timedelta(seconds=1))[1]
    open_trusted(bundle, after(accepted, trusted), BOOTED)


@pytest.mark.parametrize("file", ["targets.json", "1.root.json"])
def test_oversized_metadata_is_refused(publisher: Publisher, bundle: Path, file: str) -> None:
    (bundle / "metadata" / file).write_bytes(b" " * (5 << 20))
    with pytest.raises(TrustError, match=r"is larger than \d+ KiB"):
        open_trusted(bundle, trusting(publisher))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda targets: setattr(targets, "version", True), "Expected `int`, got `bool`"),
        (lambda targets: targets.unrecognized_fields.update(more=1), "unknown field `more`"),
        (lambda targets: targets.unrecognized_fields.update({"x-signed-at": 7}), "Expected `str`, got `int`"),
        (lambda targets: targets.targets["manifest.json"].hashes.update(md5="0" * 32), "unknown field `md5`"),
        (lambda targets: setattr(targets.targets["manifest.json"], "length", 3), "not the one that was signed"),
        (lambda targets: targets.targets.pop("manifest.json"), "not the one that was signed"),
    ],
)
def test_signed_nonsense_is_refused(
    publisher: Publisher, bundle: Path, change: Callable[[Any], object], message: str
) -> None:
    publisher.forge(bundle, change)
    with pytest.raises(TrustError, match=message):
        open_trusted(bundle, trusting(publisher))


def test_a_root_file_alone_is_enough(publisher: Publisher, bundle: Path) -> None:
    publisher.rotate("targets")
    publisher.sign(bundle)
    for version in (1, 2):
        assert open_with_root(bundle, publisher.root(version))[1].root_version == 2
    metadata = decode(publisher.root(2).read_bytes(), "root", "root")
    metadata.signatures.popitem()
    publisher.root(2).write_bytes(encode(metadata))
    with pytest.raises(TrustError):
        open_with_root(bundle, publisher.root(2))
