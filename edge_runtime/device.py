"""What the device says about itself while it works: temperatures, power, energy, clocks, power mode, throttling.

One table of probes (``PROBES``), one walk (:class:`DeviceSampler`). Each probe reads the files of one kernel interface
and adds what it finds; a file that is not there adds nothing, and a file that is there but cannot be read or parsed is
named in ``unreadable``. A missing reading is None, never 0.

Sources: the kernel's documentation of hwmon, thermal, powercap, devfreq and cpufreq; NVIDIA's Jetson Linux developer
guide, "Platform Power and Performance".
"""

from __future__ import annotations

import glob
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from edge_runtime.device_nvidia import Library

# Sensors that are off answer with a sentinel (Jetson: -256 degrees), so values outside this range are no readings.
LOWEST_CELSIUS, HIGHEST_CELSIUS = -60.0, 200.0

# Jetson rails that measure the whole module's or board's input; without one of them the rails are summed.
INPUT_RAILS = ("VIN", "VDD_IN", "POM_5V_IN")

CPU_ZONE = re.compile(r"^(cpu|x86_pkg_temp|coretemp|k10temp|zenpower)", re.IGNORECASE)
GPU_ZONE = re.compile(r"^gpu", re.IGNORECASE)
CPU_HWMON = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
# Orin: 17000000.gpu (JetPack 6), 17000000.ga10b (5); Thor: gpu-gpc-0; Xavier, TX2, Nano: gv11b, gp10b, gm20b.
GPU_DEVFREQ = re.compile(r"gpu-gpc|(\.gpu|ga10b|gv11b|gp10b|gm20b)$")
# Cooling devices that slow a processor down; fans and radios are no throttling.
THROTTLING_COOLER = re.compile(r"throttle|cpufreq|devfreq|^processor$|powerclamp", re.IGNORECASE)


