"""The live status as Prometheus metrics: base units, a missing reading is absent, never 0.

One table of small functions (``FAMILIES``), one walk. A status that is no longer the present gives only whether the
loop is ready and how old the status is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.live import LiveStatus, Series, age
from edge_runtime.serve.readiness import look

if TYPE_CHECKING:
    from prometheus_client.core import Metric

Families = Callable[[LiveStatus], "Iterator[Metric]"]


def expose(folder: Path, accept: str) -> tuple[bytes, str]:
    """Return the metrics' text and its media type, in the format that the ``Accept`` header asks for."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry()
    registry.register(LiveCollector(folder))
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type


class LiveCollector:
    """Reads the live folder at every scrape."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families of the present status."""
        reading = look(self._folder)
        yield _gauge("roadworthy_ready", "1 where the model is warm and frames flow.", float(reading.obstacle is None))
        if reading.status is None:
            return
        yield _gauge("roadworthy_status_age_seconds", "Since the loop last wrote its status.", age(reading.status))
        if reading.fresh:
            for family in FAMILIES:
                yield from family(reading.status)


def _gauge(name: str, text: str, value: float) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(name, text, value=value)


def _gauges(name: str, text: str, label: str, values: Mapping[str, float | None]) -> Iterator[Metric]:
    """Yield one family with a sample for every value that is there, and none where there is no value at all."""
    from prometheus_client.core import GaugeMetricFamily

    known = {key: value for key, value in values.items() if value is not None}
    if known:
        family = GaugeMetricFamily(name, text, labels=[label])
        for key, value in known.items():
            family.add_metric([key], value)
        yield family


def _if_known(name: str, text: str, value: float | str | None) -> Iterator[Metric]:
    if isinstance(value, (int, float)):
        yield _gauge(name, text, float(value))


def _counter(name: str, text: str, value: float | str | None) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily

    if isinstance(value, (int, float)):
        yield CounterMetricFamily(name, text, value=float(value))


def loop(status: LiveStatus) -> Iterator[Metric]:
    """Who runs, since when, and in which state."""
    from prometheus_client.core import InfoMetricFamily

    yield InfoMetricFamily(
        "roadworthy_loop",
        "What the vehicle loop runs.",
        value={"bundle": status.bundle, "digest": status.digest, "provider": status.provider, "source": status.source},
    )
    states = dict.fromkeys(("starting", "running", "waiting", "stopped"), 0.0) | {status.state: 1.0}
    yield from _gauges("roadworthy_loop_state", "1 for the loop's present state.", "state", states)
    yield _gauge("roadworthy_loop_start_time_seconds", "When the loop started, since 1970.", status.started_wall)
    yield _gauge("roadworthy_degradation_step", "What the loop leaves out for lack of time; 0: nothing.", status.step)


def frames(status: LiveStatus) -> Iterator[Metric]:
    """Frames by what became of them: produced = processed + dropped + failed + waiting."""
    from prometheus_client.core import CounterMetricFamily

    counts = status.counts
    yield from _counter("roadworthy_frames_produced", "Frames that the source gave.", counts.produced)
    family = CounterMetricFamily("roadworthy_frames", "Frames by what became of them.", labels=["outcome"])
    for outcome in ("processed", "dropped", "failed"):
        family.add_metric([outcome], getattr(counts, outcome))
    yield family
    yield _gauge("roadworthy_frames_waiting", "Frames in the queue.", counts.waiting)
    yield from _if_known(
        "roadworthy_last_frame_timestamp_seconds", "When the last frame came, since 1970.", status.last_frame_wall
    )


def latency(status: LiveStatus) -> Iterator[Metric]:
    """Latency histograms by stage, in seconds and cumulative as Prometheus wants them."""
    from prometheus_client.core import HistogramMetricFamily

    if not status.histograms:
        return
    family = HistogramMetricFamily(
        "roadworthy_latency_seconds", "Time that a stage took for one frame.", labels=["stage"]
    )
    for stage, histogram in status.histograms.items():
        edges = [*(f"{edge / 1e3:.12g}" for edge in histogram.edges), "+Inf"]
        buckets = list(zip(edges, accumulate(histogram.counts), strict=True))
        family.add_metric([stage], buckets, sum_value=histogram.total / 1e3)
    yield family


def interpretability(status: LiveStatus) -> Iterator[Metric]:
    """The newest Gini, ROAD and confidence, and the desktop's baselines beside them."""
    for name, text, found in (("gini", "Sparsity of the saliency", status.gini), ("road", "Faithfulness", status.road)):
        yield from _gauges(f"roadworthy_{name}", f"{text}, newest value.", "explainer", _newest(found))
        baselines = {method: series.baseline for method, series in found.items()}
        yield from _gauges(f"roadworthy_{name}_baseline", f"{text} on the desktop, mean.", "explainer", baselines)
    yield from _if_known(
        "roadworthy_confidence_ratio", "Probability of the predicted class, newest.", _last(status.confidence)
    )


def _newest(series: Mapping[str, Series]) -> dict[str, float | None]:
    return {name: _last(found) for name, found in series.items()}


def _last(series: Series) -> float | None:
    return series.values[-1] if series.values else None


def drift(status: LiveStatus) -> Iterator[Metric]:
    """Whether the watched measures have left the desktop's distribution."""
    states = {name: float(found.drifted) for name, found in status.drift.items()}
    yield from _gauges("roadworthy_drifted", "1 where a measure has left its baseline.", "measure", states)
    p_values = {name: found.p_value for name, found in status.drift.items()}
    yield from _gauges("roadworthy_drift_p_value", "Of the test against the baseline.", "measure", p_values)


def device(status: LiveStatus) -> Iterator[Metric]:
    """Temperatures, power, clocks and throttling, as far as the device tells."""
    found = status.device
    if found is None:
        return
    yield from _gauges(
        "roadworthy_device_temperature_celsius", "By sensor.", "sensor", found.temperatures_celsius or {}
    )
    yield from _if_known("roadworthy_device_hottest_celsius", "The hottest sensor.", found.hottest_celsius)
    yield from _if_known("roadworthy_device_power_watts", "The whole device.", found.power_watts)
    yield from _gauges("roadworthy_device_rail_power_watts", "By supply rail.", "rail", found.rails_watts or {})
    yield from _counter("roadworthy_device_energy_joules", "Since the loop started.", found.energy_joules)
    clocks = {"cpu": found.cpu_frequency_hertz, "gpu": found.gpu_frequency_hertz}
    yield from _gauges("roadworthy_device_frequency_hertz", "Present clock.", "unit", clocks)
    yield from _if_known("roadworthy_device_gpu_load_ratio", "Share of time that the GPU is busy.", found.gpu_load)
    yield from _if_known("roadworthy_device_throttled", "1 where a limiter slows the device.", found.throttled)


def audit_log(status: LiveStatus) -> Iterator[Metric]:
    """The audit log: what waits, what was lost, and whether its disk fails."""
    found = status.log
    yield from _counter("roadworthy_log_records_lost", "Records that could not be stored.", found.get("lost"))
    yield from _if_known("roadworthy_log_records_pending", "Records not yet durable.", found.get("pending"))
    yield from _if_known("roadworthy_log_last_sequence", "The last durable record.", found.get("acknowledged"))
    if found:
        yield _gauge("roadworthy_log_failing", "1 while the log cannot be written.", float(bool(found.get("error"))))


FAMILIES: Iterable[Families] = (loop, frames, latency, interpretability, drift, device, audit_log)
