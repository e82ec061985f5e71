"""NVIDIA's optional libraries as sources of device readings: NVML (desktop GPUs) and jetson-stats (Jetson).

Neither is a dependency: without the package, the driver or the service there is nothing to read, and nothing is
reported. Only the first GPU is read, the one that the runtime uses by default.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from edge_runtime.device import Draft, Tree


class Library(Protocol):
    """An open connection that can be asked like a probe."""

    def probe(self, tree: Tree, draft: Draft) -> None:
        """Add what the library knows to the draft."""

    def close(self) -> None:
        """Release the connection."""


def open_libraries() -> list[Library]:
    """Return the connections that this device offers, often none."""
    opened = (Nvml.open(), JetsonStats.open())
    return [library for library in opened if library is not None]


# NVML's reasons for lower clocks that are limits; idling and requested clocks are not.
LIMITS = (
    "SwPowerCap",
    "HwSlowdown",
    "SwThermalSlowdown",
    "HwThermalSlowdown",
    "HwPowerBrakeSlowdown",
)


class Nvml:
    """NVIDIA's management library through the package nvidia-ml-py."""

    def __init__(self, pynvml: Any, handle: Any) -> None:
        self._nvml = pynvml
        self._handle = handle

    @classmethod
    def open(cls) -> Nvml | None:
        """Return a connection to the first GPU; None without package, driver or GPU."""
        try:
            pynvml = importlib.import_module("pynvml")
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return None
        try:
            return cls(pynvml, pynvml.nvmlDeviceGetHandleByIndex(0))
        except pynvml.NVMLError:
            pynvml.nvmlShutdown()
            return None

    def close(self) -> None:
        """Release NVML."""
        self._nvml.nvmlShutdown()

    def _ask(self, question: str, *arguments: Any) -> Any:
        """Return NVML's answer, None where this GPU does not support the question."""
        try:
            return getattr(self._nvml, question)(self._handle, *arguments)
        except self._nvml.NVMLError:
            return None

    def probe(self, tree: Tree, draft: Draft) -> None:
        """Add temperature, board power and energy, clocks, load and throttling of the GPU."""
        nvml = self._nvml
        draft.temperature("gpu", self._ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU))
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        if milliwatts is not None:
            draft.rails["gpu"] = milliwatts * 1e-3
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        if millijoules is not None:
            draft.energy["gpu"] = (millijoules * 1e-3, float("inf"))
        if milliwatts is not None or millijoules is not None:
            draft.totals.append("gpu")
        for name, question in (
            ("gpu_frequency_hertz", "nvmlDeviceGetClockInfo"),
            ("gpu_frequency_max_hertz", "nvmlDeviceGetMaxClockInfo"),
        ):
            megahertz = self._ask(question, nvml.NVML_CLOCK_SM)
            draft.put(name, None if megahertz is None else megahertz * 1e6)
        load = self._ask("nvmlDeviceGetUtilizationRates")
        draft.put("gpu_load", None if load is None else load.gpu / 100)
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is not None:
            for limit in LIMITS:
                draft.coolers[f"gpu {limit}"] = bool(reasons & getattr(nvml, f"nvmlClocksEventReason{limit}"))


class JetsonStats:
    """The service of jetson-stats (jtop), asked only where sysfs is silent: it may read what this process may not."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._jtop: Any = None

    @classmethod
    def open(cls) -> JetsonStats | None:
        """Return the library, not yet connected (connecting takes a second); None without the package."""
        try:
            return cls(importlib.import_module("jtop"))
        except ImportError:
            return None

    def close(self) -> None:
        """Leave the service."""
        if self._jtop is not None:
            self._jtop.close()

    def probe(self, tree: Tree, draft: Draft) -> None:
        """Add temperatures, power, GPU clocks and power mode where sysfs gave none."""
        if draft.temperatures and draft.rails:
            return
        if self._jtop is None:
            connection = self._module.jtop()
            try:
                connection.start()
            except self._module.JtopException as error:
                tree.notes.append(f"jetson-stats: {str(error).splitlines()[0]}")
                return
            self._jtop = connection
        _add_jetson_stats(self._jtop, draft)


def _add_jetson_stats(jtop: Any, draft: Draft) -> None:
    """Units of jetson-stats: degrees Celsius, milliwatts, kilohertz."""
    if not draft.temperatures:
        for name, zone in jtop.temperature.items():
            draft.temperature(name, zone["temp"])
    if not draft.rails and jtop.power.get("rail"):
        draft.rails.update({name: rail["power"] * 1e-3 for name, rail in jtop.power["rail"].items()})
        total = jtop.power["tot"].get("name") or "sum of rails"
        draft.rails[total] = jtop.power["tot"]["power"] * 1e-3
        draft.totals.append(total)
    for gpu in list(jtop.gpu.values())[:1]:
        for name, key in (("gpu_frequency_hertz", "cur"), ("gpu_frequency_max_hertz", "max")):
            kilohertz = gpu.get("freq", {}).get(key)
            draft.put(name, None if kilohertz is None else kilohertz * 1e3)
    if jtop.nvpmodel is not None:
        draft.put("power_mode", jtop.nvpmodel.name)
