"""Loop, server and report together: what runs is shown, what stopped is said, what was logged is reported."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_runtime.log import read, verify
from tests.edge_runtime.serve.visitor import Visitor, serving
from tests.toolkit.conftest import Roadworthy

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")
pytest.importorskip("duckdb")
REPOSITORY = Path(__file__).resolve().parents[2]
PICTURES, FRAMES = 40, 20_000  # more than the loop can take before it is stopped
LOOKS = 600


def make_frames(folder: Path) -> Path:
    """Write a folder of many frames that are few pictures."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(PICTURES):
        pixels = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:06}.png")
    for number in range(PICTURES, FRAMES):
        (folder / f"{number:06}.png").hardlink_to(folder / f"{number % PICTURES:06}.png")
    return folder


def until_ready(visitor: Visitor, loop: subprocess.Popen[str]) -> None:
    """Wait until the loop is ready and has shown a Gini and a saliency map."""
    for _ in range(LOOKS):
        said = visitor.get("/status").json
        gini = said["status"]["gini"].get("vg", {"values": []})["values"] if said["status"] else []
        if visitor.get("/readyz").status == 200 and gini and gini[-1] and "overlay.jpg" in said["pictures"]:
            return
        assert loop.poll() is None, loop.communicate()
        time.sleep(0.1)
    pytest.fail(visitor.get("/readyz").text)


def test_a_running_loop_is_shown_and_its_log_reported(
    roadworthy: Roadworthy, tiny_bundle: Path, tmp_path: Path
) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    frames, live, log = make_frames(tmp_path / "frames"), tmp_path / "live", tmp_path / "logs" / "audit.log"
    log.parent.mkdir()
    command = [sys.executable, "-c", "from toolkit.cli import main; main()", "audit", tiny_bundle, "--source", frames]
    command += ["--live", live, "--log", log, "--vehicle", "car 7", "--every", "5"]
    with serving(live) as visitor:
        assert "no vehicle loop writes to" in visitor.get("/readyz").text
        loop = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            until_ready(visitor, loop)
            families = {f.name: f for f in text_string_to_metric_families(visitor.get("/metrics").text)}
            stages = {sample.labels["stage"] for sample in families["roadworthy_latency_seconds"].samples}
            assert {"classify", "vg"} <= stages
            assert families["roadworthy_gini"].samples
            for name in ("frame", "overlay"):
                assert visitor.get(f"/{name}.jpg").body.startswith(b"\xff\xd8")
        finally:
            loop.send_signal(signal.SIGTERM)
            _, error = loop.communicate(timeout=120)
        assert loop.returncode == 0, error
        assert "the vehicle loop has stopped" in visitor.get("/readyz").text
        counts = visitor.get("/status").json["status"]["counts"]
    assert verify(log).ok
    assert counts["produced"] == counts["processed"] + counts["dropped"] + counts["failed"]

    out = tmp_path / "report"
    assert roadworthy("report", log.parent, tiny_bundle, "--out", out)[0] == 0
    page = (out / "report.html").read_text()
    logged = sum(1 for entry in read(log, kind="frame"))
    assert ">car 7</td>" in page
    assert f">{logged:,}</td>" in page
    assert (out / "figures" / "fleet_gini_vg.svg").is_file()
