"""Is a float32 gradient right? A parity check that knows about flipped units.

One ReLU or max-pool whose input lies within rounding of its kink may decide differently in two correct float32
implementations, and moves the gradient by a percent. So a large difference alone proves nothing. What this module asks
instead: *is the reference the gradient of the same network with some inner values moved by no more than rounding?* It
adds an input to the operand of every decision, finds the units close to their kink, measures by one run each what
crossing it does to the gradient, and solves for those that together make the difference. With these units nudged
across, the graph must give the reference to the usual tolerance; a wrong rule cannot be explained that way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from edge_runtime.errors import ExportError
from edge_runtime.manifest import GradientParity
from export.gradients import add_input_gradient, build_explainer
from export.gradients.prepare import Prepared, prepare
from export.kinks import CROSSINGS, Decision, attributes
from export.session import cpu_session

# Relative L2 error of a float32 gradient without flipped units.
TOLERANCE = 1e-4
# A unit counts as undecided within this share of its tensor's root mean square. The largest float32 error seen in the
# inner values of ResNet-18 at 224x224 is 3.4e-6 of it.
ROUNDING = 3e-5
# Standard deviation of the noise, in normalised space, on the images to compare at. Where an image is flat, whole
# neighbourhoods of a max-pool tie exactly, and rounding alone decides each of them; noise leaves single units.
DITHER = 0.01
# At how many images close by two units must have one value each time before they are taken for copies of one unit.
MOVES = 4
# How many of the closest units are tried before a difference is called unexplained: few first, each costs one run.
CANDIDATES = (16, 64, 256)
# How many of the most promising units are tried before a choice is left as it is.
TRIES = 4

Images = npt.NDArray[np.float32]
Targets = npt.NDArray[np.int64]
Array = npt.NDArray[Any]
# From images [N, C, H, W] and targets [N] to d logit[target] / d image [N, C, H, W].
Gradient = Callable[[Images, Targets], Array]


def check_gradient_parity(
    reference: Gradient, model: onnx.ModelProto, images: Images, target: Targets | None = None
) -> GradientParity:
    """Compare the explainer of classifier ``model`` with ``reference`` at ``images`` [N, C, H, W] and a little noise.

    ``target`` [N] defaults to the classes in turn. Raises ExportError where a difference is more than rounding and
    flipped units.
    """
    explainer = build_explainer(model)
    images = images + np.float32(DITHER) * np.random.default_rng(0).standard_normal(images.shape, np.float32)
    if target is None:
        classes = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
        target = np.arange(len(images)) % classes
    found = vanilla_gradient(explainer, images, target)
    parity = explain_difference(model, images, target, found, reference(images, target))
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
    """Return the gradient [N, C, H, W] that an explainer graph gives at the images themselves."""
    one = np.ones(1, np.float32)
    noise = np.zeros((1, *images.shape[1:]), np.float32)
    feeds = {"image": images, "target": target, "baseline": np.zeros_like(images), "scale": one, "weight": one}
    gradient: Array = cpu_session(explainer).run(["attribution"], {**feeds, "noise": noise})[0]
    return gradient


def explain_difference(
    model: onnx.ModelProto, images: Images, target: Targets, found: Array, reference: Array
) -> GradientParity:
    """Compare two gradients [N, C, H, W] of classifier ``model`` at ``images``, and find the units that explain it."""
    errors = list(map(relative_error, found, reference))
    residuals = list(errors)
    flipped, units = 0, 0
    excess = [i for i, error in enumerate(errors) if not error <= TOLERANCE]
    if excess:
        network = NudgedNetwork(model)
        units = network.units * len(images)
        for i in excess:
            if not np.isfinite(found[i]).all() or not np.isfinite(reference[i]).all():
                continue
            network.look_at(images[i : i + 1], target[i : i + 1])
            ours, left_ours = network.match(found[i])
            theirs, left_theirs = network.match(reference[i])
            flipped += len(ours ^ theirs)
            residuals[i] = max(left_ours, left_theirs)
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
class Unit:
    """One element of an inner tensor, and the change that carries it across its kink."""

    tensor: str
    index: int
    nudge: float


class NudgedNetwork:
    """A classifier's gradient graph whose decisions can be nudged, one image at a time.

    The graph gets an input ``nudge/<tensor>`` for each tensor that a decision reads; it is added to the tensor before
    anything uses it, forward and backward.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        prepared = prepare(model)
        self._image = prepared.image
        self._decisions = [node for node in prepared.model.graph.node if _decides(prepared, node)]
        self._constants = prepared.constants
        self._tensors = list(dict.fromkeys(node.input[0] for node in self._decisions))
        read = [name for node in self._decisions for name in node.input if name in prepared.dependent]
        self._read = list(dict.fromkeys([*self._tensors, *read]))
        self._ranks = {name: len(prepared.shapes[name]) for name in self._tensors}
        graph = add_input_gradient(model)
        expose(graph, self._read, [node.output[0] for node in self._decisions])
        for name, rank in self._ranks.items():
            nudge(graph, name, rank)
        self._session = cpu_session(graph)
        shapes = (prepared.shapes[node.output[0]] for node in self._decisions)
        self.units = sum(int(np.prod([d or 1 for d in shape])) for shape in shapes)

    def look_at(self, image: Images, target: Targets) -> None:
        """Run the network on one image [1, C, H, W] and find the units closest to their kinks."""
        self._feeds = {self._image: image, "target": target}
        nothing = self._nudges({name: np.zeros((1,) * rank, image.dtype) for name, rank in self._ranks.items()})
        names = [*self._read, *(f"shape/{node.output[0]}" for node in self._decisions)]
        results = self._session.run(["gradient", *names], {**self._feeds, **nothing})
        self._plain = results[0][0].astype(np.float64)
        values = dict(zip(names, results[1:], strict=True))
        self._zeros = {name: np.zeros_like(values[name]) for name in self._tensors}
        noise = np.float32(DITHER) * np.random.default_rng(0).standard_normal((MOVES, *image.shape), np.float32)
        moved = [{**self._feeds, **nothing, self._image: image + each} for each in noise]
        elsewhere = zip(*(self._session.run(self._tensors, feeds) for feeds in moved), strict=True)
        self._candidates = self._undecided(values, dict(zip(self._tensors, elsewhere, strict=True)))
        self._effects: list[Array] = []

    def match(self, wanted: Array) -> tuple[set[Unit], float]:
        """Return the units that, nudged across, bring the gradient closest to ``wanted``, and the error that is left.

        The effects of single units are added up to choose them; the error is measured with all of them at once. Where
        effects do not add up (two copies of one unit win the same window), units are changed as long as it helps.
        """
        best: tuple[set[Unit], float] = set(), relative_error(self._plain, wanted)
        for count in CANDIDATES:
            if best[1] <= TOLERANCE or (count > CANDIDATES[0] and len(self._effects) == len(self._candidates)):
                break
            for unit in self._candidates[len(self._effects) : count]:
                self._effects.append(self._gradient([unit]) - self._plain)
            for start in (self._select(wanted - self._plain), []):
                found = self._improve(start, wanted)
                if found[1] < best[1]:
                    best = found
                if best[1] <= TOLERANCE:
                    break
        return best

    def _improve(self, units: list[Unit], wanted: Array) -> tuple[set[Unit], float]:
        """Add or drop one unit after the other while the error that is left, measured each time, gets smaller."""
        chosen, gradient = set(units), self._gradient(units)
        left = relative_error(gradient, wanted)
        known = dict(zip(self._candidates, self._effects, strict=False))
        while left > TOLERANCE:
            # What each would take from the squared error if effects added up.
            missing = wanted - gradient
            steps = {unit: -effect if unit in chosen else effect for unit, effect in known.items()}
            gains = {unit: float((step * (2 * missing - step)).sum()) for unit, step in steps.items()}
            for unit in sorted(gains, key=lambda each: -gains[each])[:TRIES]:
                changed = chosen ^ {unit}
                moved = self._gradient(list(changed))
                if (error := relative_error(moved, wanted)) < left:
                    chosen, gradient, left = changed, moved, error
                    break
            else:
                break
        return chosen, left

    def _select(self, difference: Array) -> list[Unit]:
        """Return the units whose effects add up to ``difference``: least squares, then all coefficients above 1/2."""
        effects = (
            np.stack([effect.ravel() for effect in self._effects]) if self._effects else np.zeros((0, difference.size))
        )
        coefficients = np.linalg.lstsq(effects @ effects.T, effects @ difference.ravel(), rcond=1e-12)[0]
        return [unit for unit, coefficient in zip(self._candidates, coefficients, strict=False) if coefficient > 0.5]

    def _gradient(self, units: Sequence[Unit]) -> Array:
        """Return the gradient [C, H, W] with ``units`` nudged across their kinks."""
        for unit in units:
            self._zeros[unit.tensor].reshape(-1)[unit.index] += unit.nudge
        (gradient,) = self._session.run(["gradient"], {**self._feeds, **self._nudges(self._zeros)})
        for unit in units:
            self._zeros[unit.tensor].reshape(-1)[unit.index] = 0.0
        result: Array = gradient[0].astype(np.float64)
        return result

    def _nudges(self, values: dict[str, Array]) -> dict[str, Array]:
        return {f"nudge/{name}": value for name, value in values.items()}

    def _undecided(self, values: dict[str, Array], elsewhere: dict[str, Sequence[Array]]) -> list[Unit]:
        """Return the units within rounding of a kink, closest first, from the values at the image and at others."""
        found: list[tuple[float, Unit]] = []
        for node in self._decisions:
            name = node.input[0]
            inputs = [values[n] if n in values else self._constants.get(n) for n in node.input]
            shape = tuple(int(d) for d in values[f"shape/{node.output[0]}"])
            crossings = CROSSINGS[node.op_type](Decision(attributes(node), inputs, shape, elsewhere[name])).reshape(-1)
            scale = float(np.sqrt(np.mean(np.square(values[name], dtype=np.float64))))
            for index in np.flatnonzero(np.abs(crossings) <= 2 * ROUNDING * scale):
                nudge = float(crossings[index])
                found.append((abs(nudge) / scale, Unit(name, int(index), nudge)))
        found.sort(key=lambda pair: pair[0])
        return [unit for _, unit in found[: CANDIDATES[-1]]]


