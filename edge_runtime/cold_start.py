"""From nothing to the first result, timed: ``benchmark`` runs this module in a fresh process.

What is imported belongs to the measurement, so the module itself imports next to nothing.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


class Stopwatch:
    """Milliseconds between laps. ``start`` is a reading of time.monotonic, which all processes of a system share."""

    def __init__(self, start: float) -> None:
        self.laps: dict[str, float] = {}
        self._last = start

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = 1e3 * (now - self._last)
        self._last = now


def main(arguments: list[str]) -> int:
    """Take the request as JSON, print laps and memory as JSON; an expected failure is one line on stderr."""
    request = json.loads(arguments[0])
    watch = Stopwatch(request["spawned"])
    watch.lap("interpreter")
    from edge_runtime.errors import RoadworthyError

    try:
        result = run(watch, request)
    except RoadworthyError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(result))
    return 0


def run(watch: Stopwatch, request: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Load the bundle, classify and explain one image; then everything once at the largest batch, for the memory."""
    import edge_runtime
    from edge_runtime import explainer, sessions, workload
    from edge_runtime.path import METHODS
    from edge_runtime.trust import open_required

    provider, threads, precision = request["provider"], request["threads"], request["precision"]

    sessions.import_onnxruntime()
    watch.lap("import")
    opened = open_required(request["bundle"])
    watch.lap("open_bundle")
    classifier = edge_runtime.Classifier(opened, provider, threads, precision=precision)
    watch.lap("classifier_session")
    images = workload.benchmark_images(opened, request["batch"])
    classifier.predict(images[:1])
    watch.lap("first_class")
    if request["explain"]:
        graph = edge_runtime.Explainer(opened, provider, threads, precision=precision, classifier=classifier)
        watch.lap("explainer_session")
        graph.explain(images[:1], explainer.DEFAULT_METHOD)
        watch.lap("first_explanation")
        for method in METHODS:
            graph.explain(images, method)
    classifier.predict(images)
    return {"laps": watch.laps, "memory": memory()}


def memory() -> dict[str, float]:
    """Return this process's resident memory, now and at its peak, in MiB; empty where the system does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            fields = dict(line.split(":", 1) for line in file)
        return {name: float(fields[key].split()[0]) / 1024 for name, key in (("steady", "VmRSS"), ("peak", "VmHWM"))}
    except (OSError, KeyError):
        return {}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
