"""The vehicle loop on VGG-16 at 32x32: what auditing costs, how old frames get, what an hour leaves behind.

    python -m benchmarks.loop                 everything (an hour); records benchmarks/results/loop.json
    python -m benchmarks.loop auditing        one part (auditing, placement, overload, hour); replaces its rows there
    python -m benchmarks.loop --quick         every part for seconds, printed only: does it run?

Frames are noise of the size of a crop, made before the clock starts; the loop runs as `roadworthy audit --source` does.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import RESULTS, awake_cores, record
from benchmarks.runtime import make_bundle
from edge_runtime.bundle import Bundle
from edge_runtime.classifier import Classifier
from edge_runtime.explainer import Explainer
from edge_runtime.log import AuditLog, FrameRecord, read
from edge_runtime.log.frames import identity_of
from edge_runtime.loop import GROUP, EngineOptions, LadderOptions, LoopOptions, ScheduleOptions, VehicleLoop
from edge_runtime.loop.schedule import Gaps
from edge_runtime.sources.frame import Frame, Report
from edge_runtime.workload import benchmark_images
from toolkit.cli.loop import SWITCH_SECONDS

MODEL = "vgg16@32"
RATE = 30.0
CROP = 48  # pixels: about the size of a sign on the road
PICTURES = 256
SETTLING = 30  # frames at the start of a block, whose sessions are new
OVERLOAD = 10
HOUR = 108_000
LOG_BYTES = 64 << 20
# A ladder that never moves: what is measured is the work, not its absence.
NO_LADDER = LadderOptions(target_ms=1e9, hot_celsius=1e9)
ALONE = ScheduleOptions(methods=(), road_images=0)
SCHEDULES: dict[str, ScheduleOptions] = {
    "classification alone": ALONE,
    "VG on every 10th": ScheduleOptions(methods=("vg",), road_images=0),
    "VG on every 10th, IG, SG and ROAD by budget": ScheduleOptions(),
}


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    rounds: int = 20
    block_frames: int = 300
    overload_frames: int = 10_000
    hour_frames: int = HOUR


QUICK = Extent(rounds=1, block_frames=60, overload_frames=500, hour_frames=300)


@dataclass
class Paced:
    """The same pictures again and again: ``rate`` frames a second, live, or as fast as they are taken (None)."""

    pictures: NDArray[np.uint8]
    count: int
    rate: float | None
    name: str = "paced"
    failed: int = 0
    each: Callable[[int], None] = field(default=lambda number: None)

    @property
    def live(self) -> bool:
        return self.rate is not None

    def frames(self, report: Report, stopping: Callable[[], bool]) -> Iterator[Frame]:
        start = time.monotonic()
        for number in range(self.count):
            if stopping():
                return
            if self.rate is not None:
                # A source that fell behind goes on from now: a camera never delivers its past in a burst.
                start = max(start, time.monotonic() - (number + 1) / self.rate)
                wait = start + number / self.rate - time.monotonic()
                if wait > 0:
                    time.sleep(wait)
            self.each(number)
            yield Frame(str(number), self.pictures[number % len(self.pictures)], captured_ns=time.monotonic_ns())

    def __enter__(self) -> Paced:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing is open."""


def pictures() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (PICTURES, CROP, CROP, 3), np.uint8)


def run_loop(bundle: Bundle, source: Paced, schedule: ScheduleOptions, log: Path | None = None) -> VehicleLoop:
    """Run one loop to its end, logging like a vehicle where a ``log`` is named."""
    options = LoopOptions(engine=EngineOptions(timeout=60.0), schedule=schedule, ladder=NO_LADDER)
    opened = None
    if log is not None:
        opened = AuditLog(log, identity_of(bundle, provider="cpu"), max_bytes=LOG_BYTES, group=GROUP)
    loop = VehicleLoop(bundle, source, options, log=opened)
    summary = loop.run()
    counts = summary.counts
    assert counts.produced == counts.processed + counts.dropped + counts.failed and not counts.failed, counts
    assert summary.problem is None, summary.problem
    return loop


