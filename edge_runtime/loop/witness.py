"""What becomes of everything that the loop sees: records, series, pictures, and the watch over drift."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.bundle import Bundle
from edge_runtime.device import DeviceReadings
from edge_runtime.explainer import Explanation
from edge_runtime.live import DriftState, Shown
from edge_runtime.log.frames import frame_record
from edge_runtime.loop.audits import Held, Sample
from edge_runtime.loop.board import Board, Pictures
from edge_runtime.loop.drift import DriftChange, baseline_values, monitors
from edge_runtime.loop.keeper import LogKeeper
from edge_runtime.manifest import Method
from edge_runtime.metrics import gini
from edge_runtime.sources.frame import Frame


@dataclass
class Streak:
    """A trouble that comes and goes: one event when it begins, one when it is over, however many frames it takes."""

    name: str
    count: int = 0

    def bad(self, tell: Callable[[str, str], None], message: str) -> int:
        """Note a bad frame; return how many there are in a row."""
        self.count += 1
        if self.count == 1:
            tell(self.name, message)
        return self.count

    def good(self, tell: Callable[[str, str], None]) -> None:
        """Note a good frame."""
        if self.count:
            tell(f"{self.name}-over", f"after {self.count} frames")
            self.count = 0


class Witness:
    """Told of frames, audits and events (see ``audits.Listener``); writes them to log and board, and judges drift.

    Every ``every``-th image's confidence is compared with the baseline. ``allows`` says whether thumbnails are kept.
    """

    def __init__(self, bundle: Bundle, keeper: LogKeeper, every: int, allows: Callable[[str], bool]) -> None:
        self.board = Board()
        self.keeper = keeper
        self.device: DeviceReadings | None = None
        self._device_logged: DeviceReadings | None = None
        self._bundle = bundle
        self._every = every
        self._allows = allows
        self._baselines = baseline_values(bundle.manifest.baselines)
        self._monitors = monitors(bundle.manifest.baselines, bundle.manifest.drift)
        self._since: dict[str, float] = {}
        self._unfinite = Streak("logits-not-finite")

    def happened(self, name: str, message: str, data: dict[str, float | str | None] | None = None) -> None:
        """Log and show an event."""
        self.board.happened(name, message)
        self.keeper.event(name, message, data)

    def watch(self, sample: Sample) -> None:
        """Follow the confidence, and whether the logits are finite."""
        if not sample.prediction.valid[0]:
            self._unfinite.bad(self.happened, f"{sample.frame_id}: the logits hold NaN or infinity")
            return
        self._unfinite.good(self.happened)
        if sample.number % self._every == 0:
            self._measured("confidence", float(sample.prediction.probability[0]))

    def _measured(self, measure: str, value: float) -> None:
        """Show a value and compare its measure with the baseline."""
        self.board.measured(measure, value, self._baselines.get(measure, ()))
        monitor = self._monitors.get(measure)
        change = None if monitor is None else monitor.add(value)
        if change is not None:
            self._drifted(change)

    def show(self, frame: Frame, sample: Sample) -> None:
        """Show a frame and what one of its signs was taken for."""
        valid = bool(sample.prediction.valid[0])
        target = int(sample.prediction.target[0])
        self.board.last_frame_wall = time.time()
        self.board.shown = Shown(
            frame_id=sample.frame_id,
            label=self._bundle.labels[target] if valid else None,
            prediction=target if valid else None,
            probability=float(sample.prediction.probability[0]) if valid else None,
            box=sample.box,
        )
        then = self.board.pictures
        self.board.pictures = Pictures(frame.image, then.image, then.saliency, then.method)

    def _drifted(self, change: DriftChange) -> None:
        self._since[change.measure] = time.time()
        name = "drift" if change.drifted else "drift-over"
        message = (
            f"{change.measure} {'left' if change.drifted else 'is back at'} its baseline: mean {change.mean:.3f}, "
            f"baseline {change.baseline_mean:.3f}, p = {change.p_value:.1e}"
        )
        data: dict[str, float | str | None] = {
            "measure": change.measure,
            "p_value": change.p_value,
            "distance": change.distance,
            "mean": change.mean,
            "baseline_mean": change.baseline_mean,
        }
        self.happened(name, message, data)

    def explained(self, sample: Sample, explanation: Explanation, milliseconds: float) -> None:
        """Follow an explanation's Gini, and show it."""
        method, saliency = explanation.method, explanation.saliency()
        sample.latency_ms[method] = milliseconds
        self.board.took(method, milliseconds)
        self._measured(f"gini {method}", float(gini(saliency)[0]))
        if method == "vg" or self.board.pictures.saliency is None:
            frame = self.board.pictures.frame
            self.board.pictures = Pictures(frame, sample.image, saliency[0], method)

    def measured(self, method: Method, areas: NDArray[np.float64], milliseconds: float) -> None:
        """Follow ROAD, image by image."""
        self.board.took("road", milliseconds)
        for area in areas:
            self._measured(f"road {method}", float(area))

    def complete(self, held: Held) -> None:
        """Log a sample; device readings go with the first record after them."""
        sample, device = held.sample, self.device
        fresh = device is not self._device_logged
        self._device_logged = device
        pictured = held.explanations and self._allows("thumbnails")
        record = frame_record(
            sample.frame_id,
            sample.prediction,
            self._bundle.labels,
            explanations=held.explanations,
            image=sample.image if pictured else None,
            latency_ms=sample.latency_ms,
            road=held.road,
            box=sample.box,
            truth=sample.truth,
            problems=sample.problems,
            device=device if fresh else None,
        )
        self.keeper.append(record if pictured else msgspec.structs.replace(record, saliency=None))

    def failed(self, kind: str, reason: str) -> None:
        """Log that an audit failed."""
        self.happened("audit-failed", f"{kind}: {reason}")

    def drift_states(self) -> dict[str, DriftState]:
        """Return every watched measure's state."""
        return {
            measure: DriftState(
                drifted=monitor.drifted,
                p_value=monitor.p_value,
                threshold=monitor.options.threshold,
                window=monitor.options.window,
                since_wall=self._since.get(measure),
            )
            for measure, monitor in self._monitors.items()
        }
