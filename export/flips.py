"""Is a float32 gradient right? A parity check that knows about flipped units.

One ReLU or max-pool whose input lies within rounding of its kink may decide differently in two correct float32
implementations, and moves the gradient by a percent. So a large difference alone proves nothing. What this module asks
instead: *is the exported gradient that of the same network with inner values moved by no more than rounding?* The
graph is cut where its backward pass reads the forward pass, and the backward pass is evaluated in double precision:

1. at the values that the original network has in double precision it must give the reference: the rules are right;
2. at the values that onnxruntime had in float32 it must give what onnxruntime gave: its kernels are right;
3. and these values must differ by no more than rounding.

Nothing but flipped units can then be left of the difference; they are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, shape_inference

from edge_runtime.errors import ExportError
from edge_runtime.manifest import GradientParity
from export.double import FLOATING, Double, needed
from export.gradients import build_explainer
from export.gradients.observe import dependent_tensors, reads
from export.interface import IMAGE
from export.kinks import KINKS, Decision, attributes
from export.session import cpu_session, expose

# Relative L2 error of a float32 gradient without flipped units.
TOLERANCE = 1e-4
# Largest difference that rounding makes of an inner value, relative to it and its tensor's root mean square together.
# The largest seen is 1.3e-5 in ResNet-18 at 224x224, and 8e-5 in an Inception v3 whose batch norms stretch maps that
# are almost flat.
ROUNDING = 3e-4
# Standard deviation of the noise, in normalised space, on the images to compare at. Where an image is flat, whole
# neighbourhoods of a max-pool tie exactly, and rounding alone decides each of them; noise leaves single units.
DITHER = 0.01

Images = npt.NDArray[np.float32]
Targets = npt.NDArray[np.int64]
Array = npt.NDArray[Any]
# From images [N, C, H, W] and targets [N] to d logit[target] / d image [N, C, H, W].
Gradient = Callable[[Images, Targets], Array]
# Makes the network with the weights that it has where the reference comes from: see `explain_difference`.
Unfolded = Callable[[], onnx.ModelProto]


def check_gradient_parity(
    reference: Gradient,
    model: onnx.ModelProto,
    images: Images,
    target: Targets | None = None,
    *,
    unfolded: Unfolded | None = None,
) -> GradientParity:
    """Compare the explainer of classifier ``model`` with ``reference`` at ``images`` [N, C, H, W] and a little noise.

    ``reference`` is computed in double precision; ``target`` [N] defaults to the classes in turn; ``unfolded`` is as in
    :func:`explain_difference`. Raises ExportError where a difference is more than rounding and flipped units.
    """
    explainer = build_explainer(model)
    images = images + np.float32(DITHER) * np.random.default_rng(0).standard_normal(images.shape, np.float32)
    if target is None:
        classes = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
        target = np.arange(len(images)) % classes
    found = vanilla_gradient(explainer, images, target)
    parity = explain_difference(model, images, target, found, reference(images, target), unfolded)
    if not explained(parity):
        raise ExportError(
            f"the exported gradient differs from the original by a relative {parity.relative_l2:.1e}, of which"
            f" {parity.residual:.1e} is left with {parity.flipped_units} flipped units accounted for (at most"
            f" {TOLERANCE:.0e} is accepted); nothing was written"
        )
    return parity


def explained(parity: GradientParity) -> bool:
    """Tell whether nothing is left of a difference but what float32 rounding makes."""
    return parity.residual <= TOLERANCE


def vanilla_gradient(explainer: onnx.ModelProto, images: Images, target: Targets) -> Array:
    """Return the gradient [N, C, H, W] that an explainer graph gives at the images themselves, one after the other."""
    session = cpu_session(explainer)
    gradients = [session.run(["attribution"], feeds(images, target, i))[0] for i in range(len(images))]
    return np.concatenate(gradients)


def feeds(images: Images, target: Targets, index: int) -> dict[str, Array]:
    """Return the inputs of an explainer graph for the gradient at one of the images itself."""
    image = images[index : index + 1]
    nothing, one = np.zeros_like(image), np.ones(1, image.dtype)
    at: dict[str, Array] = {"image": image, "target": target[index : index + 1]}
    return {**at, "baseline": nothing, "noise": nothing, "scale": one, "weight": one}


def explain_difference(
    model: onnx.ModelProto,
    images: Images,
    target: Targets,
    found: Array,
    reference: Array,
    unfolded: Unfolded | None = None,
) -> GradientParity:
    """Compare the gradient [N, C, H, W] that onnxruntime gave for classifier ``model`` with a reference in double.

    Where the export folded batch norm into weights, these are rounded, and now and then that flips a unit between the
    reference and ``model`` in double precision. ``unfolded`` makes the network as it was before; its inner values, by
    the same names, are then taken in place of those of ``model``.
    """
    errors = list(map(relative_error, found, reference))
    residuals = list(errors)
    flipped, units = 0, 0
    excess = [i for i, error in enumerate(errors) if not error <= TOLERANCE]
    if excess:
        passes = TwoPasses(model, unfolded)
        for i in excess:
            if not np.isfinite(found[i]).all() or not np.isfinite(reference[i]).all():
                continue
            explanation = passes.explain(feeds(images, target, i), found[i], reference[i])
            flipped += explanation.flipped
            units = explanation.units * len(images)
            if explanation.rounding <= ROUNDING:
                residuals[i] = max(explanation.rules, explanation.kernels)
    return GradientParity(
        images=len(images),
        max_error=worst(relative_error(f, r, np.inf) for f, r in zip(found, reference, strict=True)),
        relative_l2=worst(errors),
        flipped_units=flipped,
        units=units,
        residual=worst(residuals),
    )


def relative_error(found: Array, reference: Array, order: float = 2) -> float:
    """Return |found - reference| / |reference| in the L2 norm, or that of another ``order``.

    0 where both vanish, infinity where the reference alone does.
    """
    distance = np.linalg.norm((found.astype(np.float64) - reference).ravel(), order)
    size = np.linalg.norm(reference.astype(np.float64).ravel(), order)
    if size == 0:
        return 0.0 if distance == 0 else float("inf")
    return float(distance / size)


def worst(values: Iterable[float]) -> float:
    """Return the largest value; NaN counts as infinite."""
    return max((value if np.isfinite(value) else float("inf")) for value in values)


@dataclass(frozen=True)
class Explanation:
    """What is left of a difference: by the ``rules`` and the ``kernels``, relative L2 errors of gradients in double.

    ``rounding`` is the largest difference between an inner value in float32 and in double, relative to the value and
    its tensor's root mean square; ``flipped`` of ``units`` decided otherwise.
    """

    rules: float
    kernels: float
    rounding: float
    flipped: int
    units: int


class TwoPasses:
    """A classifier's explainer, cut where its backward pass reads floating-point tensors of its forward pass."""

    def __init__(self, model: onnx.ModelProto, unfolded: Unfolded | None = None) -> None:
        explainer = build_explainer(model)
        self._between = between(explainer)
        self._double = Double(explainer)
        self._unfolded = unfolded
        self._original: Double | None = None
        forward = needed(explainer.graph.node, ["logits"], ())
        self._decisions = [node for node in forward if _operand(node) in self._between]
        self._constants = self._double.constants
        expose(explainer, self._between)
        self._session = cpu_session(explainer)

    def explain(self, at: Mapping[str, Array], found: Array, reference: Array) -> Explanation:
        """Compare both passes with the gradients [C, H, W] that onnxruntime and the original gave at one image."""
        # Not strict: asked for nothing, onnxruntime gives every output.
        single = dict(zip(self._between, self._session.run(self._between, dict(at)), strict=False))
        exact = self._double.run(self._between, at)
        rules = relative_error(self._backward(at, exact), reference)
        if rules > TOLERANCE and self._unfolded is not None:
            if self._original is None:
                self._original = Double(self._unfolded())
            known = [name for name in self._between if name in self._original.tensors]
            exact.update(self._original.run(known, {IMAGE: at["image"]}))
            rules = relative_error(self._backward(at, exact), reference)
        decided = list(zip(self._decide(exact), self._decide(single), strict=True))
        return Explanation(
            rules=rules,
            kernels=relative_error(found, self._backward(at, single)),
            rounding=max((moved(single[name], exact[name]) for name in self._between), default=0.0),
            flipped=sum(int(np.count_nonzero(a != b)) for a, b in decided),
            units=sum(a.size for a, _ in decided),
        )

    def _backward(self, at: Mapping[str, Array], inner: Mapping[str, Array]) -> Array:
        """Return the gradient [C, H, W] in double precision at given inner values."""
        gradient: Array = self._double.run(["attribution"], {**at, **inner})["attribution"][0]
        return gradient

    def _decide(self, inner: Mapping[str, Array]) -> list[Array]:
        """Return the decisions of every node that decides, at given inner values."""
        values = {**self._constants, **inner}
        return [
            KINKS[node.op_type].decide(
                Decision(attributes(node), list(map(values.get, node.input)), values.get(node.output[0]))
            )
            for node in self._decisions
        ]


