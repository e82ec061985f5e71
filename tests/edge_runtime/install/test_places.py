"""Links are replaced whole and lead only to installed versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.errors import InstallError
from edge_runtime.install import CURRENT, PREVIOUS, Places, default_folder

NAMES = ("000001-0123456789abcdef", "000002-0123456789abcdef")


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places(tmp_path / "places")
    for name in NAMES:
        (made.versions / name).mkdir(parents=True)
    return made


def test_links(places: Places) -> None:
    assert places.target(CURRENT) is None
    for name in NAMES:
        places.point(CURRENT, name)
        assert places.target(CURRENT) == name
    (places.folder / ".current.new").symlink_to("left/behind")
    places.point(CURRENT, NAMES[0])
    places.point(CURRENT, None)
    assert places.target(CURRENT) is None


@pytest.mark.parametrize("target", ["/etc", "versions/../../x", "versions/none", "000001-0123456789abcdef"])
def test_links_that_lead_elsewhere_are_none(places: Places, target: str) -> None:
    (places.folder / CURRENT).symlink_to(target)
    assert places.target(CURRENT) is None


def test_the_rest_is_removed(places: Places) -> None:
    (places.versions / ".incoming-1").mkdir()
    places.point(PREVIOUS, NAMES[0])
    places.remove_rest(incoming_only=True)
    assert [place.name for place in places.listed()] == list(NAMES)
    assert [place.role for place in places.listed()] == [PREVIOUS, ""]
    places.remove_rest()
    assert [path.name for path in places.versions.iterdir()] == [NAMES[0]]


def test_names_are_fresh(places: Places) -> None:
    assert places.fresh_name(3, "0123456789abcdef" * 4) == "000003-0123456789abcdef"
    assert places.fresh_name(2, "0123456789abcdef" * 4) == f"{NAMES[1]}.2"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InstallError, match="cannot be written"), Places(tmp_path / "file" / "places").locked():
        pass


def test_the_default_depends_on_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "roadworthy" / "bundles"
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert default_folder() == Path("/var/lib/roadworthy/bundles")
