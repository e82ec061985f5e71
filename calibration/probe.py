"""How far a quantised network is from its original: the measures of the gate, on graphs in memory.

Both networks explain their own decisions, as they do on the vehicle: a flipped prediction is also a changed
explanation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from calibration.images import LabelledImages
from calibration.options import DEFAULT_IMAGES
from calibration.quantise import Quantised
from calibration.sampling import balanced_sample
from edge_runtime.classifier import finite_rows
from edge_runtime.errors import InputError
from edge_runtime.manifest import GateMeasures, InputSpec
from edge_runtime.metrics import rank_correlation, reduce_channels, road
from edge_runtime.metrics.road import RoadCurve
from edge_runtime.preprocess import normalize
from edge_runtime.sessions import DEFAULT_PROVIDER, default_batch, default_chunk
from export.gradients import build_explainer
from export.session import FATAL_ONLY

REDUCTION = "sum_abs"
# The one sample point of the vanilla gradient: the image itself.
HERE = {"scale": np.ones(1, np.float32), "weight": np.ones(1, np.float32)}

Array = npt.NDArray[np.float32]


class Graphs:
    """A classifier and its explainer as functions."""

    def __init__(self, classifier: onnx.ModelProto, explainer: onnx.ModelProto, spec: InputSpec) -> None:
        self._classifier = classifier
        self._explainer = explainer
        self._spec = spec

    def predict(self, images: Array) -> Array:
        """Return the logits [N, K] of normalised images."""
        size = default_batch(DEFAULT_PROVIDER, self._spec)
        name = self._session.get_inputs()[0].name
        parts = [self._session.run(None, {name: images[i : i + size]})[0] for i in range(0, len(images), size)]
        return np.concatenate(parts)

    def saliency(self, images: Array, target: npt.NDArray[np.int64]) -> Array:
        """Return the vanilla gradient's saliency maps [N, H, W]."""
        size = default_chunk(DEFAULT_PROVIDER, self._spec)
        parts = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            feeds = {"image": part, "target": target[start : start + size], "baseline": np.zeros_like(part), **HERE}
            noise = np.zeros((1, *images.shape[1:]), np.float32)
            parts.append(self._explainer_session.run(["attribution"], {**feeds, "noise": noise})[0])
        return reduce_channels(np.concatenate(parts), REDUCTION)

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return session(self._classifier, integers=True)

    @cached_property
    def _explainer_session(self) -> onnxruntime.InferenceSession:
        return session(self._explainer, integers=False)


def session(model: onnx.ModelProto, *, integers: bool) -> onnxruntime.InferenceSession:
    """Return a CPU session; see ``edge_runtime.sessions.open_session`` for ``integers``."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not integers:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class Explained:
    """A network on the probe's images: ``logits`` and ``saliency`` of the first, ``target`` and ``right`` of all."""

    logits: Array
    target: npt.NDArray[np.int64]
    saliency: Array
    right: npt.NDArray[np.bool_]


class Probe:
    """The original's predictions and explanations of held-out images, to compare others with.

    Accuracy is taken over all of ``data``, explanations over ``images`` of them, the classes in turn.
    """

    def __init__(
        self,
        original: onnx.ModelProto,
        data: LabelledImages,
        spec: InputSpec,
        images: int = DEFAULT_IMAGES,
        seed: int = 0,
    ) -> None:
        self.spec = spec
        self.data = data
        order = balanced_sample(data.labels, len(data), seed=seed)
        self.inputs = normalize(data.images[order], spec)
        self.labels: npt.NDArray[np.int64] = data.labels[order]
        self.count = min(images, len(data))
        self._graphs = Graphs(original, build_explainer(original), spec)
        self._seed = seed

    @cached_property
    def original(self) -> Explained:
        """The original's outcome; raises InputError where it classifies no image correctly."""
        found = self.explain(self._graphs)
        if not found.right[: self.count].any():
            raise InputError(
                f"FP32 classifies none of {self.count} images of {self.data.source} correctly, so there is nothing to "
                "compare; pass the data that the network was trained on"
            )
        return found

    @cached_property
    def original_road(self) -> RoadCurve:
        """The original's ROAD curve over the images that it classifies correctly."""
        return self.curve(self._graphs, self.original)

    def graphs(self, quantised: Quantised) -> Graphs:
        """Return a quantised network as functions."""
        return Graphs(quantised.classifier, quantised.explainer, self.spec)

    def explain(self, graphs: Graphs) -> Explained:
        """Classify all images and explain the first ones."""
        logits = graphs.predict(self.inputs)
        target: npt.NDArray[np.int64] = logits.argmax(axis=1)
        saliency = graphs.saliency(self.inputs[: self.count], target[: self.count])
        return Explained(logits[: self.count], target, saliency, target == self.labels)

    def curve(self, graphs: Graphs, explained: Explained) -> RoadCurve:
        """Return the ROAD curve over the images that the original classifies correctly."""
        chosen = np.flatnonzero(self.original.right[: self.count])
        return road(
            graphs.predict, self.inputs[chosen], explained.saliency[chosen], self.labels[chosen], seed=self._seed
        )

    def drift(self, quantised: Quantised) -> tuple[float, float]:
        """Return two numbers of a quantised network: relative RMS error of the logits, mean rank correlation."""
        graphs, original = self.graphs(quantised), self.original
        logits = graphs.predict(self.inputs[: self.count])
        saliency = graphs.saliency(self.inputs[: self.count], logits.argmax(axis=1))
        error = float(np.sqrt(np.square(logits - original.logits).mean() / np.square(original.logits).mean()))
        return error, mean_correlation(original.saliency, saliency)

    def measure(self, quantised: Quantised) -> GateMeasures:
        """Return what the gate judges."""
        graphs = self.graphs(quantised)
        found = self.explain(graphs)
        return GateMeasures(
            images=self.count,
            accuracy_drop=float(np.mean(self.original.right) - np.mean(found.right)),
            rank_correlation=mean_correlation(self.original.saliency, found.saliency),
            road_auc_increase=self.curve(graphs, found).auc - self.original_road.auc,
        )


def mean_correlation(a: Array, b: Array) -> float:
    """Return the mean Spearman correlation of maps [N, H, W]; a map that has none (constant or NaN) counts as 0."""
    with np.errstate(invalid="ignore"):
        finite = finite_rows(b)
        found = rank_correlation(a, np.where(finite[:, None, None], b, 0))
    return float(np.nan_to_num(found).mean())
