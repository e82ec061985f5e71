"""What a bundle's classifier looks like from outside: ``image`` float32 [N,3,H,W] in, ``logits`` float32 [N,K] out."""

from __future__ import annotations

import onnx

from edge_runtime.errors import ExportError
from edge_runtime.manifest import InputSpec

IMAGE = "image"
LOGITS = "logits"


def check_fit(classifier: onnx.ModelProto, spec: InputSpec, labels: tuple[str, ...]) -> None:
    """Raise ExportError unless the graph has the names above, takes images of ``spec`` and gives a logit per label."""
    (image,), (logits,) = classifier.graph.input, classifier.graph.output
    if (image.name, logits.name) != (IMAGE, LOGITS):
        raise ExportError(f"the model maps {image.name!r} to {logits.name!r}, a bundle's {IMAGE!r} to {LOGITS!r}")
    size = [dimension.dim_value for dimension in image.type.tensor_type.shape.dim[1:]]
    if size != [3, spec.height, spec.width]:
        raise ExportError(f"the model takes images {size}, the input spec says [3, {spec.height}, {spec.width}]")
    classes = logits.type.tensor_type.shape.dim[-1].dim_value
    if classes != len(labels):
        raise ExportError(f"the model returns {classes} logits for {len(labels)} labels; give one label per logit")
