"""From the runtime's results to log records."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.log.record import ExplainerReading, FrameRecord, LogIdentity
from edge_runtime.log.thumbnails import encode_image, encode_saliency
from edge_runtime.manifest import Method

if TYPE_CHECKING:
    from edge_runtime.bundle import Bundle
    from edge_runtime.classifier import Prediction
    from edge_runtime.device_identity import DeviceIdentity
    from edge_runtime.explainer import Explanation


def identity_of(
    bundle: Bundle,
    *,
    provider: str | None = None,
    device: DeviceIdentity | None = None,
    vehicle: str | None = None,
) -> LogIdentity:
    """Return who writes: this software with that bundle, on a provider, a device and a vehicle."""
    try:
        version = metadata.version("roadworthy")
    except metadata.PackageNotFoundError:
        version = "unknown"  # run from a source tree that was never installed
    return LogIdentity(
        software=f"roadworthy {version}",
        bundle=bundle.manifest.name,
        bundle_digest=bundle.digest,
        variant=bundle.manifest.variant,
        provider=provider,
        device=device,
        vehicle=vehicle,
    )


def frame_record(
    frame_id: str,
    prediction: Prediction,
    labels: Sequence[str],
    *,
    explanations: Sequence[Explanation] = (),
    index: int = 0,
    image: NDArray[np.uint8] | None = None,
    problems: Sequence[str] = (),
    **fields: Any,
) -> FrameRecord:
    """Return the record of image ``index`` of a batch; ``image`` uint8 [H, W, 3] becomes its thumbnail.

    The first explanation gives the saliency thumbnail. What is not finite is left out and flagged: a class without
    probability, an attribution without measures. ``problems`` become flags as well: what was wrong with the frame and
    mended. ``fields`` are FrameRecord's further ones (latency_ms, device, road).
    """
    from edge_runtime.metrics import gini, gradient_norm

    flags = [*problems, *([] if prediction.valid[index] else ["logits: not finite"])]
    target = int(prediction.target[index]) if prediction.valid[index] else None
    readings: dict[Method, ExplainerReading] = {}
    saliency, saliency_method = None, None
    for explanation in explanations:
        method = msgspec.convert(explanation.method, Method)
        map_ = explanation.saliency()[index : index + 1]
        flags += [] if explanation.valid[index] else [f"attribution {method}: not finite"]
        flags += [f"saliency {method}: all zero"] if not map_.any() else []
        gap = explanation.completeness_gap
        readings[method] = ExplainerReading(
            gini=float(gini(map_)[0]),
            gradient_norm=float(gradient_norm(explanation.attribution[index : index + 1])[0]),
            completeness_gap=None if gap is None else float(gap[index]),
            reduction=explanation.preset.reduction,
            seed=explanation.seed if method == "sg" else None,
        )
        if saliency is None:
            saliency, saliency_method = encode_saliency(map_[0]), method
    return FrameRecord(
        frame_id=frame_id,
        prediction=target,
        label=None if target is None else labels[target],
        probability=float(prediction.probability[index]) if prediction.valid[index] else None,
        explainers=readings,
        saliency_method=saliency_method if saliency else None,
        image=None if image is None else encode_image(image),
        saliency=saliency,
        flags=tuple(flags),
        **fields,
    )
