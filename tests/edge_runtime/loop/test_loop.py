"""The whole loop on small bundles: books, records, replay, priorities, and every fault that it must survive."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import pytest

from edge_runtime.audit import AuditOptions, audit_bundle
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.device import DeviceReadings
from edge_runtime.errors import InputError, ProviderError
from edge_runtime.live import LiveWriter, read_live, read_picture
from edge_runtime.log import EventRecord, FrameRecord
from edge_runtime.log.writer import Surroundings
from edge_runtime.loop import EngineOptions, LadderOptions, ScheduleOptions, VehicleLoop
from edge_runtime.loop import engine as engine_module
from edge_runtime.manifest import Baselines, DriftOptions, RoadBaseline
from edge_runtime.metrics import PERCENTAGES
from edge_runtime.preprocess import normalize
from edge_runtime.sources.frame import BACK, LOST, Box, Frame, Report
from tests.edge_runtime.log_tools import hooked, storage_error
from tests.edge_runtime.loop.hanging import HANGS, hanging_files
from tests.edge_runtime.loop.loop_tools import (
    QUICK,
    ArraySource,
    balanced,
    comparable,
    events,
    frames,
    open_audit_log,
    records,
    run,
)
from tests.edge_runtime.tiny_bundle import LABELS, SPEC, TinyNetwork, images, tiny_files, write_tiny_bundle

WHITE = normalize(np.full((1, SPEC.height, SPEC.width, 3), HANGS, np.uint8), SPEC)


def names(path: Path) -> list[str]:
    return [event.name for event in events(path)]


def test_a_replay_takes_every_frame_and_audits_by_counts(tiny: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "log"
    summary = run(tiny, ArraySource(images(40)), path)
    assert balanced(summary)
    assert (summary.counts.processed, summary.images, summary.ended) == (40, 40, "the source ended")
    found = frames(path)
    assert [frame.frame_id for frame in found] == [f"frame-{number:05}" for number in range(40)]
    explained = {frame.frame_id: set(frame.explainers) for frame in found if frame.explainers}
    every = {f"frame-{number:05}" for number in range(0, 40, 4)}
    assert set(explained) == every
    assert all("vg" in methods for methods in explained.values())
    # Every third VG brings a costly one along, in turns.
    assert [sorted(methods - {"vg"}) for methods in explained.values()][:7] == [["ig"], [], [], ["sg"], [], [], ["ig"]]
    assert [len(frame.road) for frame in found].index(2) == 19
    assert sum(bool(frame.road) for frame in found) == 2
    assert summary.audits == {"vg": 10, "ig": 2, "sg": 2, "road": 2}
    assert names(path) == ["started", "stopped"]


def test_records_say_what_the_runtime_says(tiny: Bundle, tmp_path: Path) -> None:
    """Preprocessing, classes, probabilities and Gini are those of the audit on the same images."""
    shown = images(24)
    np.savez(tmp_path / "images.npz", images=shown)
    audited = audit_bundle(tiny, tmp_path / "images.npz", AuditOptions(methods=("vg",), road=False, threads=1))
    run(tiny, ArraySource(shown), tmp_path / "log")
    found = frames(tmp_path / "log")
    assert audited.confidence is not None
    assert [frame.probability for frame in found] == pytest.approx(audited.confidence.values)
    expected = {number: audited.explainers["vg"].gini.values[number] for number in range(0, 24, 4)}
    measured = {int(frame.frame_id[-5:]): frame.explainers["vg"].gini for frame in found if frame.explainers}
    assert measured == pytest.approx(expected)
    assert all(frame.image and frame.saliency for frame in found if frame.explainers)
    assert not any(frame.image or frame.saliency for frame in found if not frame.explainers)


def test_replaying_twice_gives_the_same_records(tiny: Bundle, tmp_path: Path) -> None:
    def trouble(number: int, report: Report) -> None:
        if number % 13 == 7:
            report("frame-failed", f"number {number}")

    for name in ("first", "second"):
        run(tiny, ArraySource(images(60), each=trouble), tmp_path / name)
    first, second = comparable(tmp_path / "first"), comparable(tmp_path / "second")
    assert first == second
    assert len([record for record in first if isinstance(record, FrameRecord) and record.road]) == 3
    other = replace(QUICK.schedule, seed=1)
    run(tiny, ArraySource(images(60), each=trouble), tmp_path / "third", schedule=other)
    assert comparable(tmp_path / "third") != first


def test_every_box_is_classified_and_named(tiny: Bundle, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)

    class Boxed(ArraySource):
        def frames(self, report: Report, stopping: Any) -> Any:
            boxes = (Box(0, 0, 8, 8, "stop"), Box(10, 5, 40, 37))
            yield Frame("both", picture, boxes)
            yield Frame("one", picture, boxes[:1])
            yield Frame("none", picture)

    summary = run(tiny, Boxed([]), tmp_path / "log")
    found = frames(tmp_path / "log")
    assert [(frame.frame_id, frame.box, frame.truth) for frame in found] == [
        ("both#0", (0, 0, 8, 8), "stop"),
        ("both#1", (10, 5, 40, 37), None),
        ("one", (0, 0, 8, 8), "stop"),
        ("none", None, None),
    ]
    assert found[0].probability == found[2].probability != found[3].probability
    assert (summary.counts.processed, summary.images) == (3, 4)


def test_live_audits_happen_between_frames(tiny: Bundle, tmp_path: Path) -> None:
    schedule = ScheduleOptions(every=5, budget=0.5, road_images=2, road_window=20)
    source = ArraySource(images(150), live=True, pause=0.02)
    summary = run(tiny, source, tmp_path / "log", schedule=schedule)
    assert balanced(summary)
    assert summary.audits.keys() >= {"vg", "ig", "sg"}
    # Each was done, or skipped because the one before was not done yet; the last may have been dropped at the end.
    assert summary.audits["vg"] + summary.skipped.get("vg", 0) == -(-summary.images // 5)
    explained = sum("vg" in frame.explainers for frame in frames(tmp_path / "log"))
    assert explained == summary.audits["vg"] >= 5
    # Nothing is lost: a record for every frame that was taken, whatever became of its audits.
    assert len(frames(tmp_path / "log")) == summary.counts.processed + summary.counts.failed


def test_frames_stay_fresh_when_far_more_come_than_can_be_served(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times the load: frames are dropped, not queued, and audits get their turn all the same."""

    class Slow:
        def __init__(self, session: Any) -> None:
            self.session = session

        def run(self, *arguments: Any) -> Any:
            time.sleep(0.02)
            return self.session.run(*arguments)

    real = engine_module._Call
    monkeypatch.setattr(engine_module, "_Call", lambda session, *rest: real(Slow(session), *rest))
    schedule = ScheduleOptions(methods=("vg",), road_images=0)
    ladder = LadderOptions(target_ms=1e6)
    source = ArraySource(images(1000), live=True, pause=0.002)
    loop = VehicleLoop(tiny, source, replace(QUICK, schedule=schedule, ladder=ladder))
    summary = loop.run()
    assert balanced(summary)
    assert summary.counts.dropped > 4 * summary.counts.processed
    assert summary.audits["vg"] >= 2
    # The median, for the tail of a busy machine is its own; benchmarks.loop measures the tail.
    assert np.median(loop.board.samples("age")) < 2 * np.median(loop.board.samples("classify"))


