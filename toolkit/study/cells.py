"""From a study to its cells: what each is made from, and the content address under which it is kept.

A run (a trained network) is addressed by everything that decides its weights, a cell by its run and by everything that
decides its measurements. Two studies with a network in common share it, and nothing that is done is done again.
"""

from __future__ import annotations

import ast
import fnmatch
import hashlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.errors import InputError
from edge_runtime.manifest import PRESETS as EXPLAINER_PRESETS
from toolkit import adversarial, pruning, recipes
from toolkit.adversarial import PgdConfig
from toolkit.data import Dataset
from toolkit.recipes import TrainConfig
from toolkit.study.schema import NATURAL, Overrides, Strategy, Study, Subject, variant_name

# The modules whose code decides weights, and those whose code decides measurements.
TRAINING_CODE = (
    "toolkit.adversarial",
    "toolkit.data.loader",
    "toolkit.distributed",
    "toolkit.models",
    "toolkit.pruning",
    "toolkit.pruning.channels",
    "toolkit.pruning.families",
    "toolkit.pruning.importance",
    "toolkit.pruning.latency",
    "toolkit.pruning.masks",
    "toolkit.pruning.settings",
    "toolkit.pruning.steps",
    "toolkit.pruning.targets",
    "toolkit.recipes",
    "toolkit.steps",
    "toolkit.training",
)
MEASURING_CODE = (
    "edge_runtime.metrics.imputation",
    "edge_runtime.metrics.multigrid",
    "edge_runtime.metrics.road",
    "edge_runtime.metrics.saliency",
    "edge_runtime.path",
    "edge_runtime.preprocess",
    "toolkit.adversarial",
    "toolkit.evaluation",
    "toolkit.study.measure",
)
KEY_LENGTH = 12  # hex digits of a content address that go into names


@dataclass(frozen=True)
class Cell:
    """One network to make and to measure.

    ``config`` says how it is trained, or fine-tuned with ``parent`` (None: pruned, and not trained afterwards), by the
    recipe named ``preset``.
    ``run_key`` and ``key`` are the content addresses of the network and of its measurements.
    """

    subject: Subject
    strategy: Strategy
    timing: str
    seed: int
    config: TrainConfig | None
    parent: Cell | None
    preset: str
    run_key: str
    key: str

    @property
    def trained_by(self) -> TrainConfig:
        """The configuration of its training, or of the nearest trained ancestor's."""
        found = (each.config for each in (self, *ancestors(self)) if each.config is not None)
        return next(found)

    @property
    def variant_name(self) -> str:
        return variant_name(self.strategy, self.timing)

    @property
    def name(self) -> str:
        """What ``--only`` matches: ``lisa-vgg/l1-post-tuned/s0``."""
        return f"{self.subject.name}/{self.variant_name}/s{self.seed}"

    @property
    def run_label(self) -> str:
        """What the network is, not what the study calls it: cells with the same network share it by this name."""
        eps = self.strategy.eps
        if self.timing == "none":
            made = "adversarial" if eps else NATURAL
        else:
            made = f"{self.strategy.pruning}-{self.timing}" + ("-adversarial" if eps else "")
        return f"{self.subject.architecture}-{made}-s{self.seed}-{self.run_key[:KEY_LENGTH]}"

    @property
    def label(self) -> str:
        return f"{self.name.replace('/', '-')}-{self.key[:KEY_LENGTH]}"


def plan(study: Study, datasets: Mapping[str, Dataset], device: str = "auto") -> list[Cell]:
    """Return the cells of ``study``, parents before children; ``datasets`` holds each subject's by its name.

    Raises InputError for settings that no recipe takes.
    """
    cells: list[Cell] = []
    for subject in study.subjects:
        for seed in study.seeds:
            made: dict[str, Cell] = {}
            for strategy in sorted(study.strategies, key=lambda entry: entry.pruning != "none"):
                for timing in strategy.timing or ("none",):
                    parent = made[strategy.parent or NATURAL] if timing.startswith("post") else None
                    cell = _cell(study, subject, strategy, timing, seed, parent, datasets[subject.name], device)
                    made[cell.variant_name] = cell
                    cells.append(cell)
    return cells