def _decides(p: Prepared, node: onnx.NodeProto) -> bool:
    """Tell whether a node has a kink in an inner value; the image itself is not subject to rounding."""
    return node.op_type in CROSSINGS and node.input[0] in p.dependent and node.input[0] != p.image


def expose(model: onnx.ModelProto, tensors: Sequence[str], shapes: Sequence[str]) -> None:
    """Make ``tensors`` outputs of the graph, and the shapes of others as ``shape/<tensor>``."""
    graph = model.graph
    for name in shapes:
        graph.node.append(helper.make_node("Shape", [name], [f"shape/{name}"]))
        graph.output.append(helper.make_tensor_value_info(f"shape/{name}", onnx.TensorProto.INT64, None))
    present = {output.name for output in graph.output}
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in present)


def nudge(model: onnx.ModelProto, tensor: str, rank: int) -> None:
    """Add a new input ``nudge/<tensor>`` to ``tensor`` right where it is computed."""
    graph = model.graph
    kind = graph.input[0].type.tensor_type.elem_type
    graph.input.append(helper.make_tensor_value_info(f"nudge/{tensor}", kind, [None] * rank))
    for position, node in enumerate(graph.node):
        if tensor in node.output:
            node.output[list(node.output).index(tensor)] = f"exact/{tensor}"
            graph.node.insert(position + 1, helper.make_node("Add", [f"exact/{tensor}", f"nudge/{tensor}"], [tensor]))
            return
