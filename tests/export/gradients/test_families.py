"""Every family of torchvision's classifiers, in double precision against PyTorch's autograd."""

from __future__ import annotations

import pytest
import torchvision

from tests.export.gradients.exactness import TOLERANCE, double_errors, explainer_error, export_double, randomised
from tests.export.gradients.families import MINIATURES, build, miniature


@pytest.mark.parametrize("family", MINIATURES)
def test_a_miniature_of_the_family(family: str) -> None:
    module, size = miniature(family)
    randomised(module)
    model = export_double(module, size)
    assert max(double_errors(module, model, size)) < TOLERANCE
    assert explainer_error(module, model, size) < TOLERANCE


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_a_whole_network(name: str) -> None:
    module, size = build(name)
    randomised(module)
    assert max(double_errors(module, export_double(module, size), size)) < TOLERANCE
