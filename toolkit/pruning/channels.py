"""Remove channels: torch-pruning's dependency graph says which belong together, this module which of them go."""

from __future__ import annotations

import contextlib
import math
import resource
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edge_runtime.errors import InputError, RoadworthyError
from toolkit import models
from toolkit.pruning import families
from toolkit.pruning import importance as importances
from toolkit.pruning.importance import Estimator, Examples
from toolkit.pruning.masks import prunable_layers
from toolkit.pruning.settings import MASKING, Pruning

MEMORY_LIMIT = 4 << 30
"""Bytes that the dependency analysis may take on top: on Swin it grew past 24 GB before it was stopped."""


@dataclass(frozen=True)
class Unit:
    """Channels that depend on one another across layers, and go or stay by their index.

    ``size`` of them in each of ``repeats`` channel groups (grouped convolutions, attention heads), which lose the same
    ones. ``name`` is the module at the root, with ".in" for what it reads; ``root`` is torch-pruning's graph, that
    module, and the function to prune it. ``scores`` [size], the importance, is None where it was not asked for.
    """

    name: str
    size: int
    repeats: int
    root: tuple[Any, nn.Module, Callable[..., Any]]
    scores: Tensor | None = None


@dataclass(frozen=True)
class Network:
    """A network with those units of it that may be pruned, in order."""

    model: nn.Module
    units: tuple[Unit, ...]

    @property
    def sizes(self) -> dict[str, int]:
        return {unit.name: unit.size for unit in self.units}


def analyse(
    model: nn.Module, input_size: int, how: Pruning | None = None, examples: Examples | None = None, seed: int = 0
) -> Network:
    """Return the units of ``model``, scored by ``how.importance`` where ``how`` is given.

    The layer of the logits is never part of one. Gradient-based importances read ``examples``.
    """
    import torch_pruning

    model.eval()
    names = {module: name for name, module in model.named_modules()}
    units: list[Unit] = []
    with contextlib.ExitStack() as stack:
        estimate = None
        if how is not None:
            estimate = stack.enter_context(importances.estimator(model, how.importance, examples, seed))
        for part, example in families.parts(model, input_size):
            with torch.enable_grad():
                graph = torch_pruning.DependencyGraph().build_dependency(part, (example,))
            output = prunable_layers(part)[-1]
            with torch.no_grad():
                for group in graph.get_all_groups([output], (nn.Conv2d, nn.Linear)):
                    unit = _unit(graph, group, names, estimate)
                    units += [] if unit is None else [unit]
    return Network(model, tuple(units))