def auditing(bundle: Bundle, folder: Path, extent: Extent) -> Iterator[dict[str, Any]]:
    """Yield classification and age at 30 frames a second, with and without auditing, in blocks taking turns.

    Frames during which the host took the processor away ("steal" of a virtual machine) say nothing about the program:
    every figure stands once over all frames and once without these. What an explanation leaves behind (cold caches) the
    frame after it would pay: these are compared with the other frames of the same blocks.
    """
    shown = pictures()
    blocks: dict[str, list[Block]] = {name: [] for name in SCHEDULES}
    audits: dict[str, dict[str, int]] = {}
    for number in range(extent.rounds):
        # The order turns with every round, so that none always follows the same other.
        names = list(SCHEDULES)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            log = folder / f"auditing-{number}-{names.index(name)}.db"
            steal: list[int] = []
            source = Paced(
                shown, extent.block_frames + SETTLING, RATE, each=lambda _, steal=steal: steal.append(stolen())
            )
            loop = run_loop(bundle, source, SCHEDULES[name], log)
            blocks[name].append(logged_block(log, [*steal, stolen()]))
            done = audits.setdefault(name, {})
            for kind, count in loop.summary().audits.items():
                done[kind] = done.get(kind, 0) + count
    base = blocks["classification alone"]
    for name, found in blocks.items():
        row: dict[str, Any] = {"measure": "auditing", "what": name, "frames_per_second": RATE}
        for which, frames, reference in (
            ("", found, base),
            ("_without_steal", [each.quiet() for each in found], [each.quiet() for each in base]),
        ):
            row[f"frames{which}"] = sum(len(each.age) for each in frames)
            for stage in ("classify", "age"):
                ours, theirs = ([getattr(each, stage) for each in side] for side in (frames, reference))
                row |= {f"{stage}{which}_{key}_ms": value for key, value in percentiles(np.concatenate(ours)).items()}
                row[f"{stage}{which}_p99_ratio"] = round(p99(np.concatenate(ours)) / p99(np.concatenate(theirs)), 4)
                row[f"{stage}{which}_p99_ratio_interval"] = [round(end, 4) for end in ratio_interval(ours, theirs)]
        if any(each.after.any() for each in found):
            after, others = ([each.classify[each.after == which] for each in found] for which in (True, False))
            for key, side in (("after_explanation", after), ("other_frames", others)):
                row |= {f"classify_{key}_{which}_ms": v for which, v in percentiles(np.concatenate(side)).items()}
            row["classify_after_explanation_p99_ratio"] = round(
                p99(np.concatenate(after)) / p99(np.concatenate(others)), 4
            )
            row["classify_after_explanation_p99_ratio_interval"] = [
                round(end, 4) for end in ratio_interval(after, others)
            ]
        yield {**row, "audits": audits[name]}


@dataclass(frozen=True)
class Block:
    """Frames of one run of the loop: milliseconds of classification and age, whether the host took a core, and whether
    the frame before was explained."""

    classify: NDArray[np.float64]
    age: NDArray[np.float64]
    stolen: NDArray[np.bool_]
    after: NDArray[np.bool_]

    def quiet(self) -> Block:
        kept = ~self.stolen
        return Block(self.classify[kept], self.age[kept], self.stolen[kept], self.after[kept])


def logged_block(log: Path, steal: list[int]) -> Block:
    """Return the block that a loop logged; ``steal`` is the counter when each frame came, and once at the end."""
    latency: dict[int, dict[str, float | None]] = {}
    explained = set()
    for row in read(log, kind="frame"):
        assert isinstance(row.record, FrameRecord)
        if "age" in row.record.latency_ms:
            latency[int(row.record.frame_id)] = row.record.latency_ms
            if row.record.explainers:
                explained.add(int(row.record.frame_id))
    numbers = [number for number in sorted(latency) if number >= SETTLING]
    return Block(
        classify=np.array([latency[number]["classify"] for number in numbers], np.float64),
        age=np.array([latency[number]["age"] for number in numbers], np.float64),
        stolen=np.array([steal[number + 1] > steal[number] for number in numbers], bool),
        after=np.array([number - 1 in explained for number in numbers], bool),
    )


def stolen() -> int:
    """Return the kernel's count of what the host took from all cores (ticks; 0 where there is no such count)."""
    try:
        with open("/proc/stat") as file:
            return int(file.readline().split()[8])
    except (OSError, IndexError):
        return 0


