"""Runs: folders that hold one trained network as ``model.safetensors`` + ``variant.json``, without any pickle.

::

    RUN/model.safetensors   weights, masks already applied as zeros
    RUN/variant.json        how the network came to be, and all it takes to build it again (RunInfo)
    RUN/metrics.jsonl       one line per epoch
    RUN.partial/            instead, while training: checkpoint.safetensors + metrics.jsonl (toolkit.checkpoint)

A run appears under its own name only when it is complete.
"""

from __future__ import annotations

import logging
import shutil
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import msgspec
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from edge_runtime.errors import InputError, RunError
from edge_runtime.folders import new_folder
from edge_runtime.manifest import InputSpec
from edge_runtime.variant import Variant
from toolkit import models, structure
from toolkit.pruning.masks import make_permanent

logger = logging.getLogger("toolkit")

FORMAT_VERSION = 1
WEIGHTS = "model.safetensors"
INFO = "variant.json"
METRICS = "metrics.jsonl"


class RunInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``variant.json``. ``structure`` lists the integer attributes that physical pruning changed, by module;
    ``removed`` the shares of channels, parameters, macs and, where it was the target, latency that went with it."""

    variant: Variant
    input: InputSpec
    labels: tuple[str, ...]
    dataset_digest: str
    structure: structure.Structure = {}
    removed: dict[str, float] = {}
    format: int = FORMAT_VERSION


def pristine(info: RunInfo) -> nn.Module:
    """Return the network as its architecture defines it, before training and pruning."""
    variant = info.variant
    return models.build(
        variant.architecture,
        len(info.labels),
        width=variant.width,
        input_size=variant.input_size,
        seed=variant.seed,
    )


def save(
    folder: str | PathLike[str],
    model: nn.Module,
    info: RunInfo,
    *,
    force: bool = False,
    history: Sequence[Mapping[str, Any]] = (),
) -> RunInfo:
    """Write a run, whole or not at all; masks become zeros in ``model`` and in the file.

    Returns ``info`` with the structure of ``model`` filled in. Raises RunError for an existing folder without
    ``force``, and where the file system fails.
    """
    make_permanent(model)
    info = msgspec.structs.replace(info, structure=structure.difference(pristine(info), model))
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    contents = {
        WEIGHTS: safetensors.torch.save(weights),
        INFO: msgspec.json.format(msgspec.json.encode(info), indent=2) + b"\n",
        **({METRICS: json_lines(history)} if history else {}),
    }
    try:
        with new_folder(folder, marker=INFO, force=force, error=RunError) as temporary:
            for name, content in contents.items():
                (temporary / name).write_bytes(content)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}; make room or choose another folder") from error
    return info


def load(folder: str | PathLike[str]) -> tuple[nn.Module, RunInfo]:
    """Return the network of a run, in evaluation mode, and its description.

    Raises RunError for a run that is missing, unfinished, damaged, inconsistent or of a newer format.
    """
    folder = Path(folder)
    info = load_info(folder)
    weights = _load_weights(folder)
    try:
        model = pristine(info)
        structure.apply(model, info.structure, {name: tensor.shape for name, tensor in weights.items()})
        load_weights(model, weights)
        models.check_forward(model, info.variant.architecture, len(info.labels), info.variant.input_size)
    except (InputError, RunError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{folder}: {WEIGHTS} and {INFO} do not fit together ({reason[:200]}); train again") from error
    return model.eval(), info


def is_made(folder: Path) -> bool:
    """Tell whether a run is there. One that a power cut or a failing disk damaged is removed, to be made again."""
    if not folder.is_dir():
        return False
    try:
        load(folder)
    except RunError as error:
        logger.warning("the network cannot be used (%s); it is made again", error)
        shutil.rmtree(folder)
        return False
    return True


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put a whole state dict into ``model``; raises RuntimeError where it does not fit.

    The modules' versions, which a plain dict lacks, are this torchvision's: MNASNet refuses to load without.
    """
    state = OrderedDict(weights)
    state._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(state, strict=True)


def load_info(folder: str | PathLike[str]) -> RunInfo:
    """Return the description of a run without reading its weights; raises RunError as :func:`load` does."""
    folder = Path(folder)
    path = folder / INFO
    if not path.is_file():
        raise RunError(_why_missing(folder))
    try:
        raw = msgspec.json.decode(path.read_bytes(), type=dict)
        version = raw.get("format")
        if type(version) is int and version > FORMAT_VERSION:
            raise RunError(
                f"{path} has format {version}, this release reads up to {FORMAT_VERSION}; upgrade roadworthy"
            )
        info = msgspec.convert(raw, RunInfo)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is damaged: {error}; train again or restore it") from error
    if {info.input.height, info.input.width} != {info.variant.input_size}:
        raise RunError(f"{path} is inconsistent: input {info.input.height}x{info.input.width}, not input_size squared")
    return info


def load_history(folder: str | PathLike[str]) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl``, one per epoch; empty where the run was made without training."""
    path = Path(folder) / METRICS
    if not path.is_file():
        return []
    try:
        return msgspec.json.Decoder(dict[str, Any]).decode_lines(path.read_bytes())
    except msgspec.DecodeError as error:
        raise RunError(f"{path} is damaged: {error}; restore or delete it") from error


def json_lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return one JSON object per line."""
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


def partial_folder(folder: str | PathLike[str]) -> Path:
    """Return where a training that will become ``folder`` keeps its checkpoint."""
    folder = Path(folder)
    return folder.with_name(f"{folder.name}.partial")


def _load_weights(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise RunError(f"{path} is missing; train again or restore it") from None
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} is damaged: {error}; train again or restore it") from error


def _why_missing(folder: Path) -> str:
    if partial_folder(folder).is_dir():
        return f"{folder} is not finished training; continue with --resume"
    if folder.is_dir():
        return f"{folder} is no run: it holds no {INFO}"
    return f"{folder} does not exist; `roadworthy train` makes runs"
