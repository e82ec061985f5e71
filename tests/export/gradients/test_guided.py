"""Guided Backpropagation equals Captum's GuidedBackprop; only ReLU's rule differs from the plain gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import GuidedBackprop

from export.gradients import GUIDED, RULES, add_input_gradient
from tests.export.gradients.classifiers import CLASSES, classifier, images, relative, run


@pytest.mark.parametrize("architecture", ["vgg16", "resnet18"])
def test_equals_captum(architecture: str) -> None:
    module, model = classifier(architecture)
    batch = images(architecture, 3)
    target = np.array([0, 4, CLASSES - 1])
    found = run(add_input_gradient(model, rules=GUIDED), image=batch, target=target)["gradient"]
    expected = GuidedBackprop(module).attribute(torch.from_numpy(batch).requires_grad_(), torch.from_numpy(target))
    assert relative(found, expected) < 1e-4
    plain = run(add_input_gradient(model), image=batch, target=target)["gradient"]
    assert relative(found, plain) > 0.1


def test_every_other_operator_keeps_its_rule() -> None:
    assert set(GUIDED) == set(RULES)
    assert [name for name in RULES if GUIDED[name] is not RULES[name]] == ["Relu"]
