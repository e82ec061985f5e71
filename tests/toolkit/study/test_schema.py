"""STUDY.toml: what is read, and what is refused with which line and which nearest name."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.errors import InputError
from toolkit.pruning import Pruning
from toolkit.study import schema

GOOD = """\
title = "Tiny"
seeds = [0, 1]
[training]
epochs = 2
[[subjects]]
name = "tiny"
dataset = "rendered"
architecture = "vgg_small"
[[strategies]]
name = "natural"
[[strategies]]
name = "l1"
pruning = "l1"
timing = ["pre", "post"]
"""


def read(folder: Path, text: str, *data: str) -> schema.Study:
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return schema.read_study(path, data)


def refused(folder: Path, text: str, *data: str) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, text, *data)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(folder / "study.toml"), "FILE")


def test_defaults_and_overrides(tmp_path: Path) -> None:
    study = read(tmp_path, GOOD)
    assert study.preset == "paper"
    assert study.evaluation.road == tuple(range(1, 100, 10))
    assert study.training.given() == {"epochs": 2}
    assert [strategy.timing for strategy in study.strategies] == [(), ("pre", "post")]


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("epochs = 2", "epoch = 2", 4, ["'epoch'", "nearest: epochs"]),
        ('architecture = "vgg_small"', 'architecture = "vgg_smal"', 8, ["'vgg_smal'", "vgg_small"]),
        ('pruning = "l1"', 'pruning = "l2"', 13, ["'l2'", "l1"]),
        ('timing = ["pre", "post"]', 'timing = ["pre", "pots"]', 14, ["'pots'", "post"]),
        ('timing = ["pre", "post"]', 'timing = ["post"]\nparent = "naturall"', 15, ["'naturall'", "nearest: natural"]),
        ('name = "natural"', 'name = "plain"', 12, ["needs its parent", "'natural'"]),
        ("seeds = [0, 1]", "seeds = [0, 0]", 2, ["repeat"]),
        ("seeds = [0, 1]", "seeds = []", 2, ["empty"]),
        ("seeds = [0, 1]", 'seeds = [0, "one"]', 2, ["expected `int`"]),
        ("seeds = [0, 1]", "preset = 'papper'", 2, ["nearest: paper"]),
        ("epochs = 2", "epochs = 0", 4, ["outside"]),
        ("epochs = 2", "[attack]\nstep = 3", 5, ["'step'", "steps"]),
        ('dataset = "rendered"', 'dataset = "renderd"', 7, ["'renderd'", "rendered"]),
        (
            'dataset = "rendered"',
            'dataset = "gtsrb:$NO_SUCH_VARIABLE/gtsrb"',
            7,
            ["$NO_SUCH_VARIABLE", "--data gtsrb:PATH"],
        ),
        ('dataset = "rendered"\n', "", 5, ["missing required field `dataset`"]),
        ('name = "l1"', 'name = "natural"', 12, ["stands twice"]),
        ('timing = ["pre", "post"]', 'timing = ["post"]\neps = 0.1', 15, ["idle"]),
        ('pruning = "l1"', 'pruning = "channel"\nimportance = "tailor"', 14, ["'tailor'", "nearest: taylor"]),
        ('pruning = "l1"', 'pruning = "channel"\nscope = "local"', 14, ["unknown scope 'local'", "global"]),
        ('pruning = "l1"', 'pruning = "channel"\ntarget = "mac"', 14, ["'mac'", "nearest: macs"]),
        ('pruning = "l1"', 'pruning = "channel"\nround_to = 0', 14, ["round_to 0 is outside 1 .. 1024"]),
        ('pruning = "l1"', 'pruning = "channel"\nround = 8', 14, ["unknown key 'round'", "round_to"]),
        ('pruning = "l1"', 'pruning = "channel"\nsteps = 2', 14, ["steps 2", "post-tuned"]),
        ('pruning = "l1"', 'pruning = "l1"\nscope = "global"', 13, ["scope 'global' is for method channel"]),
        ('pruning = "l1"\ntiming = ["pre", "post"]', 'importance = "l1"', 12, ["prunes nothing; drop importance"]),
        ('timing = ["pre", "post"]', 'timing = ["post", "post"]', 14, ["timing ['post', 'post'] repeats one"]),
        ('timing = ["pre", "post"]', 'timing = ["pre"]\nparent = "natural"', 15, ["parent", "idle with timing 'pre'"]),
        ('name = "natural"', 'name = "natural"\n[[strategies]]\nname = "l1-pre"', 14, ["'l1-pre' and 'l1'", "rename"]),
        ('name = "tiny"', f'name = "{"x" * 65}"', 6, ["65 characters; 64 are the most"]),
        ("[training]", '[evaluation]\nexplainers = ["vg", "vg"]\n[training]', 4, ["explainers", "repeat one"]),
        ("[training]", "[training", 3, ["no TOML"]),
        ("[training]", "[evaluation]\nroad = [10, 5]\n[training]", 4, ["does not ascend"]),
    ],
)
def test_refusals_name_line_and_way_out(tmp_path: Path, old: str, new: str, line: int, words: list[str]) -> None:
    assert old in GOOD
    message = refused(tmp_path, GOOD.replace(old, new))
    assert f"FILE:{line}: " in message or f"at line {line}," in message, message
    for word in words:
        assert word in message


def test_choices_of_pruning_are_read(tmp_path: Path) -> None:
    chosen = 'importance = "taylor"\nscope = "global"\ntarget = "macs"\nround_to = 16\nsteps = 3\namount = 0.4\n'
    text = GOOD + f'[[strategies]]\nname = "taylor"\npruning = "channel"\ntiming = ["post-tuned"]\n{chosen}'
    how = read(tmp_path, text).strategies[-1].how("paper")
    assert how == Pruning("channel", 0.4, "paper", "taylor", "global", "macs", 16, 3)


def test_pruned_parent_is_refused(tmp_path: Path) -> None:
    text = GOOD + '[[strategies]]\nname = "twice"\npruning = "global"\ntiming = ["post"]\nparent = "l1"\n'
    assert "FILE:19: parent 'l1'" in refused(tmp_path, text)


def test_data_option_takes_the_place_of_the_path(tmp_path: Path) -> None:
    text = GOOD.replace('"rendered"', '"lisa:$NO_SUCH_VARIABLE/lisa?classes=14"')
    (subject,) = read(tmp_path, text, "lisa:/data/mine", "gtsrb:/else").subjects
    assert subject.dataset == "lisa:/data/mine?classes=14"


def test_shipped_studies_are_valid_and_found_by_name() -> None:
    assert set(schema.shipped()) == {"cpu", "gtsrb-vgg", "lisa-resnet", "lisa-vgg", "rendered"}
    for name, path in schema.shipped().items():
        assert schema.find(name) == path
        study = schema.read_study(path, ["gtsrb:/g", "lisa:/l"])
        assert {strategy.pruning for strategy in study.strategies} == {"none", "l1", "global", "layered"}


def test_missing_study_is_one_line_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match="nearest: rendered"):
        schema.find("renderd")
    with pytest.raises(InputError, match=r"does not exist; give a file"):
        schema.find("no/such.toml")
