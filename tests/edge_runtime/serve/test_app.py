"""What each path answers, as the live folder changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edge_runtime.live import STATUS, LiveStatus, LiveWriter
from edge_runtime.serve.app import AGE_HEADER, PAGE
from tests.edge_runtime.live_status import running
from tests.edge_runtime.serve.visitor import Visitor, serving


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def visitor(folder: Path) -> Iterator[Visitor]:
    with serving(folder) as found:
        yield found


@pytest.fixture
def live(folder: Path) -> LiveWriter:
    return LiveWriter(folder)


def test_files_of_the_page(visitor: Visitor) -> None:
    for path, name, kind in (
        ("/", "index.html", "text/html"),
        ("/page.js", "page.js", "text/javascript"),
        ("/style.css", "style.css", "text/css"),
        ("/icon.svg", "icon.svg", "image/svg+xml"),
    ):
        answer = visitor.get(path)
        assert (answer.status, answer.body) == (200, (PAGE / name).read_bytes())
        assert answer.headers["content-type"].startswith(kind)
        assert visitor.get(path, if_none_match=answer.headers["etag"]).status == 304


def test_status_before_during_and_after_the_loop(visitor: Visitor, live: LiveWriter) -> None:
    said = visitor.get("/status").json
    assert (said["status"], said["fresh"]) == (None, False)
    assert "no vehicle loop writes to" in said["obstacle"]
    status = running()
    live.write(status, {"frame.jpg": b"1"})
    answer = visitor.get("/status")
    assert (answer.json["fresh"], answer.json["obstacle"]) == (True, None)
    assert msgspec.convert(answer.json["status"], LiveStatus) == status
    assert list(answer.json["pictures"]) == ["frame.jpg"]
    assert 0 <= float(answer.headers[AGE_HEADER]) < 60
    live.write(running(boot_monotonic=0.0))
    assert visitor.get("/status").json["fresh"] is False


def test_an_unchanged_status_costs_nothing(visitor: Visitor, live: LiveWriter) -> None:
    live.write(running(state="waiting"))
    tag = visitor.get("/status").headers["etag"]
    again = visitor.get("/status", if_none_match=tag)
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    assert AGE_HEADER in again.headers
    live.write(running(state="waiting", message="camera unplugged"))
    changed = visitor.get("/status", if_none_match=tag)
    assert (changed.status, changed.json["status"]["message"]) == (200, "camera unplugged")


def test_a_new_picture_alone_changes_the_status(visitor: Visitor, live: LiveWriter) -> None:
    status = running()
    live.write(status, {"frame.jpg": b"1"})
    tag = visitor.get("/status").headers["etag"]
    live.write(status, {"frame.jpg": b"2"})
    assert visitor.get("/status", if_none_match=tag).status == 200


def test_the_status_is_compressed_for_those_who_can(visitor: Visitor, live: LiveWriter) -> None:
    live.write(running(events=((1.0, "started", "x" * 5000),) * 20))
    packed, plain = visitor.get("/status", accept_encoding="gzip"), visitor.get("/status")
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < 0.1 * len(plain.body)
    assert packed.body == plain.body


def test_pictures(visitor: Visitor, live: LiveWriter) -> None:
    for name in ("frame.jpg", "overlay.jpg"):
        assert visitor.get(f"/{name}").status == 404
        live.write(running(), {name: name.encode()})
        answer = visitor.get(f"/{name}?123")
        assert (answer.status, answer.body, answer.headers["content-type"]) == (200, name.encode(), "image/jpeg")
        assert answer.headers["cache-control"] == "no-store"


def test_health_and_readiness(visitor: Visitor, live: LiveWriter) -> None:
    assert visitor.get("/healthz").status == 200
    assert visitor.get("/readyz").status == 503
    live.write(running(state="starting"))
    answer = visitor.get("/readyz")
    assert (answer.status, answer.text) == (503, "the model is being loaded\n")
    live.write(running())
    answer = visitor.get("/readyz")
    assert (answer.status, answer.text) == (200, "ready\n")
    assert visitor.get("/healthz").headers["cache-control"] == "no-store"


def test_a_damaged_folder_hurts_nobody(visitor: Visitor, live: LiveWriter) -> None:
    (live.folder / STATUS).write_bytes(b"\x00" * 100)
    for path, code in (("/", 200), ("/healthz", 200), ("/status", 200), ("/readyz", 503), ("/metrics", 200)):
        assert visitor.get(path).status == code
    assert "written by another version" in visitor.get("/status").json["obstacle"]


def test_many_visitors_at_once(visitor: Visitor, live: LiveWriter) -> None:
    from concurrent.futures import ThreadPoolExecutor

    live.write(running())
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(visitor.get, ["/status", "/metrics", "/frame.jpg", "/readyz"] * 50))
    assert {answer.status for answer in answers} == {200, 404}