def placement(bundle: Bundle, folder: Path, extent: Extent) -> Iterator[dict[str, Any]]:
    """Yield classification with VG on every 10th frame in the gaps, or in a second thread of low priority.

    Bare sessions without the loop around them: the comparison that its design rests on.
    """
    classifier, image = Classifier(bundle), benchmark_images(bundle, 1)
    explainers = {"slices": Explainer(bundle, classifier=classifier), "thread": Explainer(bundle, threads=1)}
    samples: dict[str, list[float]] = {"none": [], "slices": [], "thread": []}
    ages: dict[str, list[float]] = {name: [] for name in samples}
    for _ in range(5):
        classifier.predict(image)
        for explainer in explainers.values():
            explainer.explain(image, "vg", 1)
    for number in range(extent.rounds):
        names = list(samples)
        for name in names[number % 3 :] + names[: number % 3]:
            with explaining(name, explainers, image) as (now, between):
                start = time.perf_counter()
                for frame in range(extent.block_frames):
                    due = start + frame / RATE
                    between(due)
                    time.sleep(max(0.0, due - time.perf_counter()))
                    begin = time.perf_counter()
                    classifier.predict(image)
                    done = time.perf_counter()
                    samples[name].append(1e3 * (done - begin))
                    ages[name].append(1e3 * (done - due))
                    if frame % 10 == 0:
                        now()
    for name in samples:
        row = {f"classify_{key}_ms": value for key, value in percentiles(np.asarray(samples[name])).items()}
        row |= {f"age_{key}_ms": value for key, value in percentiles(np.asarray(ages[name])).items()}
        yield {"measure": "placement", "what": name, "samples": len(samples[name]), **row}


@contextlib.contextmanager
def explaining(
    name: str, explainers: dict[str, Explainer], image: NDArray[np.float32]
) -> Iterator[tuple[Callable[[], None], Callable[[float], None]]]:
    """Yield what to call when an explanation is due, and what to call before waiting for the frame of a given time."""
    due, closing, gaps = threading.Event(), threading.Event(), Gaps()

    def between(until: float) -> None:
        if name == "slices" and due.is_set() and gaps.fits("vg", until - time.perf_counter()):
            due.clear()
            begin = time.perf_counter()
            explainers[name].explain(image, "vg", 1)
            gaps.took("vg", time.perf_counter() - begin)

    def work() -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        while not closing.is_set():
            if due.wait(0.1):
                due.clear()
                explainers[name].explain(image, "vg", 1)

    thread = threading.Thread(target=work)
    if name == "thread":
        thread.start()
    try:
        yield due.set, between
    finally:
        closing.set()
        if name == "thread":
            thread.join()