def test_a_limit_ends_the_loop(tiny: Bundle, tmp_path: Path) -> None:
    summary = run(tiny, ArraySource(images(40)), tmp_path / "log", frames=20)
    assert (summary.counts.processed, summary.ended) == (20, "20 frames were taken")
    assert frames(tmp_path / "log")[-1].road, "the last frame closed a window"
    summary = run(tiny, ArraySource(images(2000), live=True, pause=0.01), seconds=0.3)
    assert summary.ended == "0.3 seconds have passed"
    assert balanced(summary)


def test_the_live_folder_shows_the_loop(tiny: Bundle, tmp_path: Path) -> None:
    writer = LiveWriter(tmp_path / "live")
    source = ArraySource(images(60), live=True, pause=0.02)
    loop = VehicleLoop(tiny, source, QUICK, live=writer, log=open_audit_log(tmp_path / "log", tiny))
    thread = threading.Thread(target=loop.run)
    thread.start()
    seen = set()
    while thread.is_alive():
        status = read_live(tmp_path / "live")
        if status is not None:
            seen.add(status.state)
            counts = status.counts
            assert counts.produced == counts.processed + counts.dropped + counts.failed + counts.waiting
        time.sleep(0.02)
    thread.join()
    last = read_live(tmp_path / "live")
    assert last is not None
    assert "running" in seen
    assert (last.state, last.message, last.counts.waiting) == ("stopped", "the source ended", 0)
    assert last.shown is not None and last.shown.label in LABELS
    assert last.latency["classify"].count == last.counts.processed
    assert sum(last.histograms["classify"].counts) == last.counts.processed
    assert last.saliency_method == "vg"
    assert last.log["path"] == str(tmp_path / "log")
    assert [name for _, name, _ in last.events] == ["started", "stopped"]
    for name in ("frame.jpg", "overlay.jpg"):
        assert (read_picture(tmp_path / "live", name) or b"").startswith(b"\xff\xd8")


