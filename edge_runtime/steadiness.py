"""Did the device hold still while it was measured? A figure from a device that did not is marked as such."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.device import DeviceReadings, Tree

TICKS = os.sysconf("SC_CLK_TCK")  # of the kernel's counters, per second
CLOCK_SHARE = 0.05  # of the highest clock seen
CELSIUS = 5.0
LATENCY_SHARE = 0.1  # between the medians of the first and the last third
LEAST_SAMPLES = 30  # for medians of thirds to mean anything
OTHERS_SHARE = 0.1  # of all cores

Span = tuple[float, float]


@dataclass
class OtherLoad:
    """Processor time that other processes took while a series ran, added up over its turns.

    From the kernel's counters (proc_stat(5); hundredths of a second, stolen time of a virtual machine included) less
    this process's own. Nothing is known where there are none.
    """

    busy: float = 0.0
    capacity: float = 0.0
    _start: tuple[float, float] | None = None

    def begin(self, root: str | Path = "/") -> None:
        self._start = others_and_capacity(root)

    def end(self, root: str | Path = "/") -> None:
        stop = others_and_capacity(root)
        if self._start is not None and stop is not None:
            self.busy += stop[0] - self._start[0]
            self.capacity += stop[1] - self._start[1]

    @property
    def share(self) -> float | None:
        """Share of all cores in 0..1, None where unknown."""
        # The counters' coarse ticks can put the own time slightly above the total.
        return min(1.0, max(0.0, self.busy / self.capacity)) if self.capacity > 0 else None


def others_and_capacity(root: str | Path) -> tuple[float, float] | None:
    """Return seconds since boot that other processes were busy and that all cores had; None where unknown."""
    fields = (Tree(root).text("proc/stat") or "").split("\n")[0].split()
    if len(fields) < 9 or fields[0] != "cpu":
        return None
    user, nice, system, idle, waiting, interrupt, soft, stolen = (int(field) / TICKS for field in fields[1:9])
    busy = user + nice + system + interrupt + soft + stolen
    return busy - time.process_time(), busy + idle + waiting


@dataclass(frozen=True)
class Verdict:
    """Ranges (lowest, highest) over the readings, mean power, and what ``moved``.

    ``steady`` is None where nothing moved but neither clock nor temperature could be read.
    """

    watts: float | None
    hottest_celsius: Span | None
    cpu_hertz: Span | None
    gpu_hertz: Span | None
    moved: tuple[str, ...]
    steady: bool | None


def judge(
    readings: Sequence[DeviceReadings], milliseconds: NDArray[np.float64], others: float | None, *, on_gpu: bool
) -> Verdict:
    """Judge the readings taken during one series of samples [n], in the order of time.

    ``others`` is the share of the processor that other processes took meanwhile, None where unknown.
    """
    celsius = span([each.hottest_celsius for each in readings])
    cpu = span([each.cpu_frequency_hertz for each in readings])
    gpu = span([each.gpu_frequency_hertz for each in readings])
    modes = {each.power_mode for each in readings} - {None}
    # An idle GPU's clock wanders; it only counts where the GPU does the work.
    clocks = {"CPU clock": cpu, "GPU clock": gpu if on_gpu else None}
    findings = [
        *(clock_moved(name, each) for name, each in clocks.items()),
        temperature_moved(celsius),
        f"power mode changed: {', '.join(sorted(map(str, modes)))}" if len(modes) > 1 else None,
        throttled(readings),
        latency_moved(milliseconds),
        None if others is None or others <= OTHERS_SHARE else f"other processes took {others:.0%} of the processor",
    ]
    moved = tuple(finding for finding in findings if finding is not None)
    watts = [each.power_watts for each in readings if each.power_watts is not None]
    blind = celsius is None and all(each is None for each in clocks.values())
    return Verdict(
        watts=sum(watts) / len(watts) if watts else None,
        hottest_celsius=celsius,
        cpu_hertz=cpu,
        gpu_hertz=gpu,
        moved=moved,
        steady=False if moved else (None if blind else True),
    )


def span(values: Sequence[float | None]) -> Span | None:
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if known else None


def clock_moved(name: str, hertz: Span | None) -> str | None:
    if hertz is None or hertz[1] - hertz[0] <= CLOCK_SHARE * hertz[1]:
        return None
    return f"{name} moved between {hertz[0] / 1e6:.0f} and {hertz[1] / 1e6:.0f} MHz"


def temperature_moved(celsius: Span | None) -> str | None:
    if celsius is None or celsius[1] - celsius[0] <= CELSIUS:
        return None
    return f"temperature moved between {celsius[0]:.0f} and {celsius[1]:.0f} degrees"


def throttled(readings: Sequence[DeviceReadings]) -> str | None:
    reasons = {reason for each in readings if each.throttled for reason in each.throttle_reasons or ("unknown",)}
    return f"throttled: {', '.join(sorted(reasons))}" if reasons else None


def latency_moved(milliseconds: NDArray[np.float64]) -> str | None:
    """Compare the medians of the first and the last third: drift shows even where no sensor can be read."""
    if len(milliseconds) < LEAST_SAMPLES:
        return None
    third = len(milliseconds) // 3
    first, last = float(np.median(milliseconds[:third])), float(np.median(milliseconds[-third:]))
    if abs(last - first) <= LATENCY_SHARE * min(first, last):
        return None
    return f"median latency moved from {first:.3g} to {last:.3g} ms"