def overload(bundle: Bundle, folder: Path, extent: Extent) -> Iterator[dict[str, Any]]:
    """Yield the age of processed frames when ten times as many come as can be classified, in inference times.

    Once in median inference times of the run, and once in those of the frame itself: where the host holds up single
    inferences, the latter says what the loop adds to them.
    """
    shown = pictures()
    alone = run_loop(bundle, Paced(shown, max(200, extent.overload_frames // 100), None), ALONE)
    serving = alone.board.samples("preprocess") + alone.board.samples("classify")
    inference = float(np.median(serving))
    for name, schedule in SCHEDULES.items():
        source = Paced(shown, extent.overload_frames, OVERLOAD * 1e3 / inference)
        loop = run_loop(bundle, source, schedule, folder / f"overload-{abs(hash(name))}.db")
        summary, ages = loop.summary(), loop.board.samples("age")
        inferences = loop.board.samples("preprocess") + loop.board.samples("classify")
        own = float(np.median(inferences))
        yield {
            "measure": "overload",
            "what": name,
            "frames_per_second": round(summary.counts.produced / summary.seconds, 1),
            "processed_per_second": round(summary.counts.processed / summary.seconds, 1),
            "inference_ms": round(own, 3),
            "inference_unloaded_ms": round(inference, 3),
            **{f"age_{key}_ms": value for key, value in percentiles(ages).items()},
            "age_p99_in_inferences": round(p99(ages) / own, 3),
            "share_under_two_inferences": round(float(np.mean(ages < 2 * own)), 5),
            "age_p99_in_own_inferences": round(p99(ages / inferences), 3),
            "share_under_two_own_inferences": round(float(np.mean(ages < 2 * inferences)), 5),
            "audits": summary.audits,
        }


def hour(bundle: Bundle, folder: Path, extent: Extent) -> Iterator[dict[str, Any]]:
    """Yield memory, descriptors and threads over an hour's worth of frames, as fast as they are processed."""
    found: list[tuple[int, float, int, int]] = []
    step = max(1, extent.hour_frames // 200)

    def look(number: int) -> None:
        if number % step == 0:
            if number % (10 * step) == 0:
                gc.collect()
            found.append((number, resident_mib(), len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))))

    source = Paced(pictures(), extent.hour_frames, None, each=look)
    schedule = replace(ScheduleOptions(), costly_every=1000)
    loop = run_loop(bundle, source, schedule, folder / "hour.db")
    summary = loop.summary()
    # Caches fill up in the beginning; the log needs the first half to reach its cap and begin to evict.
    late = [row for row in found if row[0] >= extent.hour_frames // 2]
    frames, memory = np.asarray([row[0] for row in late]), np.asarray([row[1] for row in late])
    yield {
        "measure": "hour",
        "what": f"{extent.hour_frames} frames, logged",
        "seconds": round(summary.seconds, 1),
        "frames_per_second": round(summary.counts.processed / summary.seconds, 1),
        "rss_mib": [round(found[0][1], 2), round(late[0][1], 2), round(late[-1][1], 2)],
        "rss_slope_mib_per_hour": round(float(np.polyfit(frames, memory, 1)[0]) * HOUR, 3),
        "descriptors": [min(row[2] for row in late), max(row[2] for row in late)],
        "threads": [min(row[3] for row in late), max(row[3] for row in late)],
        "audits": summary.audits,
    }


def percentiles(samples: NDArray[np.float64]) -> dict[str, float]:
    """Return rounded percentiles of milliseconds, and the maximum."""
    found = np.quantile(samples, [0.5, 0.95, 0.99, 1], method="inverted_cdf")
    return dict(zip(("p50", "p95", "p99", "max"), (round(float(value), 3) for value in found), strict=True))


def p99(samples: NDArray[np.float64]) -> float:
    return float(np.quantile(samples, 0.99, method="inverted_cdf"))


def ratio_interval(
    blocks: list[NDArray[np.float64]], base: list[NDArray[np.float64]], resamples: int = 500
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the ratio of p99s, over rounds: both of a round met the same neighbours."""
    generator = np.random.default_rng(0)
    ratios = []
    for _ in range(resamples):
        drawn = generator.integers(0, len(blocks), len(blocks))
        ratios.append(p99(np.concatenate([blocks[i] for i in drawn])) / p99(np.concatenate([base[i] for i in drawn])))
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


PARTS = {"auditing": auditing, "placement": placement, "overload": overload, "hour": hour}
PACED = ("auditing", "placement")  # with pauses between the frames, in which cores fall asleep


def main(arguments: list[str]) -> None:
    """Run the parts named, or all, and record them with the load that other processes made beforehand."""
    context = {
        "load_average": round(os.getloadavg()[0], 2),
        "cores": len(os.sched_getaffinity(0)),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    quick = "--quick" in arguments
    parts = [name for name in arguments if name != "--quick"] or list(PARTS)
    rows: list[dict[str, Any]] = []
    sys.setswitchinterval(SWITCH_SECONDS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle = make_bundle(MODEL, folder)
        for part in parts:
            with awake_cores() if part in PACED else contextlib.nullcontext():
                for row in PARTS[part](bundle, folder, QUICK if quick else Extent()):
                    rows.append(row | context | ({"cores_kept_awake": True} if part in PACED else {}))
                    print(rows[-1], flush=True)
    if not quick:
        print(record("loop", [*other_rows(parts), *rows]))


def other_rows(parts: list[str]) -> list[dict[str, Any]]:
    """Return what is recorded of the parts that were not measured this time."""
    try:
        recorded = json.loads((RESULTS / "loop.json").read_text())["rows"]
    except FileNotFoundError:
        return []
    return [row for row in recorded if row["measure"] not in parts]


if __name__ == "__main__":
    main(sys.argv[1:])
