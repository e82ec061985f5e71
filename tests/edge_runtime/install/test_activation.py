"""A bundle is activated whole and tested, or what was active stays."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from edge_runtime.bundle import open_bundle
from edge_runtime.errors import BundleError, InstallError, RoadworthyError, TrustError
from edge_runtime.install import CURRENT, PREVIOUS, STEPS, Limits, Places, install_bundle, roll_back
from edge_runtime.install.activation import Job
from edge_runtime.trust import TrustStore, open_trusted
from tests.edge_runtime.tiny_bundle import TinyNetwork, npz, tiny_files, tiny_network, write_tiny_bundle
from tests.edge_runtime.trust.publisher import Publisher, golden_bundle

REPOSITORY = Path(__file__).resolve().parents[3]


class Vehicle(NamedTuple):
    """A device with the publisher's first root and bundle version 1 active."""

    places: Places
    trust: TrustStore
    publisher: Publisher
    bundle: Path

    @property
    def job(self) -> Job:
        return Job(trust=self.trust)

    def active(self) -> int:
        """Return the version of what the vehicle would run now."""
        return open_trusted(self.places.folder / CURRENT, self.trust.load())[1].version


@pytest.fixture
def vehicle(publisher: Publisher, bundle: Path, tmp_path: Path) -> Vehicle:
    trust, places = TrustStore(tmp_path / "trust"), Places(tmp_path / "places")
    trust.install([publisher.root()])
    install_bundle(bundle, places, Job(trust=trust))
    return Vehicle(places, trust, publisher, bundle)


def test_every_step_is_told_in_order(vehicle: Vehicle) -> None:
    vehicle.publisher.sign(vehicle.bundle)
    told: list[str] = []
    installed = install_bundle(vehicle.bundle, vehicle.places, vehicle.job, told.append)
    assert tuple(told) == STEPS
    assert installed.tested is not None
    assert installed.tested.passed
    assert (vehicle.active(), vehicle.trust.load().highest) == (2, 2)
    assert [place.role for place in vehicle.places.listed()] == [PREVIOUS, CURRENT]


def test_only_the_last_good_one_is_kept(vehicle: Vehicle) -> None:
    for _ in range(2):
        vehicle.publisher.sign(vehicle.bundle)
        install_bundle(vehicle.bundle, vehicle.places, vehicle.job)
    assert [place.name[:6] for place in vehicle.places.listed()] == ["000002", "000003"]


def test_the_same_bundle_again_changes_nothing(vehicle: Vehicle) -> None:
    before = vehicle.places.target(CURRENT)
    assert install_bundle(vehicle.bundle, vehicle.places, vehicle.job).tested is None
    assert vehicle.places.target(CURRENT) == before


def test_a_damaged_active_bundle_is_replaced(vehicle: Vehicle) -> None:
    path = vehicle.places.folder / CURRENT / "classifier.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert install_bundle(vehicle.bundle, vehicle.places, vehicle.job).tested is not None
    assert vehicle.active() == 1


def test_an_old_version_is_refused(vehicle: Vehicle, tmp_path: Path) -> None:
    old = Path(shutil.copytree(vehicle.bundle, tmp_path / "old"))
    vehicle.publisher.sign(vehicle.bundle)
    install_bundle(vehicle.bundle, vehicle.places, vehicle.job)
    with pytest.raises(TrustError, match="old versions are refused"):
        install_bundle(old, vehicle.places, vehicle.job)
    assert vehicle.active() == 2


def test_going_back_and_forward(vehicle: Vehicle) -> None:
    vehicle.publisher.sign(vehicle.bundle)
    install_bundle(vehicle.bundle, vehicle.places, vehicle.job)
    roll_back(vehicle.places, vehicle.trust)
    assert (vehicle.active(), vehicle.trust.load().highest) == (1, 2)
    with pytest.raises(InstallError, match="keeps no bundle to go back to"):
        roll_back(vehicle.places, vehicle.trust)
    install_bundle(vehicle.bundle, vehicle.places, vehicle.job)
    assert vehicle.active() == 2
    with pytest.raises(TrustError, match="old versions are refused"):
        open_trusted(vehicle.places.folder / PREVIOUS, vehicle.trust.load())


def test_there_is_no_way_back_to_retired_keys(vehicle: Vehicle) -> None:
    vehicle.publisher.rotate("targets")
    vehicle.publisher.sign(vehicle.bundle)
    install_bundle(vehicle.bundle, vehicle.places, vehicle.job)
    with pytest.raises(TrustError, match="valid targets signatures"):
        roll_back(vehicle.places, vehicle.trust)
    assert vehicle.active() == 2


