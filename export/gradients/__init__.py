"""Input gradients inside the inference engine: reverse-mode differentiation over the ONNX graph.

``registry`` holds the table, the ``rules_*`` modules one small function per operator, ``walk`` the generic pass,
``prepare`` what comes before it and ``explainer`` what is built on top.
"""

from export.gradients import (  # noqa: F401  (importing the modules fills the table)
    rules_activation,
    rules_arithmetic,
    rules_conv,
    rules_pooling,
    rules_quantise,
    rules_reduction,
    rules_resample,
    rules_select,
    rules_shape,
)
from export.gradients.explainer import add_input_gradient, build_explainer
from export.gradients.grad_cam import build_grad_cam
from export.gradients.guided import GUIDED
from export.gradients.registry import NO_GRADIENT, RULES

__all__ = ["GUIDED", "NO_GRADIENT", "RULES", "add_input_gradient", "build_explainer", "build_grad_cam"]
