"""What the walk cannot differentiate, and what is no classifier: one clear line each, with all findings in it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from edge_runtime.errors import ExportError, UnsupportedOperatorError
from export.gradients import add_input_gradient, build_explainer

IMAGE = ("x", TensorProto.FLOAT, ["N", 3, 4, 4])


def model(
    text: str,
    *,
    inputs: list[tuple[str, int, list[int | str | None] | None]] | None = None,
    opset: int = 17,
    output: str = "logits",
    **tensors: np.ndarray,
) -> onnx.ModelProto:
    """Return the graph of ``text`` with ``w`` [48, 4] and the given initializers."""
    nodes = [parser.parse_node(line.strip()) for line in text.strip().splitlines()]
    for node in nodes:
        node.name = f"{node.op_type.lower()}_{node.output[0]}"
    tensors = {"w": np.ones((48, 4), np.float32), **tensors}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*value) for value in inputs or [IMAGE]],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


LINEAR = "f = Flatten(x)\nlogits = Gemm(f, w)"


def without_nodes() -> onnx.ModelProto:
    m = model(LINEAR)
    del m.graph.node[:]
    return m


def with_functions() -> onnx.ModelProto:
    """Functions that call each other, as in the small models that keep a session busy for minutes."""
    m = model(LINEAR)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    m.opset_import.append(imports[1])
    inner = helper.make_function("own", "Inner", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], imports)
    call = helper.make_node("Inner", ["a"], ["b"], domain="own")
    m.functions.extend([inner, helper.make_function("own", "Outer", ["a"], ["b"], [call], imports)])
    m.graph.node[0].CopyFrom(helper.make_node("Outer", ["x"], ["f"], domain="own"))
    return m


def external(place: Callable[[onnx.ModelProto], TensorProto]) -> onnx.ModelProto:
    m = model(f"c = Constant<value=float[1]{{0.0}}>()\ny = Add(x, c)\n{LINEAR.replace('(x)', '(y)')}")
    tensor = place(m)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return m


def with_sparse_weights() -> onnx.ModelProto:
    m = model(LINEAR)
    values = numpy_helper.from_array(np.ones(1, np.float32), "sparse")
    m.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(np.zeros(1, np.int64)), [3])
    )
    return m


def body(text: str, inputs: list[str], output: str) -> onnx.GraphProto:
    nodes = [parser.parse_node(line) for line in text.splitlines()]
    return helper.make_graph(
        nodes,
        "body",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in map(str.split, inputs)],  # type: ignore[misc]
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
    )


def branch_on_the_image() -> onnx.ModelProto:
    m = model(
        "m = ReduceMax<keepdims=0>(x)\nc = Greater(m, zero)\nf = Flatten(x)\nlogits = Gemm(h, w)",
        zero=np.zeros((), np.float32),
    )
    node = helper.make_node("If", ["c"], ["h"], name="choice")
    node.attribute.append(helper.make_attribute("then_branch", body("a = Neg(f)", [], "a")))
    node.attribute.append(helper.make_attribute("else_branch", body("b = Abs(f)", [], "b")))
    m.graph.node.insert(3, node)
    return m


def loop_over_the_image() -> onnx.ModelProto:
    m = model("f = Flatten(x)\nlogits = Gemm(h, w)", n=np.array(3), go=np.array(True))
    inner = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Tanh", ["v"], ["u"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("d", TensorProto.BOOL, []),
            helper.make_tensor_value_info("u", TensorProto.FLOAT, None),
        ],
    )
    m.graph.node.insert(1, helper.make_node("Loop", ["n", "go", "f"], ["h"], name="again", body=inner))
    return m


SCALAR = np.zeros((), np.float32)
REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "nothing": (lambda: onnx.ModelProto(), "no nodes"),
    "no nodes": (without_nodes, "no nodes"),
    "two images": (
        lambda: model(LINEAR, inputs=[IMAGE, ("second", TensorProto.FLOAT, ["N", 3, 4, 4])]),
        "exactly one image input; it has 'x', 'second'",
    ),
    "no image": (lambda: model(LINEAR, x=np.ones((1, 3, 4, 4), np.float32)), "exactly one image input; it has none"),
    "integer image": (
        lambda: model(
            f"f32 = Cast<to=1>(x)\n{LINEAR.replace('(x)', '(f32)')}", inputs=[("x", TensorProto.UINT8, ["N", 3, 4, 4])]
        ),
        "not of a floating-point type",
    ),
    "open size": (
        lambda: model(LINEAR, inputs=[("x", TensorProto.FLOAT, ["N", 3, "h", "w"])]),
        r"shape \[N, 3, N, N\]|fixed C, H and W",
    ),
    "flat image": (
        lambda: model("logits = Gemm(x, w)", inputs=[("x", TensorProto.FLOAT, ["N", 48])]),
        r"\[N, C, H, W\]",
    ),
    "shapeless image": (lambda: model(LINEAR, inputs=[("x", TensorProto.FLOAT, None)]), r"\[N, C, H, W\]"),
    "feature map": (lambda: model("logits = Relu(x)"), r"shape \[N, 3, 4, 4\]; a classifier's logits are \[N, K\]"),
    "one number": (lambda: model("logits = ReduceSum<keepdims=0>(x)"), r"logits are \[N, K\]"),
    "no image input shape": (lambda: model(LINEAR, inputs=[("x", TensorProto.FLOAT, [])]), r"\[N, C, H, W\]"),
    "old opset": (lambda: model(LINEAR, opset=12), "opset 12; 13 or newer"),
    "unknown opset": (lambda: model(LINEAR, opset=999), "onnxruntime does not accept"),
    "functions": (with_functions, r"local functions \(Inner, Outer\)"),
    "external weights": (lambda: external(lambda m: m.graph.initializer[0]), "external file"),
    "external constant": (lambda: external(lambda m: m.graph.node[0].attribute[0].t), "external file"),
    "sparse weights": (with_sparse_weights, "sparse"),
    "unconnected": (
        lambda: model("f = Flatten(nowhere)\nlogits = Gemm(f, w)"),
        "onnxruntime does not accept|does not depend",
    ),
    "unknown operator": (lambda: model("g = Frobnicate(x)\nf = Flatten(g)\nlogits = Gemm(f, w)"), "Frobnicate"),
    "wrong sizes": (
        lambda: model("f = Flatten(x)\nlogits = Gemm(f, v)", v=np.ones((47, 4), np.float32)),
        "onnxruntime does not accept|does not run",
    ),
    "constant logits": (
        lambda: model("a = Identity(v)\nlogits = Neg(a)", v=np.ones((2, 4), np.float32)),
        "does not depend on input 'x'",
    ),
    "a branch": (branch_on_the_image, "If 'choice' is control flow"),
    "a loop": (loop_over_the_image, "Loop 'again' is control flow"),
    "a sequence": (
        lambda: model(
            "f = Flatten(x)\nl = Gemm(f, w)\ns = SequenceConstruct(l, l)\nlogits = ConcatFromSequence<axis=0>(s)"
        ),
        "SequenceConstruct 'sequenceconstruct_s' is .* sequence.*ConcatFromSequence",
    ),
    "a shape by value": (
        lambda: model(
            "f = Flatten(x)\nl = Gemm(f, w)\nn = NonZero(l)\nc = Cast<to=1>(n)\nt = Transpose(c)\n"
            "logits = MatMul(t, v)",
            v=np.ones((2, 4), np.float32),
        ),
        "NonZero 'nonzero_n' gives a tensor whose shape depends on the image",
    ),
    "training": (
        lambda: model(
            "d, mask = Dropout(x, ratio, mode)\nf = Flatten(d)\nlogits = Gemm(f, w)",
            ratio=np.array(0.5, np.float32),
            mode=np.array(True),
        ),
        "Dropout 'dropout_d' is in training mode",
    ),
    "no gradient": (
        lambda: model("s = Sign(x)\nf = Flatten(s)\nlogits = Gemm(f, w)"),
        r"zero everywhere.*Sign 'sign_s'",
    ),
    "rounded": (
        lambda: model("c = Cast<to=7>(x)\nd = Cast<to=1>(c)\nf = Flatten(d)\nlogits = Gemm(f, w)"),
        r"zero everywhere.*Cast 'cast_c'",
    ),
    "half precision inside": (
        lambda: model("c = Cast<to=10>(x)\nd = Cast<to=1>(c)\nf = Flatten(d)\nlogits = Gemm(f, w)"),
        "changes the floating-point type",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_one_clear_line(name: str) -> None:
    make, message = REFUSED[name]
    for build in (add_input_gradient, build_explainer):
        with pytest.raises(ExportError, match=message) as raised:
            build(make())
        assert "\n" not in str(raised.value)


def test_sequences_that_fold_are_none() -> None:
    """A list of shapes, as exporters make it for a reshape."""
    text = """
        s = Shape(x)
        n = Gather(s, first)
        q = SequenceConstruct(n, rest)
        shape = ConcatFromSequence<axis=0>(q)
        f = Reshape(x, shape)
        logits = Gemm(f, w)
    """
    m = model(text, first=np.array([0]), rest=np.array([48]))
    graph = add_input_gradient(m)
    assert {node.op_type for node in graph.graph.node}.isdisjoint({"SequenceConstruct", "ConcatFromSequence"})


def test_every_unsupported_operator_in_one_error() -> None:
    text = """
        a = Asin(x)
        b = Resize<mode="cubic">(a, , scales)
        c = Einsum<equation="nchw,nchw->nchw">(b, b)
        d = Einsum<equation="nchh->nch">(c)
        e = Relu(d)
        f = Flatten(e)
        g = Det(x)
        h = Concat<axis=1>(f, g)
        logits = Gemm(h, v)
    """
    m = model(text, scales=np.ones(4, np.float32) * np.array([1, 1, 2, 2], np.float32), v=np.ones((27, 4), np.float32))
    with pytest.raises(UnsupportedOperatorError) as raised:
        add_input_gradient(m)
    line = str(raised.value)
    assert line.startswith("4 operator(s) without gradient at opset 17: ")
    for part in (
        "Det 'det_g' (3 of 9 from 'logits'): no gradient rule",
        "Einsum 'einsum_d' (6 of 9 from 'logits'): equation 'nchh->nch' takes a diagonal",
        "Resize 'resize_b' (8 of 9 from 'logits'): mode 'cubic'",
        "Asin 'asin_a' (9 of 9 from 'logits'): no gradient rule",
        "Replace them in the model, or add a rule",
    ):
        assert part in line
    assert "\n" not in line


def test_a_custom_operator_is_named_with_its_domain() -> None:
    m = model("f = Flatten(x)\ng = BiasGelu(f, bias)\nlogits = Gemm(g, w)", bias=np.zeros(48, np.float32))
    m.graph.node[1].domain = "com.microsoft"
    m.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(UnsupportedOperatorError, match=r"BiasGelu 'biasgelu_g' \(2 of 3.*domain 'com.microsoft'"):
        add_input_gradient(m)


def test_weights_that_depend_on_the_image() -> None:
    text = """
        k = ReduceMean<axes=[0], keepdims=1>(v)
        c = Conv(x, k)
        m = GlobalAveragePool(x)
        s = Reshape(m, shape)
        d = Conv(s, x)
        f = Flatten(d)
        logits = Gemm(f, u)
    """
    m = model(
        text,
        inputs=[("x", TensorProto.FLOAT, [1, 3, 2, 2])],
        v=np.ones((2, 3, 1, 1), np.float32),
        shape=np.array([1, 3, 1, 1]),
        u=np.ones((9, 4), np.float32),
    )
    for attribute in (helper.make_attribute("pads", [1, 1, 1, 1]), helper.make_attribute("kernel_shape", [2, 2])):
        m.graph.node[4].attribute.append(attribute)
    m.graph.initializer[-1].CopyFrom(numpy_helper.from_array(np.ones((4, 4), np.float32), "u"))
    with pytest.raises(UnsupportedOperatorError, match=r"Conv 'conv_d'.*its input 'x' depends on the image"):
        add_input_gradient(m)


def test_reductions_over_the_batch() -> None:
    m = model("m = ReduceMean<axes=[0], keepdims=1>(x)\nd = Sub(x, m)\nf = Flatten(d)\nlogits = Gemm(f, w)")
    with pytest.raises(UnsupportedOperatorError, match=r"ReduceMean 'reducemean_m'.*keep the images of a batch apart"):
        add_input_gradient(m)


def test_batch_normalisation_in_training_mode() -> None:
    one = np.ones(3, np.float32)
    m = model(
        "b, mean, var = BatchNormalization<training_mode=1>(x, g, g, g, g)\nf = Flatten(b)\nlogits = Gemm(f, w)", g=one
    )
    with pytest.raises(UnsupportedOperatorError, match=r"BatchNormalization 'batchnormalization_b'.*training mode"):
        add_input_gradient(m)


def test_the_model_is_not_changed() -> None:
    m = model("d = Dropout(x)\ni = Identity(d)\nf = Flatten(i)\nlogits = Gemm(f, w)")
    before = m.SerializeToString()
    add_input_gradient(m)
    build_explainer(m)
    assert m.SerializeToString() == before
