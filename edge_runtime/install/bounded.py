"""The self-test of a bundle that nobody has run yet, in a process that cannot take the machine with it.

A few bytes of ONNX can ask for gigabytes or for hours (docs/install.md), so the first session of an unknown model is
created in a child with bounded memory and processor time. ``python -m edge_runtime.install.bounded`` is that child.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import InputError, InstallError, RoadworthyError

if TYPE_CHECKING:
    from edge_runtime.self_test import SelfTest

PROGRAM = "edge_runtime.install.bounded"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What the child may take: bytes of its own memory, seconds of processor time, seconds in all."""

    memory_bytes: int = 4 << 30
    cpu_seconds: int = 120
    seconds: float = 300.0

    def check(self) -> None:
        """Raise InputError for limits within which nothing runs."""
        if self.memory_bytes < 64 << 20 or self.cpu_seconds < 1 or self.seconds <= 0:
            raise InputError(
                f"limits of {self.memory_bytes >> 20} MiB and {self.cpu_seconds} s are too low; raise them"
            )


def bounded_self_test(
    bundle: Path, limits: Limits, provider: str, precision: str, threads: int | None = None
) -> SelfTest:
    """Compute the golden set of ``bundle`` in a child and return the deviations.

    Raises InstallError when the child fails, does not agree, or reaches a limit.
    """
    import msgspec

    from edge_runtime.self_test import SelfTest

    limits.check()
    request = {"bundle": str(bundle), "provider": provider, "precision": precision, "threads": threads}
    package_root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(
            [sys.executable, "-m", PROGRAM, json.dumps({**request, "limits": asdict(limits)})],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limits.seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InstallError(
            f"the self-test did not end within {limits.seconds:g} s; the bundle is not activated"
        ) from None
    if done.returncode:
        raise InstallError(f"the self-test failed ({reason_of(done)}); the bundle is not activated")
    result = msgspec.json.decode(done.stdout, type=SelfTest)
    for passed in result.passed_over:
        logger.warning("%s", passed)
    if not result.passed:
        raise InstallError(
            f"the self-test on {result.provider} does not reproduce the golden set ({result.verdict}); "
            "the bundle is not activated"
        )
    return result


def reason_of(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return the child's own line, or the signal that ended it."""
    if done.returncode == -signal.SIGXCPU:
        return "it took more processor time than it may"
    if done.returncode < 0:
        return f"ended by {signal.Signals(-done.returncode).name}"
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return said[-1][:300] if said else f"exit code {done.returncode}"


def limit(limits: dict[str, Any]) -> None:
    """Bound this process for good."""
    cpu, memory = int(limits["cpu_seconds"]), int(limits["memory_bytes"])
    # Own memory, not the address space: engines reserve far more of the latter than they ever touch.
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(arguments: list[str]) -> int:
    """Take the request as JSON and print the deviations as JSON; an expected failure is one line on stderr."""
    request = json.loads(arguments[0])
    limit(request["limits"])
    import msgspec

    from edge_runtime.bundle import open_bundle
    from edge_runtime.self_test import EXPLAINED, self_test

    try:
        result = self_test(
            open_bundle(request["bundle"]),
            request["provider"],
            request["threads"],
            precision=request["precision"],
            explained=EXPLAINED,
        )
    except MemoryError:
        print("it asks for more memory than it may have", file=sys.stderr)
        return 1
    except RoadworthyError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    sys.stdout.buffer.write(msgspec.json.encode(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
