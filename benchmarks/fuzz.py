"""Damaged and hostile bytes against everything that parses: `python -m benchmarks.fuzz [--cases 1000000]`.

A case is right when it is accepted or refused with a RoadworthyError. Any other exception, more than 5 s, memory above
the cap, or the death of the process is a failure, and its bytes are kept beside the result.

Cases come in batches, each in a process of its own with a seed of its own. Every finished batch is added to
results/fuzz.json, so a run that is stopped goes on where it was. Engines: ``mutation`` (seeded random edits of good
samples), ``hypothesis`` (its strategies make the edits), ``atheris`` (guided by coverage; `pip install atheris`).
"""

from __future__ import annotations

import argparse
import base64
import collections
import contextlib
import importlib.util
import io
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, record
from edge_runtime.cold_start import memory
from edge_runtime.errors import RoadworthyError

HANG_SECONDS = 5.0
MEMORY_CAP = 2 << 30
# Cases of one process, so that all batches take alike: seconds, not minutes.
BATCH = {
    "manifest": 20_000,
    "root": 10_000,
    "targets": 10_000,
    "model": 20_000,
    "image": 5_000,
    "bundle": 2_000,
    "log": 500,
}
SHARE = {"manifest": 0.3, "root": 0.1, "targets": 0.1, "model": 0.2, "image": 0.2, "bundle": 0.08, "log": 0.02}
ENGINE_SHARE = {"mutation": 0.8, "hypothesis": 0.1, "atheris": 0.1}
TOKENS = (
    b"",
    b"\0",
    b"\xff",
    b'"',
    b"{",
    b"[",
    b"}",
    b"-1",
    b"1e999",
    b"null",
    b"true",
    b"18446744073709551616",
    b"NaN",
    b"../",
)

Parse = Callable[[bytes], object]


class HangError(Exception):
    """A case took longer than it may."""


@dataclass(frozen=True)
class Target:
    """What is fuzzed: a function of bytes that parses, and good samples to begin with."""

    parse: Parse
    samples: tuple[bytes, ...]


def workplace(folder: Path) -> dict[str, Path]:
    """Make a signed bundle and a log to damage."""
    from tests.edge_runtime.log_tools import fill
    from tests.edge_runtime.tiny_bundle import tiny_network
    from tests.edge_runtime.trust.publisher import Publisher, golden_bundle

    bundle = golden_bundle(folder / "bundle", tiny_network())
    publisher = Publisher(folder / "keys")
    publisher.rotate("targets")
    publisher.sign(bundle)
    return {"bundle": bundle, "root": publisher.root(1), "log": fill(folder / "log.db", 40, 300), "scratch": folder}


def manifest_target(made: dict[str, Path]) -> Target:
    from edge_runtime.bundle import decode_manifest

    return Target(lambda data: decode_manifest(data, Path("manifest.json")), (read(made, "manifest.json"),))


def root_target(made: dict[str, Path]) -> Target:
    return metadata_target("root", read(made, "metadata/2.root.json"))


def targets_target(made: dict[str, Path]) -> Target:
    return metadata_target("targets", read(made, "metadata/targets.json"))


def metadata_target(role: str, sample: bytes) -> Target:
    from edge_runtime.trust.metadata import decode

    return Target(lambda data: decode(data, role, role), (sample,))


def model_target(made: dict[str, Path]) -> Target:
    from edge_runtime.onnx_guard import refuse_unsafe

    samples = tuple(read(made, name) for name in ("classifier.onnx", "explainer.onnx"))
    return Target(lambda data: refuse_unsafe(data, "model.onnx"), samples)


