"""A bundle whose classifier never comes to an end for some images: a real loop inside a real engine."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.edge_runtime.tiny_bundle import CLASSES, TinyNetwork, classifier_model, tiny_files

# Images whose first pixel's red is at least this bright (of 255) hang.
HANGS = 250
ROUNDS = 1 << 50
# Of the normalised image: (250 / 255 - 0.45) / 0.25, and a little less.
THRESHOLD = 2.1


def hanging_files(network: TinyNetwork) -> dict[str, bytes]:
    """Return the tiny bundle's files with such a classifier."""
    return {**tiny_files(network), "classifier.onnx": hanging_classifier(network).SerializeToString()}


def hanging_classifier(network: TinyNetwork) -> onnx.ModelProto:
    """The tiny classifier, its logits taken ROUNDS times through an operator that leaves them as they are."""
    model = classifier_model(network)
    graph = model.graph
    graph.node[-1].output[0] = "before_loop"
    shape = ["N", CLASSES]
    state_in = helper.make_tensor_value_info("state", TensorProto.FLOAT, shape)
    state_out = helper.make_tensor_value_info("state_out", TensorProto.FLOAT, shape)
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["go_on_out"]),
            helper.make_node("Abs", ["state"], ["size"]),
            helper.make_node("Sub", ["size", "size"], ["no_change"]),
            helper.make_node("Add", ["state", "no_change"], ["state_out"]),
        ],
        "round",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            state_in,
        ],
        [helper.make_tensor_value_info("go_on_out", TensorProto.BOOL, []), state_out],
    )
    graph.initializer.extend(
        numpy_helper.from_array(value, name)
        for name, value in {
            "red": np.array([0], np.int64),
            "threshold": np.array(THRESHOLD, np.float32),
            "rounds": np.array(ROUNDS, np.int64),
            "no_rounds": np.array(0, np.int64),
            "yes": np.array(True),
        }.items()
    )
    graph.node.extend(
        [
            helper.make_node("Gather", ["flat", "red"], ["reds"], axis=1),
            helper.make_node("ReduceMax", ["reds"], ["brightest"], keepdims=0),
            helper.make_node("Greater", ["brightest", "threshold"], ["hangs"]),
            helper.make_node("Where", ["hangs", "rounds", "no_rounds"], ["trips"]),
            helper.make_node("Loop", ["trips", "yes", "before_loop"], ["logits"], body=body),
        ]
    )
    onnx.checker.check_model(model, full_check=True)
    return model
