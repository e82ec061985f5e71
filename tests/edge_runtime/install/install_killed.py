"""The process that the kill tests kill: for every line on stdin it forks a child that installs until its step.

A line is JSON: source, places, trust, step. The child kills itself with SIGKILL when it is told of the step; at
"copying" it does so in the middle of a file. This process answers with the child's exit status.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from edge_runtime.bundle import Bundle
from edge_runtime.install import Places, install_bundle
from edge_runtime.install.activation import Job
from edge_runtime.trust import TrustStore

MIDDLE = "copying"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def install_until(source: str, places: str, trust: str, step: str) -> None:
    """Install, and die at ``step``."""

    def tell(reached: str) -> None:
        if reached == step:
            die()

    if step == MIDDLE:
        read = Bundle.read

        def half(bundle: Bundle, name: str) -> bytes:
            if name == "explainer.onnx":
                (place,) = Path(places).glob("versions/.incoming-*")
                (place / name).write_bytes(read(bundle, name)[:1000])
                die()
            return read(bundle, name)

        Bundle.read = half  # type: ignore[method-assign]
    install_bundle(Path(source), Places(Path(places)), Job(trust=TrustStore(Path(trust))), tell)


def serve() -> None:
    """Fork an installing child per line of stdin."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            install_until(**json.loads(line))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
