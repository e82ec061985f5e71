"""Metrics as Prometheus' own parsers read them: units, names, buckets, and nothing where nothing was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_runtime.device import DeviceReadings
from edge_runtime.live import Counts, DriftState, Histogram, LiveWriter, Series
from edge_runtime.serve.metrics import FAMILIES, expose
from tests.edge_runtime.live_status import running

pytest.importorskip("prometheus_client")
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

FULL: dict[str, Any] = {
    "counts": Counts(produced=100, processed=90, dropped=6, failed=3, waiting=1),
    "histograms": {"classify": Histogram(edges=(1.594, 10.0), counts=(3, 4, 5), total=620.0)},
    "gini": {"vg": Series(wall=(1.0, 2.0), values=(0.4, 0.5), baseline=0.6), "ig": Series(wall=(1.0,), values=(None,))},
    "road": {"vg": Series(wall=(1.0,), values=(-0.1,))},
    "confidence": Series(wall=(1.0,), values=(0.97,)),
    "drift": {
        "gini vg": DriftState(drifted=True, p_value=0.001, threshold=0.01, window=50),
        "confidence": DriftState(drifted=False, p_value=None, threshold=0.01, window=50),
    },
    "step": 2,
    "device": DeviceReadings(
        temperatures_celsius={"cpu-thermal": 51.5},
        hottest_celsius=51.5,
        rails_watts={"VDD_IN": 7.5},
        power_watts=7.5,
        energy_joules=700.0,
        cpu_frequency_hertz=1.5e9,
        gpu_load=0.25,
        throttled=False,
    ),
    "log": {"lost": 2.0, "pending": 3.0, "acknowledged": 95.0, "error": "disk full", "path": "audit.log"},
}


def samples(folder: Path) -> Samples:
    """Return the samples as the text format's parser reads them."""
    from prometheus_client.parser import text_string_to_metric_families

    body, media_type = expose(folder, "")
    assert media_type.startswith("text/plain")
    families = text_string_to_metric_families(body.decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


@pytest.fixture
def full(tmp_path: Path) -> Path:
    LiveWriter(tmp_path).write(running(**FULL))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("roadworthy_ready", {}, 1),
        (
            "roadworthy_loop_info",
            {"bundle": "natural", "digest": "ab" * 32, "provider": "cpu", "source": "camera:0"},
            1,
        ),
        ("roadworthy_loop_state", {"state": "running"}, 1),
        ("roadworthy_loop_state", {"state": "stopped"}, 0),
        ("roadworthy_degradation_step", {}, 2),
        ("roadworthy_frames_produced_total", {}, 100),
        ("roadworthy_frames_total", {"outcome": "processed"}, 90),
        ("roadworthy_frames_total", {"outcome": "dropped"}, 6),
        ("roadworthy_frames_total", {"outcome": "failed"}, 3),
        ("roadworthy_frames_waiting", {}, 1),
        ("roadworthy_latency_seconds_bucket", {"stage": "classify", "le": "0.001594"}, 3),
        ("roadworthy_latency_seconds_bucket", {"stage": "classify", "le": "0.01"}, 7),
        ("roadworthy_latency_seconds_bucket", {"stage": "classify", "le": "+Inf"}, 12),
        ("roadworthy_latency_seconds_count", {"stage": "classify"}, 12),
        ("roadworthy_latency_seconds_sum", {"stage": "classify"}, 0.62),
        ("roadworthy_gini", {"explainer": "vg"}, 0.5),
        ("roadworthy_gini_baseline", {"explainer": "vg"}, 0.6),
        ("roadworthy_road", {"explainer": "vg"}, -0.1),
        ("roadworthy_confidence_ratio", {}, 0.97),
        ("roadworthy_drifted", {"measure": "gini vg"}, 1),
        ("roadworthy_drifted", {"measure": "confidence"}, 0),
        ("roadworthy_drift_p_value", {"measure": "gini vg"}, 0.001),
        ("roadworthy_device_temperature_celsius", {"sensor": "cpu-thermal"}, 51.5),
        ("roadworthy_device_hottest_celsius", {}, 51.5),
        ("roadworthy_device_power_watts", {}, 7.5),
        ("roadworthy_device_rail_power_watts", {"rail": "VDD_IN"}, 7.5),
        ("roadworthy_device_energy_joules_total", {}, 700),
        ("roadworthy_device_frequency_hertz", {"unit": "cpu"}, 1.5e9),
        ("roadworthy_device_gpu_load_ratio", {}, 0.25),
        ("roadworthy_device_throttled", {}, 0),
        ("roadworthy_log_records_lost_total", {}, 2),
        ("roadworthy_log_records_pending", {}, 3),
        ("roadworthy_log_last_sequence", {}, 95),
        ("roadworthy_log_failing", {}, 1),
    ],
)
def test_every_measure(name: str, labels: dict[str, str], value: float, full: Path) -> None:
    assert samples(full)[name, tuple(sorted(labels.items()))] == pytest.approx(value)


def test_openmetrics_accepts_it_too(full: Path) -> None:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    body, media_type = expose(full, "application/openmetrics-text; version=1.0.0")
    assert media_type.startswith("application/openmetrics-text")
    names = {family.name for family in text_string_to_metric_families(body.decode())}
    assert "roadworthy_latency_seconds" in names


def test_a_missing_reading_is_absent(tmp_path: Path) -> None:
    LiveWriter(tmp_path).write(running(last_frame_wall=None))
    names = {name for name, _ in samples(tmp_path)}
    absent = ("device", "log", "gini", "road_", "confidence", "drift", "latency", "last_frame")
    assert [name for name in names if name.removeprefix("roadworthy_").startswith(absent)] == []
    assert "roadworthy_frames_produced_total" in names


def test_undefined_values_are_absent(full: Path) -> None:
    found = samples(full)
    assert ("roadworthy_gini", (("explainer", "ig"),)) not in found
    assert ("roadworthy_road_baseline", (("explainer", "vg"),)) not in found
    assert ("roadworthy_drift_p_value", (("measure", "confidence"),)) not in found
    assert ("roadworthy_device_frequency_hertz", (("unit", "gpu"),)) not in found


@pytest.mark.parametrize("changes", [{"boot_monotonic": 0.0}, {"state": "stopped", "boot_monotonic": 0.0}])
def test_the_past_is_not_told_as_the_present(changes: dict[str, Any], tmp_path: Path) -> None:
    LiveWriter(tmp_path).write(running(**{**FULL, **changes}))
    found = samples(tmp_path)
    assert {name for name, _ in found} == {"roadworthy_ready", "roadworthy_status_age_seconds"}
    assert found["roadworthy_ready", ()] == 0


def test_without_a_loop_it_is_not_ready(tmp_path: Path) -> None:
    assert samples(tmp_path) == {("roadworthy_ready", ()): 0}


def test_names_follow_the_conventions(full: Path) -> None:
    """Base units in the name, _total for counters and for nothing else, one type and one help text for each family."""
    from prometheus_client.parser import text_string_to_metric_families

    text = expose(full, "")[0].decode()
    for family in text_string_to_metric_families(text):
        assert family.name.startswith("roadworthy_")
        assert family.documentation.endswith(".")
        assert not family.name.endswith(("_ms", "_milliseconds", "_percent"))
        is_total = all(sample.name.endswith("_total") for sample in family.samples)
        assert is_total == (family.type == "counter"), family.name
    types = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(types) == len(set(types))


def test_every_function_of_the_table_gives_something(full: Path) -> None:
    for family in FAMILIES:
        assert list(family(running(**FULL))), family.__name__
