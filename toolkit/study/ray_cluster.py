"""A Ray cluster from the driver's side: whether it answers, and the connection to it."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
from collections.abc import Iterator

from edge_runtime.errors import InputError

REACH = 10.0  # seconds for a connection
ANSWER = 90.0  # seconds for a cluster to answer; longer than Ray itself tries
CLIENT = "ray://"
NEAREST = "auto"  # Ray's name for a cluster on this machine

_PROBE = """
import logging, sys
import ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
assert ray.cluster_resources()
"""


def check(address: str) -> None:
    """Raise InputError unless a cluster answers at ``address`` (HOST:PORT, ray://HOST:PORT or auto) and takes us.

    Another process asks: Ray ends the one that meets a silent cluster, without an exception.
    """
    if address != NEAREST:
        _reach(address)
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _PROBE, address],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=ANSWER,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"no Ray cluster answered at {address} within {ANSWER:g} s; is that its address?") from None
    if asked.returncode:
        raise InputError(
            f"the Ray cluster at {address} does not take this study: {_reason(asked.stderr)}; is it the same Ray, and "
            "are RAY_AUTH_MODE and RAY_AUTH_TOKEN those of the cluster?"
        )


def _reach(address: str) -> None:
    host, colon, port = address.removeprefix(CLIENT).rpartition(":")
    if not (colon and host and port.isdigit() and 0 < int(port) < 65536):
        raise InputError(f"address {address!r} is not HOST:PORT, {CLIENT}HOST:PORT or {NEAREST}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH).close()
    except OSError as error:
        raise InputError(
            f"nothing answers at {address} ({error.strerror or error}); is the cluster running, and its port open?"
        ) from None


def _reason(text: str) -> str:
    """Return the line of an exception in what a process wrote before it ended."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    exceptions = [line for line in lines if line.partition(":")[0].endswith(("Error", "Exception"))]
    return (exceptions or lines or ["it ended without a word"])[-1][:300]


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect this process to the cluster, and leave it at the end; tasks that still run are ended then."""
    import ray

    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def most(resource: str) -> float:
    """Return how much of a resource ("CPU", "GPU") the best machine of the cluster has."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return max((float(resources.get(resource, 0.0)) for resources in nodes), default=0.0)