class DeviceReadings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One set of readings; every field is None where the device does not offer it.

    ``rails_watts`` holds every rail, ``power_watts`` the device's total as ``power_source`` defines it.
    ``energy_joules`` counts from the sampler's first reading. ``throttle_events`` are the kernel's counters since boot;
    ``throttled`` says whether a limiter acted now or since the previous reading, ``throttle_reasons`` which ones.
    """

    temperatures_celsius: dict[str, float] | None = None
    hottest_celsius: float | None = None
    cpu_temperature_celsius: float | None = None
    gpu_temperature_celsius: float | None = None
    rails_watts: dict[str, float] | None = None
    power_watts: float | None = None
    power_source: str | None = None
    energy_joules: float | None = None
    cpu_frequency_hertz: float | None = None
    cpu_frequency_max_hertz: float | None = None
    cpu_governor: str | None = None
    gpu_frequency_hertz: float | None = None
    gpu_frequency_max_hertz: float | None = None
    gpu_load: float | None = None
    power_mode: str | None = None
    throttled: bool | None = None
    throttle_reasons: tuple[str, ...] | None = None
    throttle_events: dict[str, int] | None = None
    unreadable: tuple[str, ...] = ()


class Tree:
    """Files below ``root``, read without raising: None where there is nothing, a note where there is nonsense."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.notes: list[str] = []

    def find(self, pattern: str) -> Iterator[str]:
        """Yield the paths, relative to the root, that match a glob pattern, in natural order (zone2 before zone10)."""
        paths = glob.glob(pattern, root_dir=self.root)
        return iter(sorted(paths, key=lambda path: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", path)]))

    def text(self, path: str) -> str | None:
        """Return the file's stripped text, or None."""
        try:
            content = (self.root / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self.notes.append(f"{path}: {error.strerror}")
            return None
        return content.decode("utf-8", "replace").strip("\0 \t\r\n")

    def number(self, path: str) -> float | None:
        """Return the file's number, or None."""
        text = self.text(path)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            self.notes.append(f"{path}: not a number: {text[:20]!r}")
            return None
        if value != value or value in (float("inf"), float("-inf")):
            self.notes.append(f"{path}: not a number: {text[:20]!r}")
            return None
        return value


@dataclass
class Draft:
    """What the probes of one reading have found so far.

    ``totals`` names the rails that add up to the device's power. ``energy`` holds counters in joules with the value at
    which they wrap. ``coolers`` says of each limiter whether it acts now.
    """

    temperatures: dict[str, float] = field(default_factory=dict)
    rails: dict[str, float] = field(default_factory=dict)
    totals: list[str] = field(default_factory=list)
    energy: dict[str, tuple[float, float]] = field(default_factory=dict)
    coolers: dict[str, bool] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)

    def temperature(self, name: str, celsius: float | None) -> None:
        """Add a temperature unless it is missing or a sentinel; a second sensor of the same name gets a number."""
        if celsius is not None and LOWEST_CELSIUS < celsius < HIGHEST_CELSIUS:
            self.temperatures[_unused(name, self.temperatures)] = celsius

    def put(self, name: str, value: Any) -> None:
        """Set a field, unless there is no value or an earlier probe has set it."""
        if value is not None:
            self.fields.setdefault(name, value)


def _unused(name: str, taken: dict[str, float]) -> str:
    if name not in taken:
        return name
    return next(f"{name}#{n}" for n in range(2, len(taken) + 3) if f"{name}#{n}" not in taken)


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale


def thermal_zones(tree: Tree, draft: Draft) -> None:
    """Thermal zones, in millidegrees. On Orin the zones of powered-off engines (cv0..cv2) fail to read."""
    for zone in tree.find("sys/class/thermal/thermal_zone*"):
        name = tree.text(f"{zone}/type")
        if name:
            draft.temperature(name, _scaled(tree.number(f"{zone}/temp"), 1e-3))


def cpu_hwmon(tree: Tree, draft: Draft) -> None:
    """CPU sensors that desktop chips offer only through hwmon, in millidegrees."""
    for chip in tree.find("sys/class/hwmon/hwmon*"):
        name = tree.text(f"{chip}/name")
        if name in CPU_HWMON:
            draft.temperature(name, _scaled(tree.number(f"{chip}/temp1_input"), 1e-3))


def ina3221(tree: Tree, draft: Draft) -> None:
    """Jetson's three-channel monitors: millivolts times milliamperes. Unconnected channels are labelled NC.

    Labels of channels without a current (the sum of shunt voltages, channel 7) are no rails.
    """
    rails = {}
    for label_path in tree.find("sys/class/hwmon/hwmon*/in[0-9]_label"):
        folder, channel = label_path.rsplit("/", 1)[0], label_path[-7]
        label = tree.text(label_path)
        if not label or label == "NC" or tree.text(f"{folder}/name") != "ina3221":
            continue
        millivolts = tree.number(f"{folder}/in{channel}_input")
        milliamperes = tree.number(f"{folder}/curr{channel}_input")
        if millivolts is not None and milliamperes is not None and channel in "123":
            rails[label] = millivolts * milliamperes * 1e-6
    draft.rails.update(rails)
    _input_or_sum(draft, rails)


def ina238(tree: Tree, draft: Draft) -> None:
    """The carrier board's input monitor of Jetson Thor: microwatts."""
    for chip in tree.find("sys/class/hwmon/hwmon*"):
        if tree.text(f"{chip}/name") == "ina238":
            watts = _scaled(tree.number(f"{chip}/power1_input"), 1e-6)
            if watts is not None:
                draft.rails["VIN"] = watts
                draft.totals.append("VIN")


def _input_or_sum(draft: Draft, rails: dict[str, float]) -> None:
    # A board input measured by an earlier probe already contains these rails.
    if not draft.totals:
        measured = [name for name in INPUT_RAILS if name in rails]
        draft.totals += measured[:1] or list(rails)


def rapl(tree: Tree, draft: Draft) -> None:
    """Energy counters of CPU packages and their parts, in microjoules; only packages count towards the total.

    Kernels since 5.10 let only root read them; the note in ``unreadable`` then says "Permission denied".
    """
    for zone in tree.find("sys/class/powercap/intel-rapl:*"):
        name = tree.text(f"{zone}/name")
        joules = _scaled(tree.number(f"{zone}/energy_uj"), 1e-6)
        wrap = _scaled(tree.number(f"{zone}/max_energy_range_uj"), 1e-6)
        if not name or joules is None:
            continue
        is_part = zone.count(":") > 1
        parent = tree.text(f"{zone.rsplit(':', 1)[0]}/name") if is_part else None
        rail = f"{parent}/{name}" if parent else name
        draft.energy[rail] = (joules, wrap or float("inf"))
        if name.startswith("package"):
            draft.totals.append(rail)


def cpufreq(tree: Tree, draft: Draft) -> None:
    """Mean of the cores' current frequencies and the highest that any can reach; kilohertz in the files."""
    policies = list(tree.find("sys/devices/system/cpu/cpufreq/policy*"))
    now = [value for policy in policies if (value := tree.number(f"{policy}/scaling_cur_freq")) is not None]
    top = [value for policy in policies if (value := tree.number(f"{policy}/cpuinfo_max_freq")) is not None]
    draft.put("cpu_frequency_hertz", sum(now) / len(now) * 1e3 if now else None)
    draft.put("cpu_frequency_max_hertz", max(top) * 1e3 if top else None)
    governors = {text for policy in policies if (text := tree.text(f"{policy}/scaling_governor"))}
    draft.put("cpu_governor", "+".join(sorted(governors)) or None)


def gpu_devfreq(tree: Tree, draft: Draft) -> None:
    """Jetson's integrated GPU: hertz, and load in thousandths."""
    for device in tree.find("sys/class/devfreq/*"):
        if GPU_DEVFREQ.search(device.rsplit("/", 1)[1]):
            draft.put("gpu_frequency_hertz", tree.number(f"{device}/cur_freq"))
            draft.put("gpu_frequency_max_hertz", tree.number(f"{device}/max_freq"))
            draft.put("gpu_load", _scaled(tree.number(f"{device}/device/load"), 1e-3))


def nvpmodel(tree: Tree, draft: Draft) -> None:
    """Jetson's power mode by name: the saved state, or the configuration's default where none was ever saved."""
    config = tree.text("etc/nvpmodel.conf")
    if config is None:
        return
    names = dict(re.findall(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", config, re.MULTILINE))
    status = tree.text("var/lib/nvpmodel/status")
    found = re.search(r"pmode:0*(\d+)", status or "") or re.search(r"PM_CONFIG\s+DEFAULT=(\d+)", config)
    if found is None or found[1] not in names:
        tree.notes.append("etc/nvpmodel.conf: no name for the current power mode")
        return
    draft.put("power_mode", names[found[1]])


def cooling_devices(tree: Tree, draft: Draft) -> None:
    """Cooling devices that slow processors down; state 0 means inactive."""
    for device in tree.find("sys/class/thermal/cooling_device*"):
        name = tree.text(f"{device}/type")
        if name and THROTTLING_COOLER.search(name):
            state = tree.number(f"{device}/cur_state")
            if state is not None:
                draft.coolers[name] = draft.coolers.get(name, False) or state > 0


def throttle_counters(tree: Tree, draft: Draft) -> None:
    """Events since boot: Jetson's under-voltage (oc1) and over-current (oc2, oc3), x86's thermal throttling."""
    for path in tree.find("sys/class/hwmon/hwmon*/oc[0-9]_event_cnt"):
        count = tree.number(path)
        if count is not None:
            draft.events[path.rsplit("/", 1)[1].removesuffix("_event_cnt")] = int(count)
    for kind in ("core", "package"):
        paths = tree.find(f"sys/devices/system/cpu/cpu*/thermal_throttle/{kind}_throttle_count")
        counts = [tree.number(path) for path in paths]
        known = [int(count) for count in counts if count is not None]
        if known:
            draft.events[f"{kind}_throttle"] = max(known)


Probe = Callable[[Tree, Draft], None]

PROBES: dict[str, Probe] = {
    "thermal zones": thermal_zones,
    "CPU sensors": cpu_hwmon,
    "Jetson input monitor": ina238,
    "Jetson rails": ina3221,
    "RAPL": rapl,
    "CPU clocks": cpufreq,
    "Jetson GPU": gpu_devfreq,
    "Jetson power mode": nvpmodel,
    "cooling devices": cooling_devices,
    "throttle counters": throttle_counters,
}


class DeviceSampler:
    """Reads the device again and again; what needs two readings (power from energy, events) needs this object.

    ``root`` is the file system's root (another folder in tests); NVML and jetson-stats are asked only on the real one.
    A context manager: leaving it releases their connections.
    """

    def __init__(self, root: str | Path = "/", clock: Callable[[], float] = time.monotonic) -> None:
        self._root = Path(root)
        self._clock = clock
        self._counters: dict[str, tuple[float, float]] = {}  # rail -> time and joules of its last reading
        self._events: dict[str, int] = {}
        self._last_power: tuple[float, float] | None = None  # time and watts
        self._joules: float | None = None
        self._libraries: list[Library] = []
        if self._root == Path("/"):
            from edge_runtime.device_nvidia import open_libraries

            self._libraries = open_libraries()

    def __enter__(self) -> DeviceSampler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the connections to NVML and jetson-stats."""
        while self._libraries:
            self._libraries.pop().close()

    def read(self) -> DeviceReadings:
        """Return the readings of now."""
        tree, draft = Tree(self._root), Draft()
        for probe in PROBES.values():
            probe(tree, draft)
        for library in self._libraries:
            library.probe(tree, draft)
        values = {**draft.fields, **self._power(draft), **self._throttling(draft), **_temperatures(draft)}
        return DeviceReadings(**values, unreadable=tuple(tree.notes))

    def _power(self, draft: Draft) -> dict[str, Any]:
        now = self._clock()
        used = self._used(now, draft)
        totals = [rail for rail in draft.totals if rail in draft.rails]
        # A sum that lacks one of its parts would look like a saving.
        watts = sum(draft.rails[rail] for rail in totals) if totals and len(totals) == len(draft.totals) else None
        if self._joules is None:
            self._joules = 0.0 if draft.totals else None
        elif all(rail in draft.energy for rail in draft.totals):
            self._joules += sum(used.get(rail, 0.0) for rail in draft.totals)
        elif watts is not None:
            then, before = self._last_power or (now, watts)
            self._joules += (watts + before) / 2 * (now - then)
        if watts is not None:
            self._last_power = (now, watts)
        return {
            "rails_watts": draft.rails or None,
            "power_watts": watts,
            "power_source": " + ".join(totals) if watts is not None else None,
            "energy_joules": self._joules,
        }

    def _used(self, now: float, draft: Draft) -> dict[str, float]:
        """Return the joules that each counter has counted since its last reading; set its rail to the mean power."""
        used = {}
        for rail, (joules, wrap) in draft.energy.items():
            then, old = self._counters.get(rail, (now, joules))
            if now > then:
                # A counter starts again at 0 when it reaches its range.
                used[rail] = joules - old if joules >= old else joules - old + wrap
                draft.rails[rail] = used[rail] / (now - then)
            self._counters[rail] = (now, joules)
        return used

    def _throttling(self, draft: Draft) -> dict[str, Any]:
        reasons = [name for name, active in draft.coolers.items() if active]
        counted = draft.events.keys() & self._events.keys()
        reasons += sorted(name for name in counted if draft.events[name] > self._events[name])
        known = bool(draft.coolers or counted)
        self._events.update(draft.events)
        return {
            "throttled": bool(reasons) if known else None,
            "throttle_reasons": tuple(reasons) if known else None,
            "throttle_events": draft.events or None,
        }


def _temperatures(draft: Draft) -> dict[str, Any]:
    zones = draft.temperatures
    cpu = [celsius for name, celsius in zones.items() if CPU_ZONE.match(name)]
    gpu = [celsius for name, celsius in zones.items() if GPU_ZONE.match(name)]
    return {
        "temperatures_celsius": zones or None,
        "hottest_celsius": max(zones.values(), default=None),
        "cpu_temperature_celsius": max(cpu, default=None),
        "gpu_temperature_celsius": max(gpu, default=None),
    }


def read_device(root: str | Path = "/") -> DeviceReadings:
    """Return one set of readings of the device. Power from energy counters (RAPL) needs a :class:`DeviceSampler`."""
    with DeviceSampler(root) as sampler:
        return sampler.read()