def test_a_failing_self_test_changes_nothing(vehicle: Vehicle, network: TinyNetwork, tmp_path: Path) -> None:
    wrong = golden_bundle(tmp_path / "wrong", network)
    files = {path.name: path.read_bytes() for path in wrong.iterdir() if path.name != "manifest.json"}
    arrays = dict(np.load(wrong / "golden.npz"))
    arrays["logits"] = arrays["logits"] + 1
    other = write_tiny_bundle(tmp_path / "other", {**files, "golden.npz": npz(**arrays)})
    vehicle.publisher.sign(other)
    with pytest.raises(InstallError, match="does not reproduce the golden set"):
        install_bundle(other, vehicle.places, vehicle.job)
    assert (vehicle.active(), vehicle.trust.load().highest) == (1, 1)
    assert len(vehicle.places.listed()) == 1
    assert not list(vehicle.places.versions.glob(".incoming*"))


def test_what_cannot_be_tested_is_not_activated(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle", tiny_files(tiny_network()))
    with pytest.raises(InstallError, match=r"the self-test failed .*holds no golden\.npz"):
        install_bundle(folder, Places(tmp_path / "places"))
    assert Places(tmp_path / "places").listed() == []


def test_a_copy_that_differs_is_not_activated(vehicle: Vehicle) -> None:
    """A disk that loses bits shows before the switch."""
    vehicle.publisher.sign(vehicle.bundle)

    def damage(step: str) -> None:
        if step == "copied":
            (copy,) = vehicle.places.versions.glob(".incoming*")
            (copy / "classifier.onnx").write_bytes(b"?")

    with pytest.raises(BundleError, match="has 1 bytes"):
        install_bundle(vehicle.bundle, vehicle.places, vehicle.job, damage)
    assert vehicle.active() == 1


def test_what_fails_after_the_switch_is_switched_back(vehicle: Vehicle) -> None:
    vehicle.publisher.sign(vehicle.bundle)
    before = [(place.name, place.role) for place in vehicle.places.listed()]

    def damage(step: str) -> None:
        if step == "switched":
            (vehicle.places.folder / CURRENT / "manifest.json").unlink()

    with pytest.raises(RoadworthyError):
        install_bundle(vehicle.bundle, vehicle.places, vehicle.job, damage)
    assert vehicle.active() == 1
    assert [(place.name, place.role) for place in vehicle.places.listed() if place.role] == before
    install_bundle(vehicle.bundle, vehicle.places, vehicle.job)
    assert vehicle.active() == 2


def test_one_installation_at_a_time(vehicle: Vehicle) -> None:
    descriptor = os.open(vehicle.places.folder / "lock", os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(InstallError, match="another installation is running"):
            install_bundle(vehicle.bundle, vehicle.places, vehicle.job)
    finally:
        os.close(descriptor)


def test_too_little_room_is_said_before_copying(vehicle: Vehicle, monkeypatch: pytest.MonkeyPatch) -> None:
    vehicle.publisher.sign(vehicle.bundle)
    usage = shutil.disk_usage(vehicle.bundle)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(InstallError, match="has 0 MiB free, the bundle needs 1 MiB; make room"):
        install_bundle(vehicle.bundle, vehicle.places, vehicle.job)
    assert vehicle.active() == 1


def test_a_disk_that_is_full_in_the_middle_of_a_file(vehicle: Vehicle) -> None:
    """The kernel refuses to write on, as a full disk does; what was copied so far goes away."""
    vehicle.publisher.sign(vehicle.bundle)
    before = {path.name for path in vehicle.places.versions.iterdir()}
    script = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from edge_runtime.errors import InstallError\nfrom edge_runtime.install import Places, install_bundle\n"
        "from edge_runtime.install.activation import Job\nfrom edge_runtime.trust import TrustStore\n"
        "job = Job(trust=TrustStore(Path(sys.argv[3])))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try:\n    install_bundle(Path(sys.argv[1]), Places(Path(sys.argv[2])), job)\n"
        "except InstallError as error:\n    print(error)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script, *map(str, (vehicle.bundle, vehicle.places.folder, vehicle.trust.folder))],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.stdout.strip().endswith("was not installed: File too large"), finished.stderr
    assert {path.name for path in vehicle.places.versions.iterdir()} == before
    assert vehicle.active() == 1
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 10_000


def test_unsigned_bundles_are_installed_where_no_root_is(tmp_path: Path, network: TinyNetwork) -> None:
    folder = golden_bundle(tmp_path / "bundle", network)
    places = Places(tmp_path / "places")
    installed = install_bundle(folder, places, Job(limits=Limits(seconds=120)))
    assert installed.accepted is None
    assert open_bundle(places.folder / CURRENT).digest == open_bundle(folder).digest
    with pytest.raises(InstallError, match="keeps no bundle"):
        roll_back(places)
