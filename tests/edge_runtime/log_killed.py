"""The process that the kill tests kill: for every line on stdin it forks a child that logs until it dies.

A line is ``PATH SEED``. The child writes every acknowledged anchor, one per line, to the descriptor in argv[1]. This
process answers ``started PID`` and, when the child is gone, ``gone STATUS``. Forking saves an interpreter per kill.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

from tests.edge_runtime.log_tools import frame, open_log


def log_until_killed(path: Path, seed: int, acknowledgements: int) -> None:
    """Append and commit without end, in batches of random size, pictures included."""
    randomness = random.Random(seed)
    log = open_log(path)
    number = seed * 1_000_000
    while True:
        for _ in range(randomness.randint(1, 8)):
            log.append(frame(number, randomness.choice((0, 0, 500, 4000))))
            number += 1
        log.commit()
        os.write(acknowledgements, f"{log.head}\n".encode())


def serve(acknowledgements: int) -> None:
    """Fork a logging child per line of stdin."""
    for line in sys.stdin:
        path, seed = line.split()
        child = os.fork()
        if child == 0:
            log_until_killed(Path(path), int(seed), acknowledgements)
        print(f"started {child}", flush=True)
        _, status = os.waitpid(child, 0)
        print(f"gone {os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
