"""A few damaged samples of every kind in each run of the suite; and the harness sees what it looks for."""

from __future__ import annotations

import base64
import random
import time
from pathlib import Path

import pytest

from benchmarks import fuzz
from edge_runtime.errors import BundleError

QUICK = {"log": 60, "bundle": 60, "image": 150}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return fuzz.workplace(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_damaged_samples_are_accepted_or_refused(name: str, made: dict[str, Path]) -> None:
    target = fuzz.TARGETS[name](made)
    for sample in target.samples:
        target.parse(sample)
    watch = fuzz.Watch(target.parse)
    fuzz.by_mutation(target, watch, QUICK.get(name, 300), seed=1 << 32)
    assert watch.failures == []
    assert watch.counts["refused"] > 0
    assert sum(watch.counts.values()) == QUICK.get(name, 300)


def test_failures_and_hangs_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(data: bytes) -> None:
        if data == b"refused":
            raise BundleError("no")
        if data == b"crash":
            raise ValueError("a bug")
        if data == b"hang":
            time.sleep(30)

    monkeypatch.setattr(fuzz, "HANG_SECONDS", 0.1)
    watch = fuzz.Watch(parse)
    for data in (b"", b"refused", b"crash", b"hang"):
        watch(data)
    assert dict(watch.counts) == {"accepted": 1, "refused": 1, "failed": 2}
    assert [base64.b64decode(each["data"]) for each in watch.failures] == [b"crash", b"hang"]
    assert "more than 0.1 s" in watch.failures[1]["error"]


def test_a_batch_in_a_process_of_its_own() -> None:
    found = fuzz.batch("model", "mutation", 200, seed=0)
    assert sum(found["counts"].values()) == 200
    assert found["peak_mib"] > 10
    dead = fuzz.batch("nothing", "mutation", 200, seed=0)
    assert dead["counts"] == {"failed": 1}
    assert "KeyError" in dead["failures"][0]["error"]


def test_edits_depend_on_the_seed_alone() -> None:
    samples = (bytes(range(256)), b"x" * 50)
    first = [fuzz.edited(samples, random.Random(seed)) for seed in range(50)]
    assert first == [fuzz.edited(samples, random.Random(seed)) for seed in range(50)]
    assert len(set(first)) > 40


def test_rows_add_up() -> None:
    row = fuzz.earlier()["log", "mutation"]
    row = {**row, "cases": 0, "accepted": 0, "refused": 0, "failed": 0, "batches": 0, "seconds": 0.0, "failures": []}
    found = {"counts": {"refused": 3, "failed": 1}, "slowest": 0.5, "peak_mib": 9.0, "failures": [{}], "seconds": 2.0}
    for _ in range(2):
        fuzz.add(row, found)
    assert (row["cases"], row["refused"], row["failed"], row["batches"]) == (8, 6, 2, 2)
    assert row["cases_per_second"] == 2.0
