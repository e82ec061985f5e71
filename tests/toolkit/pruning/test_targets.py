"""Targets: shares of parameters and MACs are reached and hardly exceeded; the search is exact on known figures."""

from __future__ import annotations

from typing import ClassVar

import pytest
from torch import nn

from edge_runtime.errors import InputError
from toolkit import evaluation, models, pruning
from toolkit.pruning import Pruning, latency


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return models.build("vgg_small", 4)


@pytest.mark.parametrize("scope", pruning.SCOPES)
@pytest.mark.parametrize("target", ["parameters", "macs"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_at_least_the_share_goes_and_not_much_more(model: nn.Module, scope: str, target: str, share: float) -> None:
    done = pruning.apply(model, Pruning("channel", share, scope=scope, target=target, round_to=1))
    before, after = evaluation.count(model), evaluation.count(done.model)
    gone = 1 - getattr(after, target) / getattr(before, target)
    assert share <= gone < share + 0.04
    assert done.removed[target] == pytest.approx(gone)
    assert done.removed.keys() == {"channels", "parameters", "macs"}


def test_what_went_is_told_for_shares_of_channels_too(model: nn.Module) -> None:
    removed = pruning.apply(model, Pruning("channel")).removed
    assert removed["channels"] == 0.5
    assert 0.7 < removed["parameters"] < removed["channels"] + 0.3


def test_steps_lead_to_the_same_target(model: nn.Module) -> None:
    """Every step counts from the original, so that rounding does not add up."""
    how = Pruning("channel", 0.5, target="macs", steps=3)
    network = model
    for step in (1, 2, 3):
        done = pruning.apply(network, how, done=step / 3, original=model)
        assert done.removed["macs"] >= 0.5 * step / 3
        network = done.model
    straight = pruning.apply(model, Pruning("channel", 0.5, target="macs"))
    assert evaluation.count(network).macs == evaluation.count(straight.model).macs


def test_a_target_out_of_reach_says_how_far_it_goes(model: nn.Module) -> None:
    with pytest.raises(
        InputError, match=r"VGG cannot lose 98.0% of its parameters .* of 32: 0\.0% is what goes at most"
    ):
        pruning.apply(
            models.build("vgg_small", 4, width=0.5), Pruning("channel", 0.98, target="parameters", round_to=32)
        )


class Clock:
    """Stands in for the meter: each network's latency is its number of parameters, with some noise."""

    noise: ClassVar[list[float]] = []
    calls: ClassVar[list[float]] = []

    def __init__(self, original: nn.Module, input_size: int) -> None:
        self._original = evaluation.count(original, input_size).parameters

    def __enter__(self) -> Clock:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def saved(self, model: nn.Module, seconds: float = latency.SECONDS) -> float:
        Clock.calls.append(seconds)
        noise = Clock.noise.pop(0) if Clock.noise and seconds != latency.SECONDS else 0.0
        return 1 - evaluation.count(model).parameters / self._original + noise


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    monkeypatch.setattr(latency, "LatencyMeter", Clock)
    Clock.noise, Clock.calls = [], []
    return Clock


def test_latency_is_reached_with_few_measurements(model: nn.Module, clock: type[Clock]) -> None:
    done = pruning.apply(model, Pruning("channel", 0.4, target="latency"))
    assert 0.4 <= done.removed["latency"] == pytest.approx(done.removed["parameters"])
    assert len(clock.calls) <= 7
    assert clock.calls[-1] == latency.CONFIRMING * latency.SECONDS


def test_what_the_longer_measurement_does_not_confirm_is_not_taken(model: nn.Module, clock: type[Clock]) -> None:
    first = pruning.apply(model, Pruning("channel", 0.4, target="latency")).removed["channels"]
    clock.noise[:] = [-0.5]
    assert pruning.apply(model, Pruning("channel", 0.4, target="latency")).removed["channels"] > first
    clock.noise[:] = [-0.9] * 10
    with pytest.raises(InputError, match=r"VGG cannot lose 40.0% of its latency .* is what goes at most"):
        pruning.apply(model, Pruning("channel", 0.4, target="latency"))


def test_the_original_stays_as_it_is(model: nn.Module) -> None:
    before = evaluation.count(model)
    pruning.apply(model, Pruning("channel", 0.4, target="macs"))
    assert evaluation.count(model) == before