def _operand(node: onnx.NodeProto) -> str:
    """Return the tensor from which a node's decisions are told, nothing for a node that does not decide."""
    return KINKS[node.op_type].operand(node) if node.op_type in KINKS else ""


def between(explainer: onnx.ModelProto) -> list[str]:
    """Return the floating-point tensors that lie between an explainer's forward and its backward pass.

    Integers and booleans that the backward pass reads are decisions: what they were computed from is returned instead.
    """
    graph = explainer.graph
    kinds = {i.name: i.type.tensor_type.elem_type for i in shape_inference.infer_shapes(explainer).graph.value_info}
    dependent = dependent_tensors(graph, {"image"})
    forward = needed(graph.node, ["logits"], ())
    producers = {name: node for node in forward for name in node.output if name in dependent}
    passed = {name for node in forward for name in node.output}
    backward = [node for node in graph.node if passed.isdisjoint(node.output)]
    pending = [name for node in backward for name in reads(node) if name in producers]
    found: dict[str, None] = {}
    while pending:
        name = pending.pop()
        if kinds.get(name, TensorProto.FLOAT) in (*FLOATING, TensorProto.DOUBLE):
            found[name] = None
        else:
            pending += [each for each in producers[name].input if each in producers]
    return [name for name in producers if name in found]


def moved(single: Array, exact: Array) -> float:
    """Return the largest difference of two tensors, relative to each value and to the root mean square together."""
    difference = np.abs(single.astype(np.float64) - exact)
    scale = np.abs(exact) + np.sqrt(np.sum(np.square(exact)) / max(1, exact.size))
    return worst([float(np.max(difference / np.where(scale > 0, scale, np.finfo(np.float64).tiny), initial=0.0))])
