"""STUDY.toml: what a study is, as frozen structs, and how such a file is read.

Everything that a file can get wrong is refused with its line and, for names, the nearest known ones.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec

from edge_runtime.errors import InputError, unknown
from edge_runtime.manifest import PRESETS as EXPLAINER_PRESETS
from edge_runtime.metrics import PERCENTAGES
from edge_runtime.path import METHODS as EXPLAINERS
from toolkit import models, pruning, recipes
from toolkit.data import DEFAULT_SPLIT, SPLITS, parse
from toolkit.pruning import Pruning
from toolkit.study import paper
from toolkit.study.toml import TomlFile, read_toml

FOLDER = Path(__file__).with_name("studies")
Timing = Literal["none", "pre", "post", "post-tuned"]
TIMINGS: dict[str, str] = {
    "pre": "pre-train",
    "post-tuned": "post-train, fine-tuned",
    "post": "post-train, not fine-tuned",
}
"""When a pruned network is pruned, with the name of the table's row, in the paper's order."""
PRESETS = tuple(EXPLAINER_PRESETS)
NATURAL = "natural"


class Overrides(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What differs from the preset's recipe; None leaves the recipe's value."""

    epochs: int | None = None
    batch: int | None = None
    optimizer: str | None = None
    learning_rate: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    schedule: str | None = None
    augmentation: str | None = None
    label_smoothing: float | None = None
    train_mode_epochs: int | None = None
    channels_last: tuple[str, ...] | None = None
    amp: tuple[str, ...] | None = None
    compile: str | None = None

    def given(self) -> dict[str, Any]:
        """Return the fields that have a value."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}


class Attack(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What differs from the preset's attack: number of steps, and the length of one as a share of eps."""

    steps: int | None = None
    step_share: float | None = None


