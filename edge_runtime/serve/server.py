"""The process: which address, which token, and uvicorn."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import InputError
from edge_runtime.serve.access import MIN_TOKEN_CHARACTERS, Guard, Token
from edge_runtime.serve.app import build_app

if TYPE_CHECKING:
    import uvicorn

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8080
TOKEN_VARIABLE = "ROADWORTHY_TOKEN"
NICENESS = 10  # classification goes first, also for the scheduler
MAX_CONNECTIONS = 64


@dataclass(frozen=True)
class ServeOptions:
    """Where to listen and who may look. ``certificate`` and ``key`` are PEM files for HTTPS."""

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    token_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


def serve(folder: Path, options: ServeOptions, started: Callable[[str], None]) -> None:
    """Serve a live folder until SIGINT or SIGTERM; ``started`` gets the address once visitors can come.

    Raises InputError for an address that cannot be used, one beyond this machine without a token, and unusable files.
    """
    token = read_token(options.token_file)
    listening = listen(options.host, options.port)
    with contextlib.closing(listening):
        if token is None and not is_loopback(listening):
            raise InputError(
                f"{options.host} is reached from outside; put a token into a file and pass --token-file, "
                f"or set {TOKEN_VARIABLE}"
            )
        secure = check_certificate(options)
        app = build_app(folder, token, secure=secure)
        server = web_server(app, ssl_certfile=options.certificate, ssl_keyfile=options.key)
        os.nice(NICENESS)
        started(address(listening, secure))
        server.run(sockets=[listening])


def web_server(app: Guard, **settings: Any) -> uvicorn.Server:
    """Return uvicorn around the application; ``settings`` are its own."""
    import uvicorn

    from edge_runtime.serve.connections import Connection

    config = uvicorn.Config(
        app,
        http=Connection,
        access_log=False,
        lifespan="off",
        limit_concurrency=MAX_CONNECTIONS,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=2,
        **settings,
    )
    return uvicorn.Server(config)


def read_token(file: Path | None) -> Token | None:
    """Return the token of the file, else of the environment variable, else None. Raises InputError for a bad one."""
    where = str(file) if file else TOKEN_VARIABLE
    try:
        text = file.read_text(encoding="utf-8") if file else os.environ.get(TOKEN_VARIABLE, "")
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; give a file that holds the token") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is no text; give a file that holds the token") from error
    text = text.strip()
    if not text and file is None:
        return None
    if not (text.isascii() and text.isprintable()):
        raise InputError(
            f"the token of {where} holds characters that a header cannot; `openssl rand -hex 32` makes one"
        )
    if len(text) < MIN_TOKEN_CHARACTERS:
        raise InputError(
            f"the token of {where} has {len(text)} characters, at least {MIN_TOKEN_CHARACTERS} are needed; "
            "`openssl rand -hex 32` makes one"
        )
    return Token(text)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises InputError where the address is unknown, taken or forbidden."""
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(place[:2], family=family, backlog=MAX_CONNECTIONS)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot listen on {host} port {port}: {reason}; choose another --host or --port") from error


def is_loopback(listening: socket.socket) -> bool:
    """Whether only this machine can reach the socket."""
    return ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback


def address(listening: socket.socket, secure: bool) -> str:
    """Return the page's URL."""
    host, port = listening.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    return f"{'https' if secure else 'http'}://{name}:{port}/"


def check_certificate(options: ServeOptions) -> bool:
    """Return whether to speak HTTPS. Raises InputError for files that are no certificate and key."""
    if options.certificate is None and options.key is None:
        return False
    if options.certificate is None or options.key is None:
        raise InputError("HTTPS needs both --certificate and --key")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(options.certificate, options.key)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"{options.certificate} and {options.key} are no PEM certificate and key: {error}") from error
    return True
