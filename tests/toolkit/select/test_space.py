"""Candidates: every one once, Optuna's parameters there and back, and what is no choice."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from edge_runtime.errors import InputError
from toolkit import pruning
from toolkit.select.space import BASELINE, METHODS, STEP, Candidate, Space

SPACE = Space(methods=tuple(METHODS), timings=("pre", "post"), fine_tune=(0, 2), low=20, high=30)


def test_every_candidate_is_there_once_with_a_name_of_its_own() -> None:
    found = list(SPACE.all())
    assert len(found) == len(set(found)) == len({each.slug for each in found}) == len({each.label for each in found})
    assert {each.method for each in found} == set(METHODS)
    assert {each.percent for each in found if METHODS[each.method].percent} == {20, 25, 30}
    assert {each.fine_tune for each in found if each.timing == "pre"} == {0}
    channels = [each for each in found if each.method == "channel"]
    assert len(channels) == 3 * (1 + 2 * 4 * 2)  # importances and scopes after training alone
    assert {each.importance for each in channels if each.timing == "pre"} == {""}
    masks = [each for each in found if each.method == "l1"]
    assert len(masks) == 3 * (1 + 2)  # shares; before training, or after with either number of epochs


def test_parameters_lead_back_to_their_candidate() -> None:
    for candidate in SPACE.all():
        assert SPACE.suggest(optuna.trial.FixedTrial(SPACE.parameters(candidate))) == candidate


def test_a_sampler_proposes_candidates_alone() -> None:
    every = set(SPACE.all())
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    assert {SPACE.suggest(study.ask()) for _ in range(60)} <= every


@pytest.mark.parametrize("candidate", SPACE.beginning(), ids=lambda each: each.method)
def test_every_method_of_the_table_can_prune(candidate: Candidate) -> None:
    how = candidate.pruning()
    assert candidate.method in pruning.METHODS and how.method == candidate.method
    assert candidate.timing == "post" and candidate.fine_tune == 2
    if candidate.percent:
        assert how.amount == candidate.percent / 100


def test_the_beginning_is_within_the_bounds() -> None:
    assert {each.percent for each in SPACE.beginning() if each.percent} == {20, 30}
    only_pre = Space(methods=("l1",), timings=("pre",), fine_tune=())
    assert only_pre.beginning() == (Candidate(method="l1", percent=20, timing="pre"),)
    assert set(only_pre.beginning()) <= set(only_pre.all())


def test_labels_speak() -> None:
    assert BASELINE.label == "not pruned"
    plain = Candidate(method="channel", percent=50, timing="post", fine_tune=2, importance="l2", scope="uniform")
    assert plain.label == "channel 50 % by l2 in each layer, after training, 2 epochs of fine-tuning"
    assert plain.slug == "channel-50-post-ft2-l2-uniform"
    ranked = Candidate(method="channel", percent=50, timing="post", fine_tune=2, importance="taylor", scope="global")
    assert ranked.label.startswith("channel 50 % by taylor in all layers, after")
    assert Candidate(method="semi-structured", timing="pre").label == "semi-structured, before training"
    once = Candidate(method="l1", percent=20, timing="post", fine_tune=1)
    assert once.label.endswith("1 epoch of fine-tuning")
    bare = Candidate(method="l1", percent=20, timing="post")
    assert bare.label == "l1 20 %, after training, no fine-tuning" and bare.slug == "l1-20-post-ft0"
    assert Candidate(method="l1", percent=20, timing="pre").label == "l1 20 %, before training"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"methods": ("chanel",)}, "unknown pruning method 'chanel'; nearest: channel"),
        ({"methods": ()}, "no pruning method to choose from"),
        ({"timings": ("during",)}, "unknown timing 'during'"),
        ({"low": 0}, "from 0 to 30"),
        ({"high": 100}, "from 20 to 100"),
        ({"low": 40}, "from 40 to 30"),
        ({"low": 21}, "multiples of 5"),
        ({"fine_tune": (-1,)}, r"fine-tuning of \[-1\] epochs"),
    ],
)
def test_what_is_no_choice_is_refused(changed: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"methods": ("l1",), "timings": ("post",), "fine_tune": (0,), "low": 20, "high": 30}
    with pytest.raises(InputError, match=words):
        Space(**{**given, **changed})


@pytest.mark.parametrize("name", METHODS)
def test_the_published_shares_are_the_presets(name: str) -> None:
    published = METHODS[name].percent
    assert published % STEP == 0
    if published:
        assert published == round(100 * pruning.preset_shares(name).convolution)
