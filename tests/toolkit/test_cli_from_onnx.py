"""``roadworthy export --from-onnx`` in a process that has no PyTorch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.bundle import open_bundle
from edge_runtime.explainer import Explainer
from edge_runtime.manifest import MANIFEST

CLASSES = 4
WITHOUT_TORCH = """
import sys
for name in ("torch", "torchvision", "captum", "torch_pruning"):
    sys.modules[name] = None  # importing it raises ImportError
from toolkit.cli import main
main()
"""


def save(folder: Path, batch: object, nodes: list[onnx.NodeProto] | None = None, side: object = 8) -> Path:
    """Write a small classifier of images [batch, 3, side, side]; its Reshape has the batch written out."""
    generator = np.random.default_rng(0)
    flat = 8 * 4 * 4
    constants = {
        "k": generator.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "w": generator.standard_normal((flat, CLASSES)).astype(np.float32),
        "v": generator.standard_normal((8, CLASSES)).astype(np.float32),
        "shape": np.array([batch if isinstance(batch, int) else -1, flat]),
    }
    nodes = nodes or [
        helper.make_node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Reshape", ["p", "shape"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    path = folder / "sign model.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    path.write_bytes(model.SerializeToString())
    return path


def export(model: Path, out: Path) -> subprocess.CompletedProcess[str]:
    labels = out.parent / "labels.txt"
    labels.write_text("".join(f"sign {i}\n" for i in range(CLASSES)))
    options = ["--labels", labels, "--input-size", "8", "--mean", "0.4,0.5,0.6", "--std", "0.25", "--out", out]
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "export", "--from-onnx", str(model), *map(str, options)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize("batch", ["N", 1, 2], ids=["dynamic batch", "one image", "two images"])
def test_a_bundle_without_torch(tmp_path: Path, batch: object) -> None:
    out = tmp_path / "bundle"
    finished = export(save(tmp_path, batch, side="s"), out)
    assert (finished.returncode, finished.stderr) == (0, "")
    bundle = open_bundle(out)
    assert bundle.labels == tuple(f"sign {i}" for i in range(CLASSES))
    assert bundle.manifest.variant is None
    assert bundle.manifest.gradient_parity is None
    assert bundle.manifest.input.std == (0.25, 0.25, 0.25)
    images = np.random.default_rng(1).standard_normal((3, 3, 8, 8), dtype=np.float32)
    explainer = Explainer(bundle, threads=1)
    explanation = explainer.explain(images, "ig", target=[0, 1, 3])
    assert explanation.logits.shape == (3, CLASSES)
    assert explanation.completeness_gap is not None
    assert explanation.valid.all()
    single = explainer.explain(images[1:2], "ig", target=1)
    assert np.allclose(single.attribution[0], explanation.attribution[1], atol=1e-5)


MIXING = [
    helper.make_node("Softmax", ["x"], ["s"], axis=0),
    helper.make_node("Conv", ["s", "k"], ["c"]),
    helper.make_node("GlobalAveragePool", ["c"], ["p"]),
    helper.make_node("Flatten", ["p"], ["y"]),
]
SWALLOWING = [
    helper.make_node("Conv", ["x", "k"], ["c"]),
    helper.make_node("GlobalAveragePool", ["c"], ["p"]),
    helper.make_node("Einsum", ["p"], ["y"], equation="abcd->b"),
]
WITHOUT_RULE = [
    helper.make_node("Conv", ["x", "k"], ["c"]),
    helper.make_node("Det", ["c"], ["d"]),
    helper.make_node("MatMul", ["d", "v"], ["y"]),
]


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (MIXING, "its images do not stay apart; export the model with a dynamic batch"),
        (SWALLOWING, "fixed to a batch of 1"),
        (WITHOUT_RULE, "1 operator(s) without gradient at opset 13: Det"),
    ],
    ids=["mixing", "no batch axis", "no gradient"],
)
def test_what_cannot_become_a_bundle(tmp_path: Path, nodes: list[onnx.NodeProto], message: str) -> None:
    out = tmp_path / "bundle"
    finished = export(save(tmp_path, 1, nodes), out)
    assert finished.returncode == 2
    (line,) = finished.stderr.splitlines()
    assert line.startswith("roadworthy: error: ")
    assert message in line
    assert not out.exists()
    assert [path.name for path in tmp_path.iterdir() if (path / MANIFEST).exists()] == []
