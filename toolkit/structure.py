"""What physical pruning changed, as plain integers: enough to rebuild a smaller network without pickling code."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edge_runtime.errors import RunError

Sizes = int | tuple[int, ...]
Structure = dict[str, dict[str, Sizes]]
"""Module name -> its integer attributes that differ from the architecture as built: out_channels, num_features ..."""


def difference(pristine: nn.Module, model: nn.Module) -> Structure:
    """Return the integer attributes of ``model``'s modules that differ from the same modules of ``pristine``."""
    changed: Structure = {}
    originals = dict(pristine.named_modules())
    for name, module in model.named_modules():
        before, after = _sizes(originals[name]), _sizes(module)
        values = {attribute: value for attribute, value in after.items() if before.get(attribute) != value}
        if values:
            changed[name] = values
    return changed


def apply(model: nn.Module, structure: Structure, shapes: Mapping[str, torch.Size]) -> None:
    """Give ``model``, as built, the recorded ``structure``: its attributes, and tensors of the ``shapes`` to load.

    ``shapes`` maps state-dict names to shapes. Weights are left uninitialised: load the state next. Raises RunError
    for a module or attribute that the architecture does not have.
    """
    modules = dict(model.named_modules())
    for name, attributes in structure.items():
        for attribute, value in attributes.items():
            known = _sizes(modules[name]) if name in modules else {}
            if type(known.get(attribute)) is not type(value):
                raise RunError(f"the structure names {name}.{attribute}, which the architecture does not have")
            setattr(modules[name], attribute, value)
    if structure:
        for name, tensor in model.state_dict(keep_vars=True).items():
            if name in shapes and shapes[name] != tensor.shape:
                _replace(modules, name, tensor.detach().new_empty(shapes[name]))


def _sizes(module: nn.Module) -> dict[str, Sizes]:
    return {name: value for name, value in vars(module).items() if _is_size(value)}


def _is_size(value: object) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(type(item) is int for item in value)
    return type(value) is int


def _replace(modules: dict[str, nn.Module], name: str, tensor: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    module = modules[owner]
    if leaf in module._parameters:
        setattr(module, leaf, nn.Parameter(tensor))
    else:
        setattr(module, leaf, tensor)
