"""The application: what each path answers. Everything is read from the live folder or from ``page/``."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import Awaitable, Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import msgspec

from edge_runtime.live import age, picture_versions, read_picture
from edge_runtime.serve.access import SESSION_SECONDS, Guard, Token
from edge_runtime.serve.metrics import expose
from edge_runtime.serve.readiness import Reading, look

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

PAGE = Path(__file__).parent / "page"
# Path -> file and media type. Nothing else of the disk has a name here.
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
AGE_HEADER = "x-roadworthy-age"
MAX_FORM_BYTES = 4096
WRONG_TOKEN_SECONDS = 1.0  # what every guess costs
GZIP_LEVEL = 3

Answer = Callable[["Request"], "Response | Awaitable[Response]"]


def build_app(folder: Path, token: Token | None, *, secure: bool = False) -> Guard:
    """Return the guarded ASGI application of a live folder; ``secure`` says that it is reached by HTTPS."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    live: dict[str, Answer] = {
        "/status": lambda request: status(request, folder),
        "/frame.jpg": lambda request: picture(folder, "frame.jpg"),
        "/overlay.jpg": lambda request: picture(folder, "overlay.jpg"),
        "/healthz": lambda request: plain("the server answers\n"),
        "/readyz": lambda request: readyz(folder),
        "/metrics": lambda request: metrics(request, folder),
    }
    files: dict[str, Answer] = {path: file_answer(*found) for path, found in FILES.items()}
    routes = [Route(path, answer) for path, answer in (live | files).items()]
    if token is not None:

        async def log_in(request: Request) -> Response:
            return await login(request, token, secure)

        routes += [Route("/login", file_answer("login.html", FILES["/"][1])), Route("/login", log_in, methods=["POST"])]
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    return Guard(app, token)


def status(request: Request, folder: Path) -> Response:
    """Answer with the live status as JSON; 304 where the visitor has it already. The age travels in a header."""
    reading = look(folder)
    body = encode_reading(reading, picture_versions(folder))
    headers = {"cache-control": "no-cache"}
    if reading.status is not None:
        headers[AGE_HEADER] = f"{age(reading.status):.3f}"
    return unless_known(request, body, "application/json", headers)


def encode_reading(reading: Reading, pictures: dict[str, str]) -> bytes:
    """Return ``{"fresh", "obstacle", "pictures", "status"}``; the same bytes as long as nothing changed."""
    said = {"fresh": reading.fresh, "obstacle": reading.obstacle, "pictures": pictures, "status": reading.status}
    return msgspec.json.encode(said, order="deterministic")


def picture(folder: Path, name: str) -> Response:
    """Answer with a picture of the live folder, 404 while there is none."""
    from starlette.responses import Response

    data = read_picture(folder, name)
    if data is None:
        return plain(f"there is no {name} yet\n", 404)
    return Response(data, media_type="image/jpeg", headers={"cache-control": "no-store"})


def unless_known(request: Request, body: bytes, media_type: str, headers: dict[str, str]) -> Response:
    """Answer with ``body``, or 304 where the request names its tag; compressed where that is worth it."""
    from starlette.responses import Response

    tag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    headers = {**headers, "etag": tag}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if media_type == "application/json" and "gzip" in request.headers.get("accept-encoding", ""):
        headers |= {"content-encoding": "gzip", "vary": "accept-encoding"}
        body = compressed(body)
    return Response(body, media_type=media_type, headers=headers)


@lru_cache(maxsize=1)
def compressed(body: bytes) -> bytes:
    """Compress once for all who watch the same moment."""
    return gzip.compress(body, GZIP_LEVEL, mtime=0)


def readyz(folder: Path) -> Response:
    """Answer 200 where the model is warm and frames flow, else 503 and why."""
    obstacle = look(folder).obstacle
    return plain("ready\n") if obstacle is None else plain(f"{obstacle}\n", 503)


def metrics(request: Request, folder: Path) -> Response:
    """Answer a Prometheus scrape."""
    from starlette.responses import Response

    body, media_type = expose(folder, request.headers.get("accept", ""))
    return Response(body, headers={"content-type": media_type, "cache-control": "no-store"})


def plain(text: str, code: int = 200) -> Response:
    from starlette.responses import PlainTextResponse

    return PlainTextResponse(text, code, headers={"cache-control": "no-store"})


def file_answer(name: str, media_type: str) -> Answer:
    """Return an answer with a file of the page, read once."""
    content = (PAGE / name).read_bytes()
    return lambda request: unless_known(request, content, media_type, {"cache-control": "no-cache"})


async def login(request: Request, token: Token, secure: bool) -> Response:
    """Set the session cookie for the right token; show the form again for a wrong one."""
    from starlette.responses import RedirectResponse

    form = await short_body(request)
    presented = parse_qs(form.decode("utf-8", "replace")).get("token", [""])[0].strip()
    if not token.opens(presented):
        await asyncio.sleep(WRONG_TOKEN_SECONDS)
        return RedirectResponse("/login#wrong", 303, headers={"cache-control": "no-store"})
    answer = RedirectResponse("/", 303, headers={"cache-control": "no-store"})
    attributes: dict[str, Any] = {"max_age": SESSION_SECONDS, "httponly": True, "samesite": "strict", "secure": secure}
    answer.set_cookie(token.cookie_name, token.session(), **attributes)
    return answer


async def short_body(request: Request) -> bytes:
    """Return the body, or nothing where it is longer than any form of ours or breaks off."""
    from starlette.requests import ClientDisconnect

    body = b""
    try:
        async for part in request.stream():
            body += part
            if len(body) > MAX_FORM_BYTES:
                return b""
    except ClientDisconnect:
        return b""
    return body
