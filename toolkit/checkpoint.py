"""The state of an unfinished training: one file, replaced atomically after every epoch, without any pickle.

Tensors (weights, masks, optimiser moments) are stored as safetensors, everything else as JSON in the same file's
header. There is no random state: every epoch derives its own from the seed (toolkit.training).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from edge_runtime.errors import RunError
from edge_runtime.folders import new_file
from toolkit import runs, structure
from toolkit.pruning import set_masks
from toolkit.recipes import TrainConfig
from toolkit.runs import RunInfo

FILE = "checkpoint.safetensors"
HEADER = "training"  # key of the JSON in the header


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is being trained: enough to go on without repeating the command's options.

    ``dataset_spec`` is what the data was loaded by; ``replace`` whether an existing run may be replaced at the end.
    """

    info: RunInfo
    config: TrainConfig
    dataset_spec: str
    replace: bool = False


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The JSON part: the plan, how many epochs are done, their metrics, and the optimiser's scalars."""

    plan: Plan
    epoch: int
    history: list[dict[str, Any]]
    groups: list[dict[str, Any]]
    scalars: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: ``header``, and ``tensors`` by name, "model.*" and "optimizer.<index>.*"."""

    header: Header
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names start with ``prefix``, without it."""
        return {name[len(prefix) :]: tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}


def save(folder: Path, plan: Plan, history: list[dict[str, Any]], model: nn.Module, optimizer: Optimizer) -> None:
    """Write checkpoint and metrics into ``folder``; after a crash at any moment the last complete one is there.

    Raises RunError where the file system fails; the last complete checkpoint stays.
    """
    optimizer_state = optimizer.state_dict()
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    scalars: dict[str, dict[str, Any]] = {}
    for index, entries in optimizer_state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                scalars.setdefault(str(index), {})[name] = value
    groups = [{key: value for key, value in g.items() if key != "params"} for g in optimizer_state["param_groups"]]
    header = Header(plan=plan, epoch=len(history), history=history, groups=groups, scalars=scalars)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    contents = {
        FILE: safetensors.torch.save(plain, metadata={HEADER: msgspec.json.encode(header).decode()}),
        runs.METRICS: runs.json_lines(history),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}; choose another folder") from error
    for name, content in contents.items():
        with new_file(folder / name, force=True, error=RunError) as temporary:
            temporary.write_bytes(content)


def load(folder: Path) -> Checkpoint:
    """Read the checkpoint of an unfinished training; raises RunError where there is none or it is damaged."""
    path = folder / FILE
    if not path.is_file():
        raise RunError(f"there is no unfinished training in {folder}; start one without --resume")
    try:
        with safe_open(path, framework="pt") as file:
            raw = msgspec.json.decode((file.metadata() or {}).get(HEADER, ""), type=dict[str, Any])
            header = msgspec.convert(_upgraded(raw), Header)
            return Checkpoint(header, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError, msgspec.DecodeError) as error:
        raise RunError(f"{path} is damaged: {error}; start again with --force") from error


def restore_model(checkpoint: Checkpoint) -> nn.Module:
    """Build the network of a checkpoint, with its structure, weights and masks."""
    info, state = checkpoint.header.plan.info, checkpoint.part("model.")
    model = runs.pristine(info)
    structure.apply(model, info.structure, {name: tensor.shape for name, tensor in state.items()})
    set_masks(model, state)
    runs.load_weights(model, state)
    return model


def restore_optimizer(checkpoint: Checkpoint, optimizer: Optimizer) -> None:
    """Put the stored moments and counters into an optimiser made for the restored network."""
    entries: dict[int, dict[str, Any]] = {
        int(index): {name: _thaw(value) for name, value in values.items()}
        for index, values in checkpoint.header.scalars.items()
    }
    for name, tensor in checkpoint.part("optimizer.").items():
        index, _, key = name.partition(".")
        entries.setdefault(int(index), {})[key] = tensor
    groups = [
        {**{key: _thaw(value) for key, value in stored.items()}, "params": group["params"]}
        for stored, group in zip(checkpoint.header.groups, optimizer.state_dict()["param_groups"], strict=True)
    ]
    optimizer.load_state_dict({"state": entries, "param_groups": groups})


def _upgraded(raw: dict[str, Any]) -> dict[str, Any]:
    """Return a header with mixed precision by kind of device; it was a switch that CUDA alone obeyed."""
    plan = raw.get("plan")
    config = plan.get("config") if isinstance(plan, dict) else None
    if isinstance(config, dict) and isinstance(config.get("amp"), bool):
        config["amp"] = ["cuda"] if config["amp"] else []
    return raw


def _thaw(value: Any) -> Any:
    """JSON knows no tuples, optimisers expect them (betas)."""
    return tuple(value) if isinstance(value, list) else value