def image_target(made: dict[str, Path]) -> Target:
    import numpy as np
    from PIL import Image

    from edge_runtime.preprocess import load_image

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8))
    samples = []
    for kind, options in (("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("PNG", {"compress_level": 0})):
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        samples.append(buffer.getvalue())
    return Target(load_image, tuple(samples))


def bundle_target(made: dict[str, Path]) -> Target:
    """The first byte chooses a file, the second what becomes of it, the rest are its bytes; then it is all opened."""
    from edge_runtime.trust import Trusted, open_trusted

    trusted = Trusted({1: made["root"].read_bytes()})
    names = sorted(path.relative_to(made["bundle"]).as_posix() for path in made["bundle"].rglob("*") if path.is_file())
    contents = {name: read(made, name) for name in names}
    copy = Path(shutil.copytree(made["bundle"], made["scratch"] / "damaged"))

    def parse(data: bytes) -> object:
        name, action, content = names[data[0] % len(names)] if data else names[0], data[1:2], data[2:]
        path, other = copy / name, copy / f"x{len(content) % 3}"
        try:
            path.unlink()
            kind = action[0] % 8 if action else 0
            if kind == 0:
                path.symlink_to(made["bundle"] / name)
            elif kind == 1:
                path.mkdir()
            elif kind == 2:
                path.write_bytes(contents[name])
                other.write_bytes(content)
            elif kind != 3:
                path.write_bytes(content)
            return open_trusted(copy, trusted)
        finally:
            other.unlink(missing_ok=True)
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            path.unlink(missing_ok=True)
            path.write_bytes(contents[name])

    return Target(parse, tuple(bytes([index, 4]) + contents[name] for index, name in enumerate(names)))


def log_target(made: dict[str, Path]) -> Target:
    from edge_runtime.log import read as read_log
    from edge_runtime.log import verify

    path = made["scratch"] / "damaged.db"

    def parse(data: bytes) -> object:
        path.write_bytes(data)
        result = verify(path)
        return result, collections.deque(read_log(path), maxlen=1)

    return Target(parse, (made["log"].read_bytes(),))


TARGETS: dict[str, Callable[[dict[str, Path]], Target]] = {
    "manifest": manifest_target,
    "root": root_target,
    "targets": targets_target,
    "model": model_target,
    "image": image_target,
    "bundle": bundle_target,
    "log": log_target,
}


def read(made: dict[str, Path], name: str) -> bytes:
    return (made["bundle"] / name).read_bytes()


class Watch:
    """Runs cases, bounds their time, and counts what came of them."""

    def __init__(self, parse: Parse) -> None:
        self._parse = parse
        self.counts: collections.Counter[str] = collections.Counter()
        self.slowest = 0.0
        self.failures: list[dict[str, str]] = []

    def __call__(self, data: bytes) -> None:
        begin = time.perf_counter()
        try:
            with alarm(HANG_SECONDS):
                self._parse(data)
            outcome = "accepted"
        except RoadworthyError:
            outcome = "refused"
        except Exception as error:  # whatever else comes out is what is looked for
            outcome = "failed"
            self.failures.append(
                {"error": f"{type(error).__name__}: {error}"[:300], "data": base64.b64encode(data).decode()}
            )
        self.counts[outcome] += 1
        self.slowest = max(self.slowest, time.perf_counter() - begin)


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise HangError in the block once it has taken so long."""

    def ring(number: int, frame: Any) -> None:
        raise HangError(f"more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def edited(samples: tuple[bytes, ...], choose: random.Random) -> bytes:
    """Return a good sample after one to six edits: bits, bytes, tokens, cuts, repetitions, pieces of another sample."""
    data = bytearray(choose.choice(samples))
    for _ in range(choose.choice((1, 1, 1, 2, 3, 6))):
        at = choose.randrange(len(data) + 1)
        length = min(choose.choice((1, 1, 2, 4, 16, 300)), len(data) - at)
        kind = choose.randrange(7)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << choose.randrange(8)
        elif kind == 1:
            data[at : at + length] = choose.randbytes(length)
        elif kind == 2:
            data[at : at + length] = choose.choice(TOKENS)
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[at : at + length] * choose.choice((1, 2, 50))
        elif kind == 5:
            del data[at:]
        else:
            other = choose.choice(samples)
            start = choose.randrange(len(other))
            data[at : at + length] = other[start : start + length]
    return bytes(data)


def by_mutation(target: Target, watch: Watch, cases: int, seed: int) -> None:
    choose = random.Random(seed)
    for _ in range(cases):
        watch(edited(target.samples, choose))


def by_hypothesis(target: Target, watch: Watch, cases: int, seed: int) -> None:
    import hypothesis
    from hypothesis import strategies as st

    edits = st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 64), st.one_of(st.binary(max_size=8), st.sampled_from(TOKENS))),
        max_size=6,
    )
    settings = hypothesis.settings(
        max_examples=cases, deadline=None, database=None, phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip

    @hypothesis.seed(seed)
    @settings
    @hypothesis.given(st.sampled_from(target.samples), edits)
    def case(sample: bytes, changes: list[tuple[float, int, bytes]]) -> None:
        data = sample
        for place, length, content in changes:
            at = int(place * len(data))
            data = data[:at] + content + data[at + length :]
        watch(data)

    case()


def by_atheris(target: Target, watch: Watch, cases: int, seed: int) -> None:
    """Atheris ends the process itself, so the report is written before its last case."""
    import atheris

    corpus = Path(tempfile.mkdtemp(prefix="roadworthy-corpus-"))
    for number, sample in enumerate(target.samples):
        (corpus / str(number)).write_bytes(sample)

    def case(data: bytes) -> None:
        watch(data)
        if sum(watch.counts.values()) == cases:
            report(watch)
            shutil.rmtree(corpus)

    longest = 4 * max(map(len, target.samples))
    options = [f"-runs={cases + 10}", f"-seed={seed + 1}", f"-max_len={longest}", "-rss_limit_mb=0", "-verbosity=0"]
    atheris.Setup([sys.argv[0], str(corpus), *options], case)
    atheris.Fuzz()


ENGINES = {"mutation": by_mutation, "hypothesis": by_hypothesis, "atheris": by_atheris}


def report(watch: Watch) -> None:
    """Print what a batch found, with this process's peak memory."""
    # Not ru_maxrss, which a process takes over from the one that started it.
    peak = memory().get("peak", 0.0)
    found = {"counts": watch.counts, "slowest": watch.slowest, "peak_mib": peak, "failures": watch.failures}
    print("REPORT " + json.dumps(found), flush=True)


def child(name: str, engine: str, cases: int, seed: int) -> None:
    """Run one batch in this process."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_CAP, MEMORY_CAP))
    if engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["edge_runtime"]):
            import edge_runtime.bundle
            import edge_runtime.log
            import edge_runtime.preprocess
            import edge_runtime.trust  # noqa: F401
    with tempfile.TemporaryDirectory(prefix="roadworthy-fuzz-") as folder:
        target = TARGETS[name](workplace(Path(folder)))
        watch = Watch(target.parse)
        ENGINES[engine](target, watch, cases, seed)
        report(watch)


def batch(name: str, engine: str, cases: int, seed: int) -> dict[str, Any]:
    """Run one batch in a process of its own; its death is a failure like any other."""
    arguments = [sys.executable, "-m", "benchmarks.fuzz", "--child", name, engine, str(cases), str(seed)]
    begin = time.monotonic()
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - begin
    lines = [line for line in done.stdout.splitlines() if line.startswith("REPORT ")]
    if not lines:
        failure = {"error": f"exit code {done.returncode}: {done.stderr.strip()[-300:]}", "data": f"seed {seed}"}
        return {"counts": {"failed": 1}, "slowest": 0.0, "peak_mib": 0.0, "failures": [failure], "seconds": seconds}
    return {**json.loads(lines[0].removeprefix("REPORT ")), "seconds": seconds}


def add(row: dict[str, Any], found: dict[str, Any]) -> None:
    """Add a batch to its row of the result."""
    for outcome in ("accepted", "refused", "failed"):
        row[outcome] += found["counts"].get(outcome, 0)
    row["cases"] = row["accepted"] + row["refused"] + row["failed"]
    row["batches"] += 1
    row["seconds"] = round(row["seconds"] + found["seconds"], 1)
    row["cases_per_second"] = round(row["cases"] / row["seconds"], 1)
    row["slowest_seconds"] = round(max(row["slowest_seconds"], found["slowest"]), 3)
    row["peak_mib"] = round(max(row["peak_mib"], found["peak_mib"]), 1)
    row["failures"] = [*row["failures"], *found["failures"]][:20]


def earlier() -> dict[tuple[str, str], dict[str, Any]]:
    """Return the rows recorded so far, and an empty one for every pair that has none."""
    empty = {"cases": 0, "accepted": 0, "refused": 0, "failed": 0, "batches": 0, "seconds": 0.0, "slowest_seconds": 0.0}
    rows = {
        (name, engine): {"target": name, "engine": engine, **empty, "peak_mib": 0.0, "failures": []}
        for name in TARGETS
        for engine in ENGINES
    }
    path = RESULTS / "fuzz.json"
    recorded = json.loads(path.read_text())["rows"] if path.exists() else []
    return {**rows, **{(row["target"], row["engine"]): row for row in recorded}}


def main(arguments: list[str]) -> None:
    """Go on until every target and engine has its share of the cases."""
    if arguments[:1] == ["--child"]:
        name, engine, cases, seed = arguments[1:]
        child(name, engine, int(cases), int(seed))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", type=int, default=1_000_000, help="all cases, those recorded before included")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=None)
    options = parser.parse_args(arguments)
    engines = options.engines or [each for each in ENGINES if each != "atheris" or importlib.util.find_spec("atheris")]
    whole = sum(ENGINE_SHARE[engine] for engine in engines)
    rows = earlier()
    for name in options.targets:
        for engine in engines:
            row = rows[name, engine]
            wanted = round(options.cases * SHARE[name] * ENGINE_SHARE[engine] / whole)
            while row["cases"] < wanted:
                add(row, batch(name, engine, min(BATCH[name], wanted - row["cases"]), row["batches"]))
                record("fuzz", list(rows.values()), hang_seconds=HANG_SECONDS, memory_cap_mib=MEMORY_CAP >> 20)
            print(json.dumps({key: value for key, value in row.items() if key != "failures"}), flush=True)
            for failure in row["failures"]:
                print("  FAILURE", failure["error"])
    print(
        f"{sum(row['cases'] for row in rows.values()):,} cases, {sum(row['failed'] for row in rows.values())} failures"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