# Faults.


@pytest.fixture(scope="module")
def hanging(tmp_path_factory: pytest.TempPathFactory, network: TinyNetwork) -> Bundle:
    return open_bundle(write_tiny_bundle(tmp_path_factory.mktemp("hanging") / "bundle", hanging_files(network)))


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory, network: TinyNetwork) -> Bundle:
    return open_bundle(write_tiny_bundle(tmp_path_factory.mktemp("poisoned") / "bundle", tiny_files(network, True)))


@pytest.mark.parametrize("live", [False, True])
def test_a_hanging_inference_costs_its_frame_only(hanging: Bundle, tmp_path: Path, live: bool) -> None:
    shown = images(12) // 2
    shown[5] = HANGS

    def wait(number: int, report: Report) -> None:
        if live and number in (5, 6):  # so that the frame that hangs is neither dropped nor the others because of it
            time.sleep(3.0 if number == 6 else 1.0)

    source = ArraySource(shown, live=live, pause=0.05 if live else 0, each=wait)
    summary = run(hanging, source, tmp_path / "log", engine=EngineOptions(threads=1, timeout=1.0), depth=2)
    assert balanced(summary)
    assert (summary.counts.failed, summary.rebuilt) == (1, 1)
    assert summary.counts.processed == 11 - summary.counts.dropped > 3
    assert names(tmp_path / "log") == ["started", "inference-failed", "inference-failed-over", "stopped"]
    (failed,) = [frame for frame in frames(tmp_path / "log") if frame.flags]
    assert failed.frame_id == "frame-00005"
    assert failed.flags[0].startswith("failed: inference took over 1 s and was terminated")


