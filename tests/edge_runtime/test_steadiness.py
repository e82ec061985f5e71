"""A measurement on a device that moved is marked, one on a device that cannot be read is not called steady."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_runtime.device import DeviceReadings
from edge_runtime.steadiness import TICKS, OtherLoad, judge

CALM = DeviceReadings(
    hottest_celsius=50.0,
    cpu_frequency_hertz=2e9,
    gpu_frequency_hertz=1e9,
    power_watts=10.0,
    power_mode="MAXN",
    throttled=False,
    throttle_reasons=(),
)
FLAT = np.random.default_rng(0).normal(10, 0.1, 90)


def after(**changes: object) -> list[DeviceReadings]:
    return [CALM, msgspec.structs.replace(CALM, **changes)]


def test_a_calm_device_is_steady() -> None:
    found = judge(after(power_watts=20.0), FLAT, 0.0, on_gpu=True)
    assert found.steady is True and found.moved == ()
    assert (found.watts, found.hottest_celsius, found.cpu_hertz) == (15.0, (50.0, 50.0), (2e9, 2e9))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cpu_frequency_hertz": 1.8e9}, "CPU clock moved between 1800 and 2000 MHz"),
        ({"gpu_frequency_hertz": 0.9e9}, "GPU clock moved between 900 and 1000 MHz"),
        ({"hottest_celsius": 56.0}, "temperature moved between 50 and 56 degrees"),
        ({"power_mode": "15W"}, "power mode changed: 15W, MAXN"),
        ({"throttled": True, "throttle_reasons": ("cpu-throttle-alert",)}, "throttled: cpu-throttle-alert"),
        ({"throttled": True, "throttle_reasons": None}, "throttled: unknown"),
    ],
)
def test_what_moved_is_named(changes: dict[str, object], said: str) -> None:
    found = judge(after(**changes), FLAT, 0.0, on_gpu=True)
    assert found.steady is False
    assert found.moved == (said,)


@pytest.mark.parametrize("changes", [{"cpu_frequency_hertz": 1.95e9}, {"hottest_celsius": 54.0}])
def test_small_movements_do_not_count(changes: dict[str, object]) -> None:
    assert judge(after(**changes), FLAT, 0.0, on_gpu=True).steady is True


def test_an_idle_gpu_may_wander() -> None:
    assert judge(after(gpu_frequency_hertz=0.2e9), FLAT, 0.0, on_gpu=False).steady is True


def test_latency_itself_tells_where_no_sensor_does() -> None:
    blind = [DeviceReadings(), DeviceReadings()]
    assert judge(blind, FLAT, 0.0, on_gpu=False).steady is None
    drifting = np.linspace(10, 12, 90)
    found = judge(blind, drifting, 0.0, on_gpu=False)
    assert found.steady is False
    assert found.moved == ("median latency moved from 10.3 to 11.7 ms",)
    assert (found.watts, found.hottest_celsius, found.cpu_hertz, found.gpu_hertz) == (None, None, None, None)


def test_a_few_outliers_are_no_drift() -> None:
    samples = FLAT.copy()
    samples[-3:] = 100
    assert judge([CALM], samples, 0.0, on_gpu=False).steady is True


def test_other_processes_disturb() -> None:
    assert judge([CALM], FLAT, 0.1, on_gpu=False).steady is True
    assert judge([CALM], FLAT, None, on_gpu=False).steady is True
    found = judge([CALM], FLAT, 0.37, on_gpu=False)
    assert found.moved == ("other processes took 37% of the processor",)


def write_stat(root: Path, *hundredths: int) -> None:
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc" / "stat").write_text(f"cpu  {' '.join(map(str, hundredths))} 0 0\ncpu0 1 1 1 1\n")


def test_other_load_is_what_was_busy_beside_this_process(tmp_path: Path) -> None:
    load = OtherLoad()
    per_second = TICKS
    for _ in range(2):
        write_stat(tmp_path, 100, 0, 50, 1000, 10, 0, 0, 0)
        load.begin(tmp_path)
        write_stat(tmp_path, 100 + per_second, 0, 50, 1000 + 2 * per_second, 10, 0, 0, per_second)
        load.end(tmp_path)
    assert load.capacity == pytest.approx(8.0)
    assert load.share == pytest.approx(0.5, abs=0.02)


def test_the_own_work_is_no_other_load() -> None:
    load = OtherLoad()
    load.begin()
    load.end()
    assert load.share is None or 0 <= load.share <= 1


@pytest.mark.parametrize("content", [None, "", "intr 5", "cpu 1 2"])
def test_other_load_is_unknown_without_counters(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc" / "stat").write_text(content)
    load = OtherLoad()
    load.begin(tmp_path)
    load.end(tmp_path)
    assert load.share is None
