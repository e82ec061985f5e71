"""Latency by the device runtime: a much smaller network saves much, the same one nothing."""

from __future__ import annotations

import pytest
import torch

from toolkit import models, pruning
from toolkit.pruning import Pruning
from toolkit.pruning.latency import LatencyMeter


def test_a_smaller_network_saves_time() -> None:
    model = models.build("vgg_small", 4, width=4.0)
    with LatencyMeter(model, 32) as meter:
        assert meter.saved(pruning.prune(model, "channel", 0.9), 0.5) > 0.3


@pytest.mark.slow
def test_an_equal_network_saves_none() -> None:
    model = models.build("vgg_small", 4, width=4.0)
    with LatencyMeter(model, 32) as meter:
        assert abs(meter.saved(model)) < 0.3


@pytest.mark.slow
def test_a_share_of_the_measured_latency_goes() -> None:
    model = models.build("vgg_small", 4, width=4.0)
    done = pruning.apply(model, Pruning("channel", 0.3, target="latency"))
    assert done.removed["latency"] >= 0.3
    assert 0 < done.removed["macs"] < 1
    assert done.model.eval()(torch.rand(2, 3, 32, 32)).shape == (2, 4)
