"""``roadworthy audit --source`` as users run it: both forms apart, logs, JSON, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from edge_runtime.live import read_live
from edge_runtime.log import EventRecord, FrameRecord, read, verify
from tests.conftest import no_gpu
from tests.edge_runtime.tiny_bundle import images, tiny_files, tiny_network, write_tiny_bundle
from tests.edge_runtime.trust.publisher import golden_bundle
from tests.toolkit.conftest import Roadworthy, one_line
from toolkit.cli.loop import OF_IMAGES, OF_SOURCE
from toolkit.cli.measure import audit

REPOSITORY = Path(__file__).resolve().parents[2]
FRAMES = 24


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny", tiny_files(tiny_network()))


@pytest.fixture(scope="module")
def signs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signs")
    for number, image in enumerate(images(FRAMES)):
        Image.fromarray(image).save(folder / f"{number:03}.png")
    return folder


def test_a_folder_is_replayed_into_a_log(roadworthy: Roadworthy, bundle: Path, signs: Path, tmp_path: Path) -> None:
    log, live = tmp_path / "audit.db", tmp_path / "live"
    options = ["--log", log, "--live", live, "--every", 5, "--vehicle", "bus 12", "--threads", 1]
    code, out, error = roadworthy("audit", bundle, "--source", signs, *options)
    assert code == 0, error
    assert f"{FRAMES} produced = {FRAMES} processed + 0 dropped + 0 failed" in out
    assert "5 vg, 1 ig" in out
    assert error == ""
    assert verify(log).ok
    entries = list(read(log))
    assert sum(isinstance(entry.record, FrameRecord) for entry in entries) == FRAMES
    assert entries[0].identity.vehicle == "bus 12"
    status = read_live(live)
    assert status is not None and status.state == "stopped"


@pytest.mark.skipif(no_gpu() is None, reason="this machine has a GPU")
def test_the_log_tells_which_providers_were_passed_over(roadworthy: Roadworthy, signs: Path, tmp_path: Path) -> None:
    log, folder = tmp_path / "audit.db", golden_bundle(tmp_path / "golden", tiny_network())
    options = ["--log", log, "--no-live", "--frames", 2, "--provider", "auto", "--json", "--no-road", "--method", "vg"]
    code, out, error = roadworthy("audit", folder, "--source", signs, *options)
    assert code == 0, error
    told = [f"provider {each['provider']} passed over: {each['reason']}" for each in json.loads(out)["passed_over"]]
    assert [line.split()[1] for line in told] == ["tensorrt", "cuda"]
    entries = list(read(log))
    assert entries[0].identity.provider == "cpu"
    events = [entry.record for entry in entries if isinstance(entry.record, EventRecord)]
    assert [event.message for event in events if event.name == "provider-passed-over"] == told


def test_no_option_is_declared_twice() -> None:
    """Both forms of the command share one parser; click only warns."""
    names = [option for parameter in audit.params for option in parameter.opts]
    assert sorted(names) == sorted(set(names))
    assert set(OF_IMAGES) | set(OF_SOURCE) <= {parameter.name for parameter in audit.params}


def test_json_has_the_books(roadworthy: Roadworthy, bundle: Path, signs: Path) -> None:
    options = ["--no-live", "--json", "--frames", 10, "--threads", 1, "--no-road", "--method", "vg"]
    code, out, error = roadworthy("audit", bundle, "--source", signs, *options)
    assert code == 0, error
    summary = json.loads(out)
    counts = summary["counts"]
    assert (counts["processed"], counts["failed"], counts["waiting"]) == (10, 0, 0)
    assert counts["produced"] == counts["processed"] + counts["dropped"]
    assert summary["audits"] == {"vg": 1}
    assert summary["latency"]["classify"]["count"] == 10
    assert summary["events"] == {"started": 1, "stopped": 1}


def test_boxes_and_crops_reach_the_source(roadworthy: Roadworthy, bundle: Path, signs: Path, tmp_path: Path) -> None:
    log = tmp_path / "audit.db"
    arguments = ["--source", signs, "--crop", "0,0,4,6", "--no-live", "--log", log, "--threads", 1]
    code, _, error = roadworthy("audit", bundle, *arguments)
    assert code == 0, error
    frames = [entry.record for entry in read(log, kind="frame")]
    assert all(isinstance(frame, FrameRecord) and frame.box == (0, 0, 4, 6) for frame in frames)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--every", 5], "--every goes with --source; name a source too"),
        (["--log", "OUT"], "--log goes with --source"),
        (["--no-live"], "--no-live goes with --source"),
        (["--source", "SIGNS", "--precision", "int9", "--no-live"], "unknown precision of this bundle 'int9'"),
        (["--source", "SIGNS", "--limit", 5], "--limit goes without --source; leave one of the two out"),
        (["--source", "SIGNS", "--images", "SIGNS"], "--images goes without --source"),
        (["--source", "SIGNS", "--out", "OUT"], "--out goes without --source"),
        (["--source", "SIGNS", "--preset", "paper"], "--preset goes without --source"),
        (["--source", "SIGNS", "--force"], "--force goes without --source"),
        (["--source", "/nowhere.png"], "/nowhere.png"),
        (["--source", "SIGNS", "--method", "igg"], "unknown method 'igg'; nearest: ig"),
        (["--source", "SIGNS", "--every", 0], "every is 0; give a whole number of at least 1"),
        (["--source", "SIGNS", "--depth", 3], "depth is 3; the queue holds 1 or 2 frames"),
        (["--source", "SIGNS", "--threads", 0, "--no-live"], "threads is 0"),
        (["--source", "SIGNS", "--live", "OUT", "--no-live"], "--live and --no-live are given"),
        (["--source", "SIGNS", "--crop", "9", "--no-live"], "crop is '9'"),
        (["--source", "SIGNS", "--log", "OUT", "--log-bytes", 5, "--no-live"], "a log of 5 bytes is too small"),
    ],
)
def test_bad_options_are_one_line(
    roadworthy: Roadworthy, bundle: Path, signs: Path, tmp_path: Path, arguments: list[object], message: str
) -> None:
    places = {"SIGNS": signs, "OUT": tmp_path / "out"}
    replaced = [places.get(str(argument), argument) for argument in arguments]
    assert message in one_line(roadworthy("audit", bundle, *replaced))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order_within_two_seconds(
    bundle: Path, signs: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """On a busy machine an attempt may take longer, so the fastest of a few counts; every one must be clean."""
    many = tmp_path / "many"
    many.mkdir()
    for index in range(20_000):
        os.link(signs / "000.png", many / f"{index:05}.png")
    seconds = []
    while len(seconds) < 4 and min(seconds, default=9.0) >= 2:
        seconds.append(interrupted(bundle, many, tmp_path / f"run-{len(seconds)}", number))
    assert min(seconds) < 2, seconds


def interrupted(bundle: Path, source: Path, folder: Path, number: signal.Signals) -> float:
    """Start the loop, stop it by a signal, check that nothing is lost; return the seconds that it took to end."""
    folder.mkdir()
    log, live = folder / "audit.db", folder / "live"
    command = [sys.executable, "-c", "from toolkit.cli import main; main()", "audit", str(bundle)]
    command += ["--source", str(source), "--log", str(log), "--live", str(live), "--every", "1", "--json"]
    command += ["--threads", "1"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while (status := read_live(live)) is None or status.counts.processed < 20:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.02)
        process.send_signal(number)
        begin = time.monotonic()
        out, error = process.communicate(timeout=120)
        seconds = time.monotonic() - begin
    assert process.returncode == 0, error
    summary = json.loads(out)
    counts = summary["counts"]
    assert summary["ended"] == number.name
    told = error.decode().splitlines()
    assert told[0].startswith("started: ") and told[-1] == f"stopped: {number.name}"
    assert counts["produced"] == counts["processed"] + counts["dropped"] + counts["failed"]
    assert counts["processed"] < 20_000
    assert verify(log).ok
    assert sum(1 for _ in read(log, kind="frame")) == counts["processed"]
    return seconds