def select(cells: Sequence[Cell], patterns: Sequence[str]) -> list[Cell]:
    """Return the cells whose names match one of the shell ``patterns``, and the parents they need; all without any.

    Raises InputError for a pattern that matches nothing.
    """
    if not patterns:
        return list(cells)
    wanted: set[str] = set()
    for pattern in patterns:
        found = [cell for cell in cells if fnmatch.fnmatchcase(cell.name, pattern)]
        if not found:
            raise InputError(f"--only {pattern!r} matches no cell; the first is {cells[0].name!r}, --dry-run lists all")
        for cell in found:
            wanted |= {cell.name, *(above.name for above in ancestors(cell))}
    return [cell for cell in cells if cell.name in wanted]


def ancestors(cell: Cell) -> Iterator[Cell]:
    """Yield the cell's parent, and so on."""
    while cell.parent is not None:
        cell = cell.parent
        yield cell


def training_config(study: Study, subject: Subject, dataset: Dataset, *, fine_tune: bool = False) -> TrainConfig:
    """Return the preset's recipe with what study and subject change; raises InputError for values out of range."""
    config = recipes.preset(study.preset, architecture=subject.architecture, dataset=dataset.name, fine_tune=fine_tune)
    layers: tuple[Overrides, ...] = (study.training, subject.training)
    if fine_tune:
        layers = (*layers, study.fine_tuning, subject.fine_tuning)
        # The recipe's own number of fine-tuning epochs stands unless fine-tuning says otherwise.
        layers = tuple(msgspec.structs.replace(each, epochs=None) for each in layers[:2]) + layers[2:]
    for layer in layers:
        config = replace(config, **layer.given())
    return config


def attack(study: Study, eps: float) -> PgdConfig:
    """Return the preset's attack of radius ``eps`` with what the study changes."""
    config = adversarial.preset(study.preset, eps)
    share = study.attack.step_share
    return replace(
        config,
        steps=study.attack.steps or config.steps,
        step=config.step if share is None else share * eps,
    )


@lru_cache
def code_version(modules: tuple[str, ...]) -> str:
    """Return a digest of the modules' code; comments, docstrings and layout do not count."""
    running = hashlib.sha256()
    for name in modules:
        found = importlib.util.find_spec(name)
        assert found is not None and found.origin is not None, name
        tree = ast.parse(Path(found.origin).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [each for each in body if not _is_text(each)]  # type: ignore[attr-defined]
        running.update(f"{name}\n{ast.unparse(tree)}\n".encode())
    return running.hexdigest()


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _cell(
    study: Study,
    subject: Subject,
    strategy: Strategy,
    timing: str,
    seed: int,
    parent: Cell | None,
    dataset: Dataset,
    device: str,
) -> Cell:
    config = None
    if timing != "post":
        config = training_config(study, subject, dataset, fine_tune=timing == "post-tuned")
        attacked = attack(study, strategy.eps) if strategy.eps else None
        config = replace(config, adversarial=attacked, seed=seed, device=device)
        if strategy.steps > config.epochs:
            raise InputError(
                f"strategy {strategy.name!r} fine-tunes {config.epochs} epochs, too few to follow each of "
                f"{strategy.steps} steps; give more epochs or fewer steps"
            )
    pruned = strategy.pruning != "none"
    content: dict[str, Any] = {
        "data": dataset.digest,
        "normalisation": [dataset.mean, dataset.std],
        "network": [subject.architecture, subject.width, subject.size, seed],
        # The kind of device changes the last bits, not what the cell is: a study may move to another machine.
        "training": None if config is None else {**asdict(config), "device": None},
        "pruning": [asdict(strategy.how(study.preset)), timing] if pruned else None,
        "shares": asdict(pruning.preset_shares(strategy.pruning, study.preset)) if pruned else None,
        "parent": None if parent is None else parent.run_key,
        "code": code_version(TRAINING_CODE),
    }
    run_key = _digest(content)
    explainers = {name: EXPLAINER_PRESETS[study.preset][name] for name in study.evaluation.explainers}
    measured = [run_key, study.evaluation, explainers, study.preset, code_version(MEASURING_CODE)]
    return Cell(subject, strategy, timing, seed, config, parent, study.preset, run_key, _digest(measured))


def _digest(content: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()
