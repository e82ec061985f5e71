"""Who may see the page: a guard around the application, and the headers that every answer carries.

Without a token the server listens on this machine only, and answers only to names of this machine: a web site whose
name was made to resolve to 127.0.0.1 (DNS rebinding) is turned away by its ``Host``. With a token every path but the
health check and the login page wants it, as a bearer token or as the cookie that the login sets. The cookie is no
secret of its own: an expiry time and its HMAC under the token, so a login outlives a restart and ends with the token.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

SESSION_SECONDS = 24 * 3600
MIN_TOKEN_CHARACTERS = 16
OPEN_PATHS = frozenset({"/healthz", "/login", "/style.css", "/icon.svg"})
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Token:
    """The secret that opens the page. Comparisons take the same time for every wrong one."""

    secret: str

    def opens(self, presented: str) -> bool:
        """Whether ``presented`` is the token."""
        return hmac.compare_digest(presented.encode(), self.secret.encode())

    @property
    def cookie_name(self) -> str:
        """Differs by token: cookies ignore ports, and two tunnels to two vehicles would share one."""
        return f"roadworthy_{self._sign('cookie name')[:8]}"

    def session(self) -> str:
        """Return a cookie value that is good for ``SESSION_SECONDS``."""
        expiry = str(int(time.time()) + SESSION_SECONDS)
        return f"{expiry}.{self._sign(f'session until {expiry}')}"

    def accepts(self, session: str) -> bool:
        """Whether a cookie value was made by :meth:`session` and has not expired."""
        expiry, _, signature = session.partition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(f"session until {expiry}").encode()):
            return False
        return 0 < int(expiry) - time.time() <= SESSION_SECONDS

    def _sign(self, text: str) -> str:
        return hmac.new(self.secret.encode(), f"roadworthy {text}".encode(), hashlib.sha256).hexdigest()


class Guard:
    """ASGI middleware: turns strangers away, and puts the security headers on every answer."""

    def __init__(self, app: App, token: Token | None) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # nothing here speaks WebSocket
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope["path"], headers)
        if refusal is None:
            await self._app(scope, receive, send_guarded)
        else:
            await _answer(refusal, send_guarded)

    def _refusal(self, path: str, headers: dict[str, str]) -> tuple[int, str, dict[str, str]] | None:
        """Return status, text and headers of a refusal, None where the request may pass."""
        if self._token is None:
            if is_this_machine(headers.get("host", "")):
                return None
            return 421, "This server answers to localhost only; a token lets it answer to other names.\n", {}
        if path in OPEN_PATHS or self._authorised(self._token, headers):
            return None
        if "text/html" in headers.get("accept", ""):
            return 303, "", {"location": "/login"}
        return 401, "This needs the server's token.\n", {"www-authenticate": "Bearer"}

    def _authorised(self, token: Token, headers: dict[str, str]) -> bool:
        scheme, _, presented = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token.opens(presented.strip()):
            return True
        return any(token.accepts(value) for value in cookies(headers.get("cookie", ""), token.cookie_name))


def cookies(header: str, name: str) -> Iterator[str]:
    """Yield the values of one cookie.

    Browsers send the cookies of all ports of a host. ``http.cookies`` gives up at the first that is none by the
    standard, such as another program's JSON, and with it all that come after.
    """
    for part in header.split(";"):
        key, _, value = part.partition("=")
        if key.strip() == name:
            yield value.strip()


def is_this_machine(host: str) -> bool:
    """Whether a ``Host`` header, with or without port, names the loopback interface."""
    name, bracket, _ = host.partition("]")
    name = name.removeprefix("[") if bracket else host.partition(":")[0]
    if name.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


async def _answer(refusal: tuple[int, str, dict[str, str]], send: Send) -> None:
    status, text, extra = refusal
    headers = {"content-type": "text/plain; charset=utf-8", "cache-control": "no-store", **extra}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    body = text.encode()
    encoded.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