def _unit(graph: Any, group: Any, names: dict[nn.Module, str], estimate: Estimator | None) -> Unit | None:
    """Return a group of torch-pruning's as a unit; None for one that cannot lose channels or that has no score."""
    heads = {module: module.num_heads for module in names if isinstance(module, nn.MultiheadAttention)}
    rooted = _rooted(graph, group, heads)
    if rooted is None or not _divisible(graph, rooted):
        return None
    module, remove, size = rooted[0].dep.target.module, rooted[0].dep.handler, len(rooted[0].idxs)
    repeats = _channel_groups(graph, rooted, heads)
    scores = None
    if estimate is not None:
        scores = estimate(rooted)
        if scores is None or len(scores) != size:
            return None
        scores = scores.view(repeats, -1).mean(0) if repeats > 1 else scores
    side = "" if graph.is_out_channel_pruning_fn(remove) else ".in"
    return Unit(names[module] + side, size // repeats, repeats, (graph, module, remove), scores)


def kept(units: Sequence[Unit], how: Pruning, share: float, original: dict[str, int] | None = None) -> dict[str, int]:
    """Return how many channels, in each channel group, every unit keeps when ``share`` of all are to go.

    ``original`` maps units to their sizes before any pruning, of which ``share`` counts (by default: as they are).
    Counts are rounded down to what makes the layer's a multiple of ``how.round_to``, but never to nothing; a unit that
    loses nothing is not rounded.
    """
    sizes = original or {unit.name: unit.size for unit in units}
    wanted = SELECTIONS[how.scope](units, share, sizes)
    counts = {}
    for unit, count in zip(units, wanted, strict=True):
        multiple = how.round_to // math.gcd(how.round_to, unit.repeats)
        if count < unit.size:
            count = max(count - count % multiple, min(multiple, unit.size))
        counts[unit.name] = count
    return counts


def _uniform(units: Sequence[Unit], share: float, sizes: dict[str, int]) -> list[int]:
    """Every unit gives the same share of its channels."""
    return [min(unit.size, int(sizes[unit.name] * (1 - share))) for unit in units]


def _global(units: Sequence[Unit], share: float, sizes: dict[str, int]) -> list[int]:
    """The channels of all units compete; those of least importance go, wherever they are."""
    scores = torch.cat([_scores(unit) for unit in units])
    going = len(scores) - int(sum(sizes[unit.name] for unit in units) * (1 - share))
    if going <= 0:
        return [unit.size for unit in units]
    threshold = scores.topk(going, largest=False).values[-1]
    return [unit.size - int((_scores(unit) <= threshold).sum()) for unit in units]


SELECTIONS: dict[str, Callable[[Sequence[Unit], float, dict[str, int]], list[int]]] = {
    "uniform": _uniform,
    "global": _global,
}
"""Scope -> function from units, share and original sizes to how many channels each unit keeps before rounding."""


def remove(network: Network, counts: dict[str, int], scores: dict[str, Tensor]) -> None:
    """Remove all but ``counts`` channels of every unit, in place, those of least ``scores`` [size] first."""
    with torch.no_grad():
        for unit in network.units:
            going = unit.size - counts.get(unit.name, unit.size)
            if going <= 0:
                continue
            chosen = scores[unit.name].argsort()[:going]
            indices = torch.cat([chosen + repeat * unit.size for repeat in range(unit.repeats)])
            graph, *root = unit.root
            group = graph.get_pruning_group(*root, indices.unique().tolist())
            if graph.check_pruning_group(group):
                group.prune()
    families.repair(network.model)


def check(model: nn.Module, classes: int, input_size: int) -> None:
    """Raise ValueError unless the shapes of ``model`` still fit together and lead to the logits of all classes."""
    try:
        models.check_forward(model, type(model).__name__, classes, input_size)
    except InputError as error:
        raise ValueError(str(error)) from error


def _scores(unit: Unit) -> Tensor:
    assert unit.scores is not None, unit.name
    return unit.scores


def _rooted(graph: Any, group: Any, heads: dict[nn.Module, int]) -> Any:
    """Return ``group``, for attention seen from the last layer that reads it, which has the indices in plain order.

    As torch-pruning's own pruners do; None where no layer reads the attention.
    """
    if not any(dep.target.module in heads and graph.is_out_channel_pruning_fn(dep.handler) for dep, _ in group):
        return group
    readers = [
        (dep, indices)
        for dep, indices in group
        if isinstance(dep.target.module, nn.Conv2d | nn.Linear) and graph.is_in_channel_pruning_fn(dep.handler)
    ]
    if not readers:
        return None
    dep, indices = readers[-1]
    return graph.get_pruning_group(dep.target.module, dep.handler, indices)


def _divisible(graph: Any, group: Any) -> bool:
    """Tell whether no layer of the group is down to a single channel."""
    for dep, _ in group:
        if isinstance(dep.target.module, nn.Parameter):
            continue
        out = graph.is_out_channel_pruning_fn(dep.handler)
        if (graph.get_out_channels if out else graph.get_in_channels)(dep.target.module) == 1:
            return False
    return True


def _channel_groups(graph: Any, group: Any, heads: dict[nn.Module, int]) -> int:
    """Return in how many channel groups the group's channels fall; depthwise convolutions do not count."""
    found = [1]
    for dep, _ in group:
        module = dep.target.module
        if isinstance(module, nn.Parameter) or (isinstance(module, nn.Conv2d) and module.groups == module.out_channels):
            continue
        pruner = graph.get_pruner_of_module(module)
        out = graph.is_out_channel_pruning_fn(dep.handler)
        found.append(pruner.get_out_channel_groups(module) if out else pruner.get_in_channel_groups(module))
        found.append(heads.get(module, 1) if out else 1)
    return max(found)


@contextlib.contextmanager
def guarded(name: str) -> Iterator[None]:
    """Turn what the dependency analysis may end in on a network that it cannot follow into one InputError."""
    way_out = f"use {' or '.join(MASKING)}"
    try:
        with _memory_limit(MEMORY_LIMIT), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except MemoryError:
        raise InputError(f"channel pruning of {name} needs more than {MEMORY_LIMIT >> 30} GB; {way_out}") from None
    except RoadworthyError:
        raise
    except Exception as error:  # whatever torch-pruning raises on a network that its dependency graph cannot follow
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"channel pruning does not work on {name} ({reason}); {way_out}") from error


@contextlib.contextmanager
def _memory_limit(extra: int) -> Iterator[None]:
    """Let this process grow by at most ``extra`` bytes; past that Python raises MemoryError instead of being killed."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = used + extra if hard == resource.RLIM_INFINITY else min(used + extra, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
