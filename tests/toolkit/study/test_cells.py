"""The plan: cells, parents, recipes, and content addresses that change exactly with what decides them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_runtime.errors import InputError
from tests.toolkit.squares import DATASET
from toolkit.adversarial import PgdConfig
from toolkit.study import cells
from toolkit.study.schema import Attack, Evaluation, Overrides, Strategy, Study, Subject

SUBJECT = Subject(name="tiny", dataset="squares", architecture="vgg_small", width=0.5, size=16)
STRATEGIES = (
    Strategy(name="l1", pruning="l1", timing=("pre", "post-tuned", "post")),
    Strategy(name="hybrid", pruning="channel", timing=("post",), parent="adversarial"),
    Strategy(name="natural"),
    Strategy(name="adversarial", eps=0.01),
)
STUDY = Study(title="t", subjects=(SUBJECT,), strategies=STRATEGIES, seeds=(0, 1))


def plan(study: Study = STUDY, **changes: Any) -> dict[str, cells.Cell]:
    study = msgspec.structs.replace(study, **changes)
    return {cell.name: cell for cell in cells.plan(study, {"tiny": DATASET})}


def test_parents_come_first_and_belong_to_the_seed() -> None:
    made = plan()
    assert len(made) == 12
    names = list(made)
    for name, cell in made.items():
        if cell.parent is not None:
            assert cell.parent.seed == cell.seed
            assert names.index(cell.parent.name) < names.index(name)
    assert made["tiny/hybrid-post/s1"].parent is made["tiny/adversarial/s1"]
    assert made["tiny/l1-pre/s0"].parent is None


def test_recipes_are_the_presets_with_overrides() -> None:
    made = plan(
        training=Overrides(epochs=7, batch=32), fine_tuning=Overrides(learning_rate=0.5), attack=Attack(steps=3)
    )
    natural, tuned = made["tiny/natural/s1"].config, made["tiny/l1-post-tuned/s0"].config
    assert natural is not None and tuned is not None
    assert (natural.epochs, natural.batch, natural.learning_rate, natural.seed) == (7, 32, 0.01, 1)
    assert (tuned.epochs, tuned.batch, tuned.learning_rate) == (50, 32, 0.5)
    attacked = made["tiny/adversarial/s0"].config
    assert attacked is not None and attacked.adversarial == PgdConfig(eps=0.01, step=0.001, steps=3)
    assert made["tiny/l1-post/s0"].config is None
    assert made["tiny/l1-post/s1"].trained_by == natural


def test_authors_preset_differs_where_the_protocol_says() -> None:
    made = plan(preset="authors-code")
    attacked = made["tiny/adversarial/s0"].config
    assert attacked is not None and attacked.adversarial is not None
    assert attacked.adversarial.space == "normalised"
    assert attacked.train_mode_epochs == 1


def keys(made: dict[str, cells.Cell]) -> dict[str, tuple[str, str]]:
    return {name: (cell.run_key, cell.key) for name, cell in made.items()}


def test_addresses_are_stable_and_distinct() -> None:
    first = keys(plan())
    assert first == keys(plan())
    assert len({run for run, _ in first.values()}) == len({key for _, key in first.values()}) == 12


def test_evaluation_changes_measurements_but_not_networks() -> None:
    before, after = keys(plan()), keys(plan(evaluation=Evaluation(images=5)))
    assert all(before[name][0] == after[name][0] and before[name][1] != after[name][1] for name in before)


def test_training_changes_descendants_alone() -> None:
    before, after = keys(plan()), keys(plan(attack=Attack(steps=9)))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {f"tiny/{name}/s{seed}" for name in ("adversarial", "hybrid-post") for seed in (0, 1)}


def test_data_and_code_change_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(plan())
    other = cells.plan(STUDY, {"tiny": dataclasses.replace(DATASET, digest="0" * 64)})
    assert not set(keys({cell.name: cell for cell in other}).values()) & set(before.values())
    monkeypatch.setattr(cells, "code_version", lambda modules: "another")
    assert not set(keys(plan()).values()) & set(before.values())


def test_device_changes_nothing() -> None:
    by_device = [[cell.key for cell in cells.plan(STUDY, {"tiny": DATASET}, device)] for device in ("auto", "cpu")]
    assert by_device[0] == by_device[1]


def test_code_version_ignores_comments_and_docstrings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    versions = []
    for text in ('"""Doc."""\nx = 1\n', "# why\nx = (1)\n", "x = 2\n"):
        (tmp_path / "coded_module.py").write_text(text)
        cells.code_version.cache_clear()
        versions.append(cells.code_version(("coded_module",)))
    assert versions[0] == versions[1] != versions[2]


def test_only_brings_the_parents_along() -> None:
    made = list(plan().values())
    assert [cell.name for cell in cells.select(made, ["*/hybrid-*/s1"])] == [
        "tiny/adversarial/s1",
        "tiny/hybrid-post/s1",
    ]
    assert cells.select(made, []) == made
    with pytest.raises(InputError, match="matches no cell"):
        cells.select(made, ["tiny/natural"])


@pytest.mark.parametrize(
    "choice", [{"importance": "taylor"}, {"scope": "global"}, {"target": "macs"}, {"round_to": 16}, {"amount": 0.4}]
)
def test_every_choice_of_pruning_is_part_of_the_address(choice: dict[str, Any]) -> None:
    plain = Strategy(name="channel", pruning="channel", timing=("post",))
    chosen = msgspec.structs.replace(plain, **choice)
    keys = [plan(strategies=(*STRATEGIES, each))["tiny/channel-post/s0"].run_key for each in (plain, chosen)]
    assert keys[0] != keys[1]


def test_steps_without_an_epoch_each_are_refused() -> None:
    stepped = Strategy(name="steps", pruning="channel", timing=("post-tuned",), steps=3)
    with pytest.raises(InputError, match="'steps' fine-tunes 2 epochs, too few to follow each of 3 steps"):
        plan(strategies=(*STRATEGIES, stepped), fine_tuning=Overrides(epochs=2))
