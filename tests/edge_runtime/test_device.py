"""Device readings from recorded file-system trees: what is there is read exactly, what is missing is None."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec

import msgspec
import pytest

from edge_runtime.device import PROBES, DeviceReadings, DeviceSampler, Draft, Tree, read_device
from edge_runtime.device_identity import DeviceIdentity, device_identity
from edge_runtime.device_nvidia import JetsonStats, Nvml

TREES = Path(__file__).parent / "sysfs"


def plant(name: str, root: Path) -> Path:
    """Write the tree ``sysfs/<name>.json`` below ``root``; a null becomes a folder, which no read survives."""
    for path, content in json.loads((TREES / f"{name}.json").read_text(encoding="utf-8"))["files"].items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            target.mkdir()
        else:
            target.write_text(content, encoding="utf-8")
    return root


def fields_set(readings: msgspec.Struct) -> set[str]:
    return {name for name, value in msgspec.structs.asdict(readings).items() if value not in (None, ())}


def test_orin(tmp_path: Path) -> None:
    readings = read_device(plant("orin_jetpack6", tmp_path))
    assert readings.temperatures_celsius == {
        "cpu-thermal": pytest.approx(51.843),
        "gpu-thermal": pytest.approx(48.687),
        "soc0-thermal": pytest.approx(49.718),
        "soc1-thermal": pytest.approx(49.906),
        "soc2-thermal": pytest.approx(49.156),
        "tj-thermal": pytest.approx(51.843),
    }
    assert readings.hottest_celsius == readings.cpu_temperature_celsius == pytest.approx(51.843)
    assert readings.gpu_temperature_celsius == pytest.approx(48.687)
    assert readings.rails_watts == {
        "VDD_IN": pytest.approx(5.016 * 1.52),
        "VDD_CPU_GPU_CV": pytest.approx(5.016 * 0.4),
        "VDD_SOC": pytest.approx(5.008 * 0.472),
    }
    assert (readings.power_watts, readings.power_source) == (pytest.approx(7.62432), "VDD_IN")
    assert readings.cpu_frequency_hertz == pytest.approx(1.12e9)
    assert readings.cpu_frequency_max_hertz == pytest.approx(1.728e9)
    assert (readings.gpu_frequency_hertz, readings.gpu_frequency_max_hertz) == (612e6, 1020e6)
    assert readings.gpu_load == pytest.approx(0.537)
    assert readings.power_mode == "MAXN_SUPER"
    assert (readings.throttled, readings.throttle_reasons) == (False, ())
    assert readings.throttle_events == {"oc1": 0, "oc2": 0, "oc3": 37}
    assert [note.split("/")[3] for note in readings.unreadable] == ["thermal_zone2", "thermal_zone3", "thermal_zone4"]


def test_orin_identity(tmp_path: Path) -> None:
    assert device_identity(plant("orin_jetpack6", tmp_path)) == DeviceIdentity(
        cpu_model="Cortex-A78AE",
        cores=6,
        machine="aarch64",
        kernel="5.15.148-tegra",
        board="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        memory_bytes=7802752 * 1024,
        gpu=None,
        l4t_release="36.4.3",
    )


def test_agx_orin_has_no_input_rail_so_its_rails_are_summed(tmp_path: Path) -> None:
    plant("orin_jetpack6", tmp_path)
    for channel, rail in enumerate(("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), 1):
        (tmp_path / f"sys/class/hwmon/hwmon1/in{channel}_label").write_text(rail)
    readings = read_device(tmp_path)
    assert readings.power_source == "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"
    assert readings.power_watts == pytest.approx(sum((readings.rails_watts or {}).values()))


def test_thor_input_monitor_replaces_the_sum_of_rails(tmp_path: Path) -> None:
    plant("orin_jetpack6", tmp_path)
    monitor = tmp_path / "sys/class/hwmon/hwmon5"
    monitor.mkdir()
    (monitor / "name").write_text("ina238\n")
    (monitor / "power1_input").write_text("31250000\n")
    readings = read_device(tmp_path)
    assert (readings.power_watts, readings.power_source) == (pytest.approx(31.25), "VIN")


def test_power_mode_falls_back_to_the_configured_default(tmp_path: Path) -> None:
    plant("orin_jetpack6", tmp_path)
    (tmp_path / "var/lib/nvpmodel/status").unlink()
    assert read_device(tmp_path).power_mode == "25W"


def test_laptop_first_reading(tmp_path: Path) -> None:
    readings = read_device(plant("x86_laptop", tmp_path))
    assert readings.cpu_temperature_celsius == pytest.approx(62.0)
    assert readings.gpu_temperature_celsius is None
    assert readings.cpu_frequency_hertz == pytest.approx(2.1e9)
    assert readings.cpu_governor == "powersave"
    assert readings.throttle_events == {"core_throttle": 3, "package_throttle": 12}
    assert readings.throttled is False
    # One reading of an energy counter says nothing about power.
    assert (readings.power_watts, readings.rails_watts, readings.energy_joules) == (None, None, 0.0)
    identity = device_identity(tmp_path)
    assert identity.cpu_model == "11th Gen Intel(R) Core(TM) i5-1135G7 @ 2.40GHz"
    assert (identity.gpu, identity.board, identity.l4t_release) == ("NVIDIA GeForce MX450", "Laptop 14", None)


def write_energy(root: Path, microjoules: int) -> None:
    (root / "sys/class/powercap/intel-rapl:0/energy_uj").write_text(str(microjoules))


def test_rapl_power_needs_two_readings_and_survives_the_counters_wrap(tmp_path: Path) -> None:
    plant("x86_laptop", tmp_path)
    now = [100.0]
    with DeviceSampler(tmp_path, clock=lambda: now[0]) as sampler:
        assert sampler.read().power_watts is None
        now[0] += 2.0
        write_energy(tmp_path, 30_000_000 - 28_850)  # the range is 262,143,328,850: wrapped
        second = sampler.read()
        assert second.power_watts == pytest.approx(15.0)
        assert second.power_source == "package-0"
        assert second.energy_joules == pytest.approx(30.0)
        assert set(second.rails_watts or ()) == {"package-0", "package-0/core", "package-0/uncore", "psys"}
        now[0] += 1.0
        write_energy(tmp_path, 35_000_000 - 28_850)
        third = sampler.read()
        assert (third.power_watts, third.energy_joules) == (pytest.approx(5.0), pytest.approx(35.0))


def test_energy_catches_up_after_an_unreadable_counter(tmp_path: Path) -> None:
    plant("x86_laptop", tmp_path)
    now, counter = [0.0], tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj"
    with DeviceSampler(tmp_path, clock=lambda: now[0]) as sampler:
        counter.write_text("1000000")
        sampler.read()
        now[0], _ = 1.0, counter.write_text("")
        gap = sampler.read()
        assert gap.power_watts is None
        now[0], _ = 4.0, counter.write_text("9000000")
        after = sampler.read()
    assert (after.power_watts, after.energy_joules) == (pytest.approx(2.0), pytest.approx(8.0))


def test_energy_of_instantaneous_rails_is_integrated(tmp_path: Path) -> None:
    plant("orin_jetpack6", tmp_path)
    now = [0.0]
    with DeviceSampler(tmp_path, clock=lambda: now[0]) as sampler:
        first = sampler.read()
        now[0] = 10.0
        (tmp_path / "sys/class/hwmon/hwmon1/curr1_input").write_text("3520")
        second = sampler.read()
    assert first.energy_joules == 0.0
    assert second.energy_joules == pytest.approx(10.0 * (7.62432 + 5.016 * 3.52) / 2)


def test_throttling_now_and_since_the_previous_reading(tmp_path: Path) -> None:
    plant("orin_jetpack6", tmp_path)
    with DeviceSampler(tmp_path) as sampler:
        assert sampler.read().throttled is False
        (tmp_path / "sys/class/thermal/cooling_device4/cur_state").write_text("1")
        (tmp_path / "sys/class/thermal/cooling_device0/cur_state").write_text("3")  # the fan: no throttling
        (tmp_path / "sys/class/hwmon/hwmon3/oc3_event_cnt").write_text("41")
        readings = sampler.read()
    assert (readings.throttled, readings.throttle_reasons) == (True, ("cpu-throttle-alert", "oc3"))


def test_throttling_is_unknown_where_only_one_reading_of_counters_exists(tmp_path: Path) -> None:
    counter = tmp_path / "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    counter.parent.mkdir(parents=True)
    counter.write_text("5")
    with DeviceSampler(tmp_path) as sampler:
        assert sampler.read().throttled is None
        assert sampler.read().throttled is False


def test_bare_virtual_machine_reports_nothing(tmp_path: Path) -> None:
    assert read_device(plant("virtual_machine", tmp_path)) == DeviceReadings()
    identity = device_identity(tmp_path)
    assert (identity.cpu_model, identity.cores, identity.machine) == ("Intel(R) Xeon(R) Processor", 2, None)


def test_empty_root_reports_nothing(tmp_path: Path) -> None:
    assert read_device(tmp_path) == DeviceReadings()
    assert device_identity(tmp_path) == DeviceIdentity()


def test_malformed_files_become_none_and_are_named(tmp_path: Path) -> None:
    readings = read_device(plant("malformed", tmp_path))
    assert fields_set(readings) == {"unreadable"}
    notes = "\n".join(readings.unreadable)
    for expected in (
        "thermal_zone0/temp: not a number: ''",
        "thermal_zone1/temp: not a number: 'hot'",
        "thermal_zone2/type: Is a directory",
        "thermal_zone4/temp: not a number: 'nan'",
        "hwmon0/curr1_input: Is a directory",
        "hwmon1/power1_input: not a number: 'unknown'",
        "intel-rapl:0/energy_uj: Is a directory",
        "policy0/scaling_cur_freq: not a number: '<unknown>'",
        "17000000.gpu/max_freq: not a number: '1e99999'",
        "etc/nvpmodel.conf: no name for the current power mode",
    ):
        assert expected in notes
    assert device_identity(tmp_path) == DeviceIdentity()


@pytest.mark.parametrize("probe", PROBES)
def test_every_probe_leaves_an_empty_tree_empty(probe: str, tmp_path: Path) -> None:
    tree, draft = Tree(tmp_path), Draft()
    PROBES[probe](tree, draft)
    assert (draft, tree.notes) == (Draft(), [])


@pytest.mark.parametrize("probe", PROBES)
def test_every_probe_finds_something_in_a_recorded_tree(probe: str, tmp_path: Path) -> None:
    for tree_name in ("orin_jetpack6", "x86_laptop"):
        plant(tree_name, tmp_path / tree_name)
    monitor = tmp_path / "thor/sys/class/hwmon/hwmon0"
    monitor.mkdir(parents=True)
    (monitor / "name").write_text("ina238")
    (monitor / "power1_input").write_text("1000000")
    drafts = [Draft() for _ in range(3)]
    for draft, tree_name in zip(drafts, ("orin_jetpack6", "x86_laptop", "thor"), strict=True):
        PROBES[probe](Tree(tmp_path / tree_name), draft)
    assert any(draft != Draft() for draft in drafts)


def test_readings_of_this_machine_never_raise_and_serialise() -> None:
    with DeviceSampler() as sampler:
        sampler.read()
        readings = sampler.read()
    assert msgspec.json.decode(msgspec.json.encode(readings), type=DeviceReadings) == readings
    assert device_identity().cores


needs_nvml = pytest.mark.skipif(not importlib.util.find_spec("pynvml"), reason="nvidia-ml-py is not installed")


@needs_nvml
def test_nvml_readings() -> None:
    # The driver cannot run here, so the real module's signatures stand in for it.
    pynvml = importlib.import_module("pynvml")
    library = create_autospec(pynvml)
    library.NVMLError = pynvml.NVMLError
    library.NVML_TEMPERATURE_GPU, library.NVML_CLOCK_SM = pynvml.NVML_TEMPERATURE_GPU, pynvml.NVML_CLOCK_SM
    for name in ("SwPowerCap", "HwSlowdown", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown"):
        setattr(library, f"nvmlClocksEventReason{name}", getattr(pynvml, f"nvmlClocksEventReason{name}"))
    library.nvmlDeviceGetTemperature.return_value = 66
    library.nvmlDeviceGetPowerUsage.return_value = 215_500
    library.nvmlDeviceGetTotalEnergyConsumption.side_effect = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    library.nvmlDeviceGetClockInfo.return_value = 1755
    library.nvmlDeviceGetMaxClockInfo.return_value = 1980
    library.nvmlDeviceGetUtilizationRates.return_value = SimpleNamespace(gpu=73, memory=20)
    library.nvmlDeviceGetCurrentClocksEventReasons.return_value = (
        pynvml.nvmlClocksEventReasonSwPowerCap | pynvml.nvmlClocksEventReasonGpuIdle
    )
    draft = Draft()
    Nvml(library, "handle").probe(Tree("/nonexistent"), draft)
    assert draft.temperatures == {"gpu": 66}
    assert (draft.rails, draft.totals, draft.energy) == ({"gpu": 215.5}, ["gpu"], {})
    assert draft.fields == {"gpu_frequency_hertz": 1755e6, "gpu_frequency_max_hertz": 1980e6, "gpu_load": 0.73}
    assert [name for name, active in draft.coolers.items() if active] == ["gpu SwPowerCap"]


@needs_nvml
def test_nvml_without_answers_adds_nothing() -> None:
    pynvml = importlib.import_module("pynvml")
    library = create_autospec(pynvml)
    library.NVMLError = pynvml.NVMLError
    for question in (
        "nvmlDeviceGetTemperature",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetClockInfo",
        "nvmlDeviceGetMaxClockInfo",
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetCurrentClocksEventReasons",
    ):
        getattr(library, question).side_effect = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    draft = Draft()
    Nvml(library, "handle").probe(Tree("/nonexistent"), draft)
    assert draft == Draft()


class JtopError(Exception):
    pass


class Jtop:
    """The part of jetson-stats' client that is used, with the shapes and units of its documentation."""

    def __init__(self) -> None:
        self.temperature = {"cpu": {"temp": 51.2, "online": True}, "cv0": {"temp": -256, "online": False}}
        self.power = {
            "rail": {"VDD_SOC": {"power": 2360, "avg": 2300}},
            "tot": {"power": 7620, "avg": 7600, "name": "VDD_IN"},
        }
        self.gpu = {"gpu": {"type": "integrated", "freq": {"cur": 612_000, "max": 1_020_000}}}
        self.nvpmodel = SimpleNamespace(name="15W")
        self.closed = False

    def start(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def test_jetson_stats_fills_what_sysfs_left_out() -> None:
    library, draft = JetsonStats(SimpleNamespace(jtop=Jtop, JtopException=JtopError)), Draft()
    library.probe(Tree("/nonexistent"), draft)
    library.close()
    assert draft.temperatures == {"cpu": 51.2}
    assert draft.rails == {"VDD_SOC": pytest.approx(2.36), "VDD_IN": pytest.approx(7.62)}
    assert draft.totals == ["VDD_IN"]
    assert draft.fields["power_mode"] == "15W"
    assert draft.fields["gpu_frequency_hertz"] == 612e6


def test_jetson_stats_is_not_asked_where_sysfs_answers() -> None:
    draft = Draft(temperatures={"cpu-thermal": 50.0}, rails={"VDD_IN": 7.0})
    JetsonStats(SimpleNamespace()).probe(Tree("/nonexistent"), draft)
    assert draft == Draft(temperatures={"cpu-thermal": 50.0}, rails={"VDD_IN": 7.0})


def test_jetson_stats_without_its_service_is_noted() -> None:
    class Stopped(Jtop):
        def start(self) -> None:
            raise JtopError("The jtop.service is not active. Please run:\nsudo jtop --install-service")

    tree, draft = Tree("/nonexistent"), Draft()
    JetsonStats(SimpleNamespace(jtop=Stopped, JtopException=JtopError)).probe(tree, draft)
    assert draft == Draft()
    assert tree.notes == ["jetson-stats: The jtop.service is not active. Please run:"]