class Subject(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One architecture on one data set; ``compare`` names the paper's tables to stand beside."""

    name: str
    dataset: str
    architecture: str
    split: str = DEFAULT_SPLIT
    width: float = 1.0
    size: int = 32
    compare: str | None = None
    training: Overrides = Overrides()
    fine_tuning: Overrides = Overrides()


class Strategy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One way to make a network.

    ``eps`` is the radius of adversarial training (0: natural), from scratch or, with timing "post-tuned", in the
    fine-tuning. ``parent`` names the strategy whose trained network is pruned afterwards. ``importance`` to ``steps``
    are those of :class:`toolkit.pruning.Pruning`.
    """

    name: str
    eps: float = 0.0
    pruning: str = "none"
    amount: float | None = None
    timing: tuple[str, ...] = ()
    parent: str | None = None
    importance: str = "l2"
    scope: str = "uniform"
    target: str = "channels"
    round_to: int = 8
    steps: int = 1

    def how(self, preset: str) -> Pruning:
        """Return how it prunes, with the shares of ``preset``; raises InputError for options that contradict."""
        options = {name: getattr(self, name) for name in PRUNING_OPTIONS}
        return Pruning(self.pruning, self.amount, preset, **options)


UNPRUNED = Strategy(name="")
MAX_NAME = 64  # of a subject or strategy: cells name files after both
PRUNING_OPTIONS = ("importance", "scope", "target", "round_to", "steps")
PRUNING_KEYS = ("timing", "parent", "amount", *PRUNING_OPTIONS)


def variant_name(strategy: Strategy, timing: str) -> str:
    """Return strategy and timing as cells and figures name them: ``natural``, ``l1-post-tuned``."""
    return strategy.name if timing == "none" else f"{strategy.name}-{timing}"


class Evaluation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is measured on each network, on the test images.

    Accuracy counts ``accuracy_images`` of them, explanations are of the first ``images`` of a random order that every
    network shares (None: all). Robust accuracy is under PGD-``robust_steps`` at ``robust_eps`` (0: not measured), on
    ``robust_images``. ``shown`` images go into the saliency grids.
    """

    explainers: tuple[str, ...] = tuple(EXPLAINERS)
    road: tuple[float, ...] = tuple(PERCENTAGES)
    images: int | None = None
    accuracy_images: int | None = None
    robust_eps: float = 0.01
    robust_steps: int = 20
    robust_images: int | None = 500
    shown: int = 4
    seed: int = 0


class Study(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole file; ``subjects`` times ``strategies`` times their timings times ``seeds`` are its cells."""

    title: str
    subjects: tuple[Subject, ...]
    strategies: tuple[Strategy, ...]
    preset: str = "paper"
    seeds: tuple[int, ...] = (0,)
    split_seed: int = 0
    training: Overrides = Overrides()
    fine_tuning: Overrides = Overrides()
    attack: Attack = Attack()
    evaluation: Evaluation = Evaluation()


TABLES: dict[tuple[type, str], type] = {
    (Study, "subjects"): Subject,
    (Study, "strategies"): Strategy,
    (Study, "training"): Overrides,
    (Study, "fine_tuning"): Overrides,
    (Study, "attack"): Attack,
    (Study, "evaluation"): Evaluation,
    (Subject, "training"): Overrides,
    (Subject, "fine_tuning"): Overrides,
}
CHOICES: dict[tuple[type, str], Callable[[], Iterable[str]]] = {
    (Study, "preset"): lambda: PRESETS,
    (Subject, "architecture"): models.names,
    (Subject, "split"): lambda: SPLITS,
    (Subject, "compare"): lambda: paper.SUBJECTS,
    (Strategy, "pruning"): lambda: ("none", *pruning.METHODS),
    (Strategy, "importance"): lambda: pruning.IMPORTANCES,
    (Strategy, "scope"): lambda: pruning.SCOPES,
    (Strategy, "target"): lambda: pruning.TARGETS,
    (Strategy, "timing"): lambda: TIMINGS,
    (Evaluation, "explainers"): lambda: EXPLAINERS,
    (Overrides, "optimizer"): lambda: recipes.OPTIMIZERS,
    (Overrides, "schedule"): lambda: recipes.SCHEDULES,
    (Overrides, "augmentation"): lambda: recipes.AUGMENTATIONS,
    (Overrides, "channels_last"): lambda: recipes.KINDS,
    (Overrides, "amp"): lambda: recipes.KINDS,
    (Overrides, "compile"): lambda: recipes.COMPILE,
}
"""The names that a field may hold."""
RANGES: dict[tuple[type, str], tuple[float, float]] = {
    **{(Overrides, field): limits for field, limits in recipes.RANGES.items() if field != "seed"},
    (Overrides, "train_mode_epochs"): (0, 100_000),
    (Attack, "steps"): (1, 100_000),
    (Attack, "step_share"): (1e-6, 10),
    (Subject, "width"): (0.01, models.MAX_WIDTH),
    (Subject, "size"): (8, models.MAX_INPUT_SIZE),
    (Strategy, "eps"): (0, 1),
    (Strategy, "amount"): (0.001, 0.999),
    (Strategy, "round_to"): (1, pruning.MAX_ROUND_TO),
    (Strategy, "steps"): (1, pruning.MAX_STEPS),
    (Evaluation, "road"): (0, 100),
    (Evaluation, "images"): (1, 10**9),
    (Evaluation, "accuracy_images"): (1, 10**9),
    (Evaluation, "robust_eps"): (0, 1),
    (Evaluation, "robust_steps"): (1, 100_000),
    (Evaluation, "robust_images"): (1, 10**9),
    (Evaluation, "shown"): (0, 64),
    (Evaluation, "seed"): (0, 2**63 - 1),
    (Study, "seeds"): (0, 2**63 - 1),
    (Study, "split_seed"): (0, 2**63 - 1),
}
"""The smallest and the largest sensible number of a field, or of each of its numbers."""


def shipped() -> dict[str, Path]:
    """Return the studies that come with the package, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def find(name: str) -> Path:
    """Return the file that ``name`` means: a path, or the name of a shipped study. Raises InputError."""
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        raise InputError(f"study {name} does not exist; give a file, or one of: {', '.join(shipped())}")
    if name not in shipped():
        raise unknown("study", name, shipped())
    return shipped()[name]


def read_study(path: Path, datasets: Iterable[str] = ()) -> Study:
    """Read a study's file; each of ``datasets`` ("lisa:PATH") takes the place of the path of that kind.

    Raises InputError, with the line, for anything that is not understood.
    """
    file = read_toml(path)
    _check_table(file, file.values, Study, ())
    try:
        study = msgspec.convert(file.values, Study, strict=True)
    except msgspec.ValidationError as error:
        raise file.wrong_type(error) from error
    _check_names(file, study)
    for index, strategy in enumerate(study.strategies):
        _check_strategy(file, study, index, strategy)
    return _located(file, study, {parse(spec).kind: parse(spec).path for spec in datasets})


def _check_table(file: TomlFile, table: Any, kind: type, where: tuple[str | int, ...]) -> None:
    """Refuse unknown keys, names and numbers of one table and of those inside it."""
    if not isinstance(table, dict):
        raise file.error(where, f"{where[-1]!r} is not a table")
    fields = {field.name for field in msgspec.structs.fields(kind)}
    for key, value in table.items():
        here = (*where, key)
        if key not in fields:
            raise file.error(here, str(unknown("key", key, fields)))
        if inner := TABLES.get((kind, key)):
            several = isinstance(value, list)
            for index, entry in enumerate(value if several else [value]):
                _check_table(file, entry, inner, (*here, index) if several else here)
        for single in value if isinstance(value, list) else [value]:
            _check_value(file, here, single, kind)


def _check_value(file: TomlFile, where: tuple[str | int, ...], value: Any, kind: type) -> None:
    key = str(where[-1])
    if (kind, key) in CHOICES and isinstance(value, str):
        names = tuple(CHOICES[kind, key]())
        if value not in names:
            raise file.error(where, str(unknown(key, value, names)))
    if (kind, key) in RANGES and isinstance(value, int | float):
        low, high = RANGES[kind, key]
        if not low <= value <= high:
            raise file.error(where, f"{key} {value:g} is outside {low:g} .. {high:g}")


def _check_names(file: TomlFile, study: Study) -> None:
    """Refuse empty and repeated entries of the lists, and ROAD percentages that do not ascend."""
    for key in ("subjects", "strategies", "seeds"):
        if not getattr(study, key):
            raise file.error((key,), f"{key} is empty; give at least one")
    if len(set(study.seeds)) < len(study.seeds):
        raise file.error(("seeds",), f"seeds {list(study.seeds)} repeat one")
    for key in ("subjects", "strategies"):
        names = [entry.name for entry in getattr(study, key)]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise file.error((key, index, "name"), f"name {name!r} stands twice")
            if not name or not all(character.isalnum() or character in "-_.+" for character in name):
                raise file.error((key, index, "name"), f"name {name!r} may hold letters, digits and -_.+ only")
            if len(name) > MAX_NAME:
                raise file.error(
                    (key, index, "name"), f"name {name!r} has {len(name)} characters; {MAX_NAME} are the most"
                )
    _check_variants(file, study)
    explainers = study.evaluation.explainers
    if len(set(explainers)) < len(explainers):
        raise file.error(("evaluation", "explainers"), f"explainers {list(explainers)} repeat one")
    levels = study.evaluation.road
    if any(low >= high for low, high in itertools.pairwise(levels)):
        raise file.error(("evaluation", "road"), f"road {list(levels)} does not ascend")


def _check_variants(file: TomlFile, study: Study) -> None:
    """Refuse repeated timings, and strategies whose cells would have the same name."""
    owners: dict[str, str] = {}
    for index, strategy in enumerate(study.strategies):
        if len(set(strategy.timing)) < len(strategy.timing):
            raise file.error(("strategies", index, "timing"), f"timing {list(strategy.timing)} repeats one")
        for variant in [variant_name(strategy, timing) for timing in strategy.timing or ("none",)]:
            if variant in owners:
                raise file.error(
                    ("strategies", index, "name"),
                    f"strategies {owners[variant]!r} and {strategy.name!r} both make {variant!r}; rename one",
                )
            owners[variant] = strategy.name


def _check_strategy(file: TomlFile, study: Study, index: int, strategy: Strategy) -> None:
    """Refuse a strategy whose parent is missing or whose fields contradict one another."""
    where: tuple[str | int, ...] = ("strategies", index)
    pruned = strategy.pruning != "none"
    if pruned and not strategy.timing:
        raise file.error((*where, "pruning"), f"strategy {strategy.name!r} has no timing; give some of {[*TIMINGS]}")
    idle = [name for name in PRUNING_KEYS if getattr(strategy, name) != getattr(UNPRUNED, name)]
    if not pruned and idle:
        raise file.error((*where, "name"), f"strategy {strategy.name!r} prunes nothing; drop {', '.join(idle)}")
    if pruned:
        try:
            strategy.how(study.preset)
        except InputError as error:
            raise file.error((*where, "pruning"), str(error)) from error
    if strategy.steps > 1 and set(strategy.timing) != {"post-tuned"}:
        raise file.error(
            (*where, "steps"),
            f'steps {strategy.steps} of strategy {strategy.name!r} need fine-tuning; give timing ["post-tuned"] alone',
        )
    if strategy.eps and "post" in strategy.timing:
        raise file.error(
            (*where, "eps"), f"eps of strategy {strategy.name!r} is idle with timing 'post', which trains nothing"
        )
    if strategy.parent and set(strategy.timing) == {"pre"}:
        raise file.error(
            (*where, "parent"),
            f"parent of strategy {strategy.name!r} is idle with timing 'pre', which starts from random weights",
        )
    if not pruned or set(strategy.timing) == {"pre"}:
        return
    parent = strategy.parent or NATURAL
    parents = {entry.name: entry for entry in study.strategies}
    key = (*where, "parent") if strategy.parent else (*where, "name")
    if parent not in parents:
        raise file.error(key, f"strategy {strategy.name!r} needs its parent: {unknown('strategy', parent, parents)}")
    if parents[parent].pruning != "none":
        raise file.error(
            key, f"parent {parent!r} of strategy {strategy.name!r} is pruned already; name an unpruned one"
        )


def _located(file: TomlFile, study: Study, paths: dict[str, str]) -> Study:
    """Return ``study`` with the paths of its data sets filled in."""
    subjects = []
    for index, subject in enumerate(study.subjects):
        kind, colon, rest = subject.dataset.partition(":")
        spec = subject.dataset
        if colon and kind in paths:
            _, mark, options = rest.rpartition("?")
            spec = f"{kind}:{paths[kind]}" + (f"?{options}" if mark else "")
        spec = os.path.expandvars(spec)
        where = ("subjects", index, "dataset")
        if "$" in spec:
            variable = spec[spec.index("$") :].partition("/")[0]
            raise file.error(where, f"{variable} is not set; export it, or pass --data {kind}:PATH")
        try:
            parse(spec)
        except InputError as error:
            raise file.error(where, str(error)) from error
        subjects.append(msgspec.structs.replace(subject, dataset=spec))
    return msgspec.structs.replace(study, subjects=tuple(subjects))