def test_inferences_that_fail_are_counted_and_the_sessions_rebuilt(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's own calls fail for a while, as when a GPU is lost."""
    calls = iter(range(10**9))
    real = engine_module._Call

    def sometimes(session: Any, *rest: Any) -> Any:
        return real(None if 10 <= next(calls) < 15 else session, *rest)

    monkeypatch.setattr(engine_module, "_Call", sometimes)
    schedule = ScheduleOptions(methods=(), road_images=0)
    summary = run(tiny, ArraySource(images(30)), tmp_path / "log", schedule=schedule)
    assert balanced(summary)
    assert (summary.counts.failed, summary.counts.processed, summary.rebuilt) == (5, 25, 1)
    assert names(tmp_path / "log") == ["started", "inference-failed", "inference-failed-over", "stopped"]
    assert events(tmp_path / "log")[2].message == "after 5 frames"
    assert sum(any(flag.startswith("failed: ") for flag in frame.flags) for frame in frames(tmp_path / "log")) == 5


def test_explanations_that_fail_leave_the_classification_alone(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, broken = engine_module._Call, threading.Event()

    def call(session: Any, outputs: list[str], *rest: Any) -> Any:
        return real(None if "attribution" in outputs and broken.is_set() else session, outputs, *rest)

    monkeypatch.setattr(engine_module, "_Call", call)
    source = ArraySource(images(30), each=lambda number, report: broken.set())
    summary = run(tiny, source, tmp_path / "log")
    assert summary.counts.processed == 30 == len(frames(tmp_path / "log"))
    assert summary.audits == {}
    assert summary.events["audit-failed"] > 5


def test_engines_that_hang_for_ever_end_the_process_in_order(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dead:
        def run(self, *_: Any) -> None:
            time.sleep(20)

    real, calls = engine_module._Call, iter(range(10**9))

    def dying(session: Any, *rest: Any) -> Any:
        return real(Dead() if next(calls) >= 5 else session, *rest)

    monkeypatch.setattr(engine_module, "_Call", dying)
    monkeypatch.setattr(engine_module, "GRACE_SECONDS", 0.1)
    schedule = ScheduleOptions(methods=(), road_images=0)
    options = {"schedule": schedule, "engine": EngineOptions(threads=1, timeout=0.5)}
    with pytest.raises(ProviderError, match="hung for ever"):
        run(tiny, ArraySource(images(30)), tmp_path / "log", **options)
    assert names(tmp_path / "log")[-1] == "stopped"
    assert len(frames(tmp_path / "log")) == 4 + engine_module.MOST_ABANDONED


def test_nan_logits_are_flagged_and_never_explained(poisoned: Bundle, tmp_path: Path) -> None:
    shown = images(30) // 2 + 128  # bright: their first value is positive
    shown[8:16] = 0
    # Not IG: its path begins at black, where this network has no value.
    schedule = replace(QUICK.schedule, methods=("vg",))
    summary = run(poisoned, ArraySource(shown), tmp_path / "log", schedule=schedule)
    assert balanced(summary)
    assert summary.counts.processed == 30
    found = frames(tmp_path / "log")
    dark = found[8:16]
    assert all(frame.prediction is None and frame.label is None and not frame.explainers for frame in dark)
    assert all("logits: not finite" in frame.flags for frame in dark)
    assert not any(frame.flags for frame in found[:8] + found[16:])
    assert names(tmp_path / "log") == ["started", "logits-not-finite", "logits-not-finite-over", "stopped"]


def test_a_source_that_raises_ends_the_loop_in_order(tiny: Bundle, tmp_path: Path) -> None:
    def fail(number: int, report: Report) -> None:
        if number == 10:
            raise InputError("the camera is gone for good")

    source = ArraySource(images(30), each=fail)
    with pytest.raises(InputError, match="the camera is gone for good"):
        run(tiny, source, tmp_path / "log")
    assert source.entered == 0
    assert len(frames(tmp_path / "log")) == 10
    assert events(tmp_path / "log")[-1].message == "the source failed: the camera is gone for good"


def test_a_source_that_does_not_open_leaves_the_log_closed(tiny: Bundle, tmp_path: Path) -> None:
    class Shut(ArraySource):
        def __enter__(self) -> ArraySource:
            raise InputError("no permission for the camera")

    with pytest.raises(InputError, match="no permission"):
        run(tiny, Shut([]), tmp_path / "log")
    open_audit_log(tmp_path / "log", tiny).close()


def test_a_source_that_is_slow_to_close_does_not_keep_the_log_open(tiny: Bundle, tmp_path: Path) -> None:
    acknowledged = []

    class Slow(ArraySource):
        def __exit__(self, *exception: object) -> None:
            acknowledged.append(len(frames(tmp_path / "log")))
            open_audit_log(tmp_path / "log", tiny).close()

    run(tiny, Slow(images(10)), tmp_path / "log")
    assert acknowledged == [10]


def test_a_source_without_frames(tiny: Bundle, tmp_path: Path) -> None:
    summary = run(tiny, ArraySource([]), tmp_path / "log")
    assert (summary.counts.produced, summary.latency, summary.ended) == (0, {}, "the source ended")
    assert names(tmp_path / "log") == ["started", "stopped"]


def test_a_camera_that_stalls_is_waited_for(tiny: Bundle, tmp_path: Path) -> None:
    writer = LiveWriter(tmp_path / "live")
    seen = []

    def stall(number: int, report: Report) -> None:
        if number == 10:
            report(LOST, "no frame from the camera")
            time.sleep(1.0)
            status = read_live(tmp_path / "live")
            seen.append(status and (status.state, status.message))
            report(BACK, "frames again")

    source = ArraySource(images(20), live=True, pause=0.01, each=stall)
    summary = VehicleLoop(tiny, source, QUICK, live=writer, log=open_audit_log(tmp_path / "log", tiny)).run()
    assert balanced(summary)
    assert seen == [("waiting", "no frame from the camera")]
    assert names(tmp_path / "log") == ["started", LOST, BACK, "stopped"]
    assert frames(tmp_path / "log")[-1].frame_id == "frame-00019"


def test_frames_may_change_their_size(tiny: Bundle, tmp_path: Path) -> None:
    sizes = [(8, 8), (480, 640), (9, 1000), (1, 1), (8, 8)]
    pictures = [np.random.default_rng(n).integers(0, 256, (*size, 3), np.uint8) for n, size in enumerate(sizes)]
    summary = run(tiny, ArraySource(pictures * 3), tmp_path / "log")
    assert (summary.counts.processed, summary.counts.failed) == (15, 0)


def test_frames_that_are_no_pictures_fail_alone(tiny: Bundle, tmp_path: Path) -> None:
    shown = list(images(6))
    shown[2], shown[4] = np.zeros((8, 8), np.uint8), np.zeros((0, 8, 3), np.uint8)
    summary = run(tiny, ArraySource(shown), tmp_path / "log")
    assert (summary.counts.processed, summary.counts.failed) == (4, 2)
    assert balanced(summary)


def test_a_full_disk_never_stops_the_classification(tiny: Bundle, tmp_path: Path) -> None:
    """The disk fills up while the loop runs and has room again later: every record is there, in order."""
    full = threading.Event()

    def disk(kind: str, *_: Any) -> BaseException | None:
        return storage_error(apsw.SQLITE_FULL) if kind == "write" and full.is_set() else None

    def fill(number: int, report: Report) -> None:
        if number == 50:
            full.set()
        if number == 150:
            time.sleep(0.7)  # a commit meets the full disk
            full.clear()

    with hooked(disk) as vfs:
        log = open_audit_log(tmp_path / "log", tiny, surroundings=Surroundings(vfs=vfs))
        summary = VehicleLoop(tiny, ArraySource(images(200), live=True, pause=0.005, each=fill), QUICK, log=log).run()
        assert balanced(summary)
        assert summary.counts.processed > 50
        assert summary.problem is None
    assert len(frames(tmp_path / "log")) == summary.counts.processed


def test_a_disk_that_stays_full_is_told_at_the_end(tiny: Bundle, tmp_path: Path) -> None:
    full = threading.Event()

    def disk(kind: str, *_: Any) -> BaseException | None:
        return storage_error(apsw.SQLITE_FULL) if kind == "write" and full.is_set() else None

    with hooked(disk) as vfs:
        log = open_audit_log(tmp_path / "log", tiny, surroundings=Surroundings(vfs=vfs))
        full.set()
        summary = VehicleLoop(tiny, ArraySource(images(40)), QUICK, log=log).run()
    assert summary.counts.processed == 40
    assert summary.problem is not None and "could not be stored at the end" in summary.problem


def test_a_disk_that_hangs_delays_no_frame(tiny: Bundle, tmp_path: Path) -> None:
    hangs, released = threading.Event(), threading.Event()

    def disk(kind: str, *_: Any) -> BaseException | None:
        if kind == "sync" and hangs.is_set():
            released.wait(30)
        return None

    def begin(number: int, report: Report) -> None:
        if number == 5:
            hangs.set()

    with hooked(disk) as vfs:
        log = open_audit_log(tmp_path / "log", tiny, surroundings=Surroundings(vfs=vfs))
        begun = time.monotonic()
        source = ArraySource(images(100), live=True, pause=0.01, each=begin)
        summary = VehicleLoop(tiny, source, QUICK, log=log).run()
        assert time.monotonic() - begun < 20
        assert balanced(summary) and summary.counts.processed > 20
        assert summary.problem is not None and "could not be stored in time" in summary.problem
        released.set()
        for thread in threading.enumerate():
            if thread.name == "log":
                thread.join(30)


def test_stopping_counts_what_is_left(tiny: Bundle, tmp_path: Path) -> None:
    def stop(number: int, report: Report) -> None:
        if number == 60:
            loop.stop("SIGTERM")

    source = ArraySource(images(5000), live=True, pause=0.005, each=stop)
    loop = VehicleLoop(tiny, source, QUICK, log=open_audit_log(tmp_path / "log", tiny))
    summary = loop.run()
    assert summary.ended == "SIGTERM"
    assert balanced(summary)
    assert len(frames(tmp_path / "log")) == summary.counts.processed > 0
    assert events(tmp_path / "log")[-1].data["processed"] == summary.counts.processed


def test_a_stop_before_the_first_frame_is_no_error(hanging: Bundle, tmp_path: Path) -> None:
    """Also while the model warms up: here it hangs for ever."""
    loop = VehicleLoop(hanging, ArraySource(images(5)), QUICK, log=open_audit_log(tmp_path / "log", hanging))
    loop._engine.warm_up = lambda methods: loop._engine.classifier.predict(WHITE)  # type: ignore[method-assign]
    threading.Timer(0.3, loop.stop, ["SIGTERM"]).start()
    summary = loop.run()
    assert (summary.ended, summary.counts.processed) == ("SIGTERM", 0)
    assert balanced(summary)
    assert names(tmp_path / "log")[-1] == "stopped"


def test_heat_leaves_audits_out_and_says_so(tiny: Bundle, tmp_path: Path) -> None:
    class Hot:
        def read(self) -> DeviceReadings:
            return DeviceReadings(hottest_celsius=99.0, throttled=False)

    ladder = LadderOptions(target_ms=1e6, hold_seconds=0.1)
    options = replace(QUICK, ladder=ladder)
    source = ArraySource(images(200), live=True, pause=0.01)
    log = open_audit_log(tmp_path / "log", tiny)
    summary = VehicleLoop(tiny, source, options, log=log, sampler=Hot()).run()  # type: ignore[arg-type]
    assert summary.step == "no explanations, no thumbnails"
    steps = [event for event in events(tmp_path / "log") if event.name == "degradation"]
    assert [event.data["step"] for event in steps] == [1, 2, 3, 4]
    assert steps[0].message == "nothing left out -> no ROAD: 99 degrees Celsius, the limit is 95"
    assert summary.skipped["vg"] > 0
    assert not any(frame.explainers for frame in frames(tmp_path / "log")[-20:])
    assert summary.counts.processed > 50
    assert any(frame.device and frame.device.hottest_celsius == 99.0 for frame in frames(tmp_path / "log"))


# Drift.


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, network: TinyNetwork) -> Bundle:
    """The tiny bundle with the baselines that an export would give it, on 60 images."""
    files = tiny_files(network)
    folder = tmp_path_factory.mktemp("watched")
    plain = open_bundle(write_tiny_bundle(folder / "plain", files))
    np.savez(folder / "images.npz", images=images(60, seed=5))
    result = audit_bundle(plain, folder / "images.npz", AuditOptions(threads=1, methods=("vg",)))
    assert result.confidence is not None
    vg = result.explainers["vg"]
    assert vg.road is not None
    baselines = Baselines(
        gini={"vg": tuple(value for value in vg.gini.values if value is not None)},
        road={"vg": RoadBaseline(percentages=PERCENTAGES, morf=vg.road.morf, lerf=vg.road.lerf, areas=vg.road.areas)},
        confidence=tuple(value for value in result.confidence.values if value is not None),
    )
    drift = DriftOptions(window=30, stride=5, threshold=1e-4)
    return open_bundle(write_tiny_bundle(folder / "bundle", files, baselines=baselines, drift=drift))


def test_drift_is_one_event_when_it_begins_and_one_when_it_ends(watched: Bundle, tmp_path: Path) -> None:
    usual, dark = images(120, seed=6), images(120, seed=7) // 8
    schedule = ScheduleOptions(methods=("vg",), every=1, road_images=0)
    shown = np.concatenate([usual, dark, images(120, seed=8)])
    summary = run(watched, ArraySource(shown), tmp_path / "log", schedule=schedule)
    story = [(event.name, event.data["measure"]) for event in events(tmp_path / "log") if "drift" in event.name]
    assert ("drift", "confidence") in story
    assert story.count(("drift", "confidence")) == story.count(("drift-over", "confidence")) == 1
    assert len(story) == len(set(story))
    assert not any(state.drifted for state in summary.drift.values())
    begun = next(event for event in events(tmp_path / "log") if event.name == "drift")
    assert isinstance(begun, EventRecord)
    assert isinstance(begun.data["p_value"], float) and begun.data["p_value"] < 1e-4
    sequence = [
        index for index, record in enumerate(records(tmp_path / "log")) if getattr(record, "name", "") == "drift"
    ]
    assert 120 < sequence[0] < 120 + 2 * 30, "within two windows of the change"


def test_the_usual_images_do_not_drift(watched: Bundle, tmp_path: Path) -> None:
    schedule = ScheduleOptions(methods=("vg",), every=1, road_images=10, road_window=40)
    summary = run(watched, ArraySource(images(160, seed=9)), tmp_path / "log", schedule=schedule)
    assert set(summary.drift) == {"confidence", "gini vg", "road vg"}
    assert not any(state.drifted for state in summary.drift.values())
    assert all(state.p_value is not None for state in summary.drift.values())
    assert "drift" not in summary.events


def test_a_bundle_without_explainer_is_classified_all_the_same(network: TinyNetwork, tmp_path: Path) -> None:
    files = {name: data for name, data in tiny_files(network).items() if name != "explainer.onnx"}
    bundle = open_bundle(write_tiny_bundle(tmp_path / "bundle", files))
    summary = run(bundle, ArraySource(images(20)), tmp_path / "log")
    assert (summary.counts.processed, summary.audits) == (20, {})
    assert len(frames(tmp_path / "log")) == 20
