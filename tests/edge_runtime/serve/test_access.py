"""Strangers are turned away: by name without a token, by the token otherwise."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.live import LiveWriter
from edge_runtime.serve import access
from edge_runtime.serve.access import SECURITY_HEADERS, SESSION_SECONDS, Token, is_this_machine
from edge_runtime.serve.app import FILES
from tests.edge_runtime.live_status import running
from tests.edge_runtime.serve.visitor import TOKEN, Visitor, serving

GUARDED = ["/", "/page.js", "/status", "/frame.jpg", "/overlay.jpg", "/readyz", "/metrics"]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("live")
    LiveWriter(folder).write(running(), {"frame.jpg": b"frame", "overlay.jpg": b"overlay"})
    return folder


@pytest.fixture(scope="module")
def local(live: Path) -> Iterator[Visitor]:
    with serving(live) as visitor:
        yield visitor


@pytest.fixture(scope="module")
def guarded(live: Path) -> Iterator[Visitor]:
    with serving(live, TOKEN) as visitor:
        yield visitor


# --- without a token ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:80", "127.1.2.3:1", "[::1]", "[::1]:80"]
)
def test_names_of_this_machine(host: str) -> None:
    assert is_this_machine(host)


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "192.168.0.7", "[::2]", "[", "]"],
)
def test_other_names(host: str) -> None:
    assert not is_this_machine(host)


def test_another_host_is_turned_away_everywhere(local: Visitor) -> None:
    for path in [*GUARDED, "/healthz", "/login"]:
        answer = local.get(path, host="evil.example")
        assert (answer.status, b"localhost only" in answer.body) == (421, True), path
    assert local.get("/status", host="localhost").status == 200


def test_there_is_no_login_without_a_token(local: Visitor) -> None:
    assert local.get("/login").status == 404
    assert local.ask("POST", "/login", "token=", {}).status == 404


def test_every_answer_carries_the_security_headers(local: Visitor, guarded: Visitor) -> None:
    answers = [local.get(path) for path in [*GUARDED, "/nothing"]]
    answers += [local.get("/", host="evil.example"), guarded.get("/"), guarded.get("/login")]
    for answer in answers:
        assert SECURITY_HEADERS.items() <= answer.headers.items()
        assert "server" not in answer.headers
    policy = SECURITY_HEADERS["content-security-policy"]
    assert "unsafe" not in policy
    assert "http" not in policy


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_nothing_can_be_written(method: str, local: Visitor) -> None:
    for path in GUARDED:
        assert local.ask(method, path, "x", {}).status == 405


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/page/../../app.py",
        "/%2e%2e/%2e%2e/app.py",
        "/..%2fapp.py",
        "/app.py",
        "//etc/passwd",
        "/status.json",
        "/.status.json.new",
        "/page.js/",
    ],
)
def test_no_other_file_has_a_name(path: str, local: Visitor) -> None:
    answer = local.get(path)
    assert answer.status == 404
    assert b"root:" not in answer.body


# --- with a token -------------------------------------------------------------------------------------------------


def test_without_the_token_nothing_is_told(guarded: Visitor) -> None:
    for path in [*GUARDED, "/nothing"]:
        answer = guarded.get(path)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer"), path
        assert answer.text == "This needs the server's token.\n"
    assert guarded.get("/healthz").status == 200


def test_the_bearer_token_opens_everything(guarded: Visitor) -> None:
    for path in GUARDED:
        assert guarded.get(path, authorization=f"Bearer {TOKEN.secret}").status == 200
        assert guarded.get(path, authorization=f"bearer  {TOKEN.secret}", host="any.name").status == 200


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {TOKEN.secret}x",
        f"Bearer {TOKEN.secret[:-1]}",
        f"Basic {TOKEN.secret}",
        TOKEN.secret,
        "Bearer \xe4\xf6",
    ],
)
def test_another_bearer_opens_nothing(header: str, guarded: Visitor) -> None:
    assert guarded.get("/status", authorization=header).status == 401


def test_a_token_in_the_address_opens_nothing(guarded: Visitor) -> None:
    assert guarded.get(f"/status?token={TOKEN.secret}").status == 401


def test_a_browser_is_led_to_the_login_and_back(guarded: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = guarded.get("/", accept="text/html,*/*")
    assert (answer.status, answer.headers["location"]) == (303, "/login")
    form = guarded.get("/login").text
    assert 'action="/login"' in form
    assert all(guarded.get(path).status == 200 for path in ("/style.css", "/icon.svg"))

    answer = guarded.ask("POST", "/login", f"token={TOKEN.secret}", {})
    assert (answer.status, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert TOKEN.secret not in cookie
    value = cookie.partition(";")[0]
    assert guarded.get("/status", cookie=f"other=1; {value}").status == 200
    for stranger in ('theme={"dark": true}', "foo[bar]=1", "two words=1", 'open="', "=", ""):
        assert guarded.get("/status", cookie=f"{stranger}; {value}").status == 200
    assert guarded.get("/status", cookie=value[:-1]).status == 401
    assert guarded.get("/status", cookie=value.replace("=", "=9")).status == 401


def test_a_wrong_token_costs_time_and_shows_the_form_again(guarded: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_runtime.serve.app.WRONG_TOKEN_SECONDS", 0.25)
    begin = time.monotonic()
    for body in ("token=wrong", "", "token=" + "x" * 10_000, "\xff\x00"):
        answer = guarded.ask("POST", "/login", body, {})
        assert (answer.status, answer.headers["location"]) == (303, "/login#wrong")
        assert "set-cookie" not in answer.headers
    assert time.monotonic() - begin >= 1.0


def test_cookies_are_secure_over_https(live: Path) -> None:
    """The answer to a login carries Secure where the application is told that it stands behind HTTPS."""
    import asyncio

    from edge_runtime.serve.app import build_app

    sent: list[access.Message] = []
    body = f"token={TOKEN.secret}".encode()

    async def receive() -> access.Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: access.Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/login", "query_string": b"", "headers": [], "scheme": "https"}
    asyncio.run(build_app(live, TOKEN, secure=True)(scope, receive, send))
    headers = dict(sent[0]["headers"])
    assert b"Secure" in headers[b"set-cookie"]


def test_a_session_ends_with_its_time_and_with_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    session = TOKEN.session()
    assert TOKEN.accepts(session)
    assert not Token("another-token-0123456789").accepts(session)
    for bad in ("", ".", "a.b", session + "0", "9" + session, session.replace(".", "")):
        assert not TOKEN.accepts(bad)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + SESSION_SECONDS + 1)
    assert not TOKEN.accepts(session)


def test_two_servers_have_two_cookies() -> None:
    assert TOKEN.cookie_name != Token("another-token-0123456789").cookie_name
    assert TOKEN.secret not in TOKEN.cookie_name


def test_the_page_names_nothing_from_elsewhere() -> None:
    from edge_runtime.serve.app import PAGE

    for name in (*(name for name, _ in FILES.values()), "login.html"):
        text = (PAGE / name).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "//" not in text.replace("// ", ""), name
        assert "<style" not in text and "style=" not in text and "onclick" not in text
