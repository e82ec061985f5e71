"""The health check of a container: ``python -m edge_runtime.serve.probe``, exit code 0 or 1 and one line.

Without arguments it asks the server on this machine for ``/healthz``. With ``--loop`` it reads a live folder instead:
the loop's own container has no server, and its process may live on while no frame is classified.
"""

from __future__ import annotations

import argparse
import http.client
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

from edge_runtime.live import default_live_folder
from edge_runtime.serve.readiness import look
from edge_runtime.serve.server import DEFAULT_HOST, DEFAULT_PORT

TIMEOUT_SECONDS = 3.0
PATH = "/healthz"


def ask(port: int, *, secure: bool = False) -> str | None:
    """Ask the server on this machine; return what is wrong, None where it is healthy.

    ``secure`` speaks HTTPS and takes any certificate: it names the vehicle, and this is the loopback interface.
    """
    connection = (
        http.client.HTTPSConnection(
            DEFAULT_HOST, port, timeout=TIMEOUT_SECONDS, context=ssl._create_unverified_context()
        )
        if secure
        else http.client.HTTPConnection(DEFAULT_HOST, port, timeout=TIMEOUT_SECONDS)
    )
    try:
        connection.request("GET", PATH)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"no answer on port {port}: {error or type(error).__name__}"
    finally:
        connection.close()
    return None if status == http.client.OK else f"{PATH} on port {port} answers {status}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what is wrong, or that nothing is, and return the exit code."""
    parser = argparse.ArgumentParser(prog="edge_runtime.serve.probe", description="Health check of a container.")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="port of `roadworthy serve`")
    parser.add_argument("--https", action="store_true", help="the server speaks HTTPS")
    parser.add_argument(
        "--loop",
        nargs="?",
        type=Path,
        const=default_live_folder(),
        metavar="LIVE",
        help="check the vehicle loop by its live folder instead",
    )
    options = parser.parse_args(arguments)
    obstacle = look(options.loop).obstacle if options.loop else ask(options.port, secure=options.https)
    print(obstacle or "healthy")
    return 1 if obstacle else 0


if __name__ == "__main__":
    sys.exit(main())
