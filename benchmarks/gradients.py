"""Input gradients inside onnxruntime against its own forward pass, PyTorch + Captum, and onnx-ad.

    python -m benchmarks.gradients            every model, every measure; records benchmarks/results/gradients.json
    python -m benchmarks.gradients vgg16@32   one model, printed only

All figures are medians of alternating runs in one process on the same cores; a ratio is the median of the ratios of the
rounds.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # for PyTorch, the same
import torch
from captum.attr import IntegratedGradients, NoiseTunnel, Saliency

from benchmarks.common import alternate, milliseconds, ratio, record
from edge_runtime.manifest import InputSpec
from edge_runtime.sessions import default_chunk
from export.gradients import add_input_gradient, build_explainer
from export.to_onnx import to_onnx
from toolkit import models

CLASSES = 43
MODELS = {
    "vgg16@32": ("vgg16", 32),
    "resnet18@32": ("resnet18", 32),
    "resnet18@224": ("resnet18", 224),
    "mobilenet_v3_large@224": ("mobilenet_v3_large", 224),
}
SAMPLES = 50
CAPTUM_BATCHES = (1, 5, 10, 25, 50)
Array = npt.NDArray[Any]


def session(model: onnx.ModelProto | str, threads: int) -> onnxruntime.InferenceSession:
    """Open a CPU session on ``threads`` threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Threads that spin after a run would take the cores from whoever is measured next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def static_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fix the batch at 1, as onnx-ad needs it."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in [*fixed.graph.input, *fixed.graph.output]:
        dim = value.type.tensor_type.shape.dim[0]
        dim.Clear()
        dim.dim_value = 1
    del fixed.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(fixed)


def onnx_ad_call(model: onnx.ModelProto, image: Array, target: int, threads: int) -> Callable[[], Array]:
    """Return a call of onnx-ad's gradient of one logit on the same engine."""
    import onnx_ad

    fixed = static_batch(model)
    peer = session(onnx_ad.reverse(fixed, layout="onnx"), threads)
    feeds: dict[str, Array] = {}
    for value in peer.get_inputs():
        if value.name == fixed.graph.input[0].name:
            feeds[value.name] = image
        else:
            seed = np.zeros([d if isinstance(d, int) else 1 for d in value.shape], np.float32)
            seed.reshape(-1, CLASSES if seed.size == CLASSES else seed.size)[0, target] = 1.0
            feeds[value.name] = seed
    outputs = [value.name for value in peer.get_outputs()]
    wanted = [name for name in outputs if name != fixed.graph.output[0].name]
    return lambda: peer.run(wanted, feeds)[0]


def gauss_legendre(samples: int) -> tuple[Array, Array]:
    """Return nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(samples)
    return ((nodes + 1) / 2).astype(np.float32), (weights / 2).astype(np.float32)


def path_feeds(image: Array, target: int, method: str) -> dict[str, Array]:
    """Return the explainer graph's inputs for 50 IG nodes from black or 50 SG samples."""
    rng = np.random.default_rng(0)
    zeros = np.zeros((SAMPLES, *image.shape[1:]), np.float32)
    if method == "ig":
        scale, weight, noise = *gauss_legendre(SAMPLES), zeros
    else:
        scale, weight = np.ones(SAMPLES, np.float32), np.full(SAMPLES, 1 / SAMPLES, np.float32)
        noise = (0.15 * rng.standard_normal(zeros.shape)).astype(np.float32)
    return {
        "image": image,
        "target": np.array([target]),
        "baseline": np.zeros_like(image),
        "scale": scale,
        "weight": weight,
        "noise": noise,
    }


def chunked(explainer: onnxruntime.InferenceSession, feeds: dict[str, Array], chunk: int) -> Callable[[], Array]:
    """Return a call that evaluates the path ``chunk`` points at a time."""

    def run() -> Array:
        total = np.zeros_like(feeds["image"])
        for start in range(0, SAMPLES, chunk):
            part = {k: v[start : start + chunk] if k in ("scale", "weight", "noise") else v for k, v in feeds.items()}
            total += explainer.run(["attribution"], part)[0]
        return total

    return run


def captum_calls(net: torch.nn.Module, image: torch.Tensor, target: int) -> dict[str, Callable[[], Any]]:
    """Return Captum's Saliency, and IG and SG at each internal batch size."""
    saliency, ig, sg = Saliency(net), IntegratedGradients(net), NoiseTunnel(Saliency(net))
    calls: dict[str, Callable[[], Any]] = {"vg": lambda: saliency.attribute(image.clone(), target=target, abs=False)}
    smooth = {"nt_type": "smoothgrad", "nt_samples": SAMPLES, "stdevs": 0.15, "abs": False}
    for size in CAPTUM_BATCHES:
        calls[f"ig/{size}"] = partial(ig.attribute, image, target=target, n_steps=SAMPLES, internal_batch_size=size)
        calls[f"sg/{size}"] = partial(sg.attribute, image.clone(), target=target, nt_samples_batch_size=size, **smooth)
    return calls


def best(calls: dict[str, Callable[[], Any]], method: str) -> str:
    """Return the name of Captum's fastest batch size for ``method``: the least of three warm, alternating calls."""
    candidates = {name: call for name, call in calls.items() if name.startswith(f"{method}/")}
    samples = alternate(candidates, warmup=1, repeats=3, seconds=0.0)
    return min(candidates, key=lambda name: min(samples[name]))


def measure(name: str, threads: int) -> dict[str, Any]:
    """Measure one model."""
    architecture, size = MODELS[name]
    net = models.build(architecture, CLASSES, input_size=size, seed=0).eval()
    classifier = to_onnx(net, input_size=(size, size))
    begin = time.perf_counter()
    graph = add_input_gradient(classifier)
    built = time.perf_counter() - begin
    explainer_model = build_explainer(classifier)
    image = np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)
    target = 1
    forward, gradient, explainer = (session(m, threads) for m in (classifier, graph, explainer_model))
    tensor = torch.from_numpy(image)
    captum = captum_calls(net, tensor, target)
    feeds = {"image": image, "target": np.array([target])}
    single = {
        "forward": lambda: forward.run(None, {"image": image}),
        "ours": lambda: gradient.run(None, feeds),
        "captum": captum["vg"],
    }
    row: dict[str, Any] = {"model": name, "build_s": round(built, 3)}
    try:
        single["onnx_ad"] = onnx_ad_call(classifier, image, target, threads)
        expected, found = gradient.run(None, feeds)[1], np.asarray(single["onnx_ad"]()).reshape(image.shape)
        row["onnx_ad_difference"] = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    except Exception as error:  # a peer that cannot differentiate this model is a result
        single.pop("onnx_ad", None)
        row["onnx_ad_error"] = f"{type(error).__name__}: {error}"[:200]
    times = alternate(single, warmup=10, repeats=200 if size == 32 else 60, seconds=12)
    row |= {f"{key}_ms": round(milliseconds(values), 3) for key, values in times.items()}
    row["vg_over_forward"] = round(ratio(times, "ours", "forward"), 3)
    row["captum_vg_over_ours"] = round(ratio(times, "captum", "ours"), 3)
    if "onnx_ad" in times:
        row["onnx_ad_over_ours"] = round(ratio(times, "onnx_ad", "ours"), 3)
    for method in ("ig", "sg"):
        chunk = default_chunk("cpu", InputSpec(height=size, width=size, mean=(0, 0, 0), std=(1, 1, 1)))
        peer = best(captum, method)
        runs = {"ours": chunked(explainer, path_feeds(image, target, method), chunk), "captum": captum[peer]}
        row[f"{method}_captum_batch"] = int(peer.partition("/")[2])
        times = alternate(runs, warmup=1, repeats=20, seconds=15)
        row |= {f"{method}_{key}_ms": round(milliseconds(values), 2) for key, values in times.items()}
        row[f"captum_{method}_over_ours"] = round(ratio(times, "captum", "ours"), 3)
    row["forward_profile_ms"] = profile(classifier, {"image": image})
    row["gradient_profile_ms"] = profile(graph, feeds)
    row["explainer_bytes_over_classifier"] = round(explainer_model.ByteSize() / classifier.ByteSize(), 4)
    return row


def profile(model: onnx.ModelProto, feeds: dict[str, Array], runs: int = 20) -> dict[str, float]:
    """Return milliseconds of one run by kind of node, on one thread: the sum of each node's fastest run.

    Kinds of the gradient graph name the forward operator under differentiation too: "Relu: Mul" is a Mul of a Relu's
    gradient. What onnxruntime itself adds, Reorder and Transpose, changes layouts.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        profiled = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for _ in range(runs):
            profiled.run(None, feeds)
        events = json.loads(Path(profiled.end_profiling()).read_text())
    fastest: dict[tuple[str, str], float] = {}
    for event in events:
        node, _, kind = event["name"].rpartition("_kernel")
        if event.get("cat") == "Node" and kind == "_time":
            key = (node, event["args"]["op_name"])
            fastest[key] = min(fastest.get(key, np.inf), event["dur"] / 1e3)
    total: dict[str, float] = {}
    for (node, operator), time_ms in fastest.items():
        layers = node.split("/")
        kind = f"{layers[1]}: {operator}" if layers[0] == "grad" and len(layers) > 2 else operator
        total[kind] = total.get(kind, 0.0) + time_ms
    return {kind: round(value, 3) for kind, value in sorted(total.items(), key=lambda item: -item[1])}


def build_time() -> dict[str, Any]:
    """Measure building the gradient graph of ResNet-50 at 224."""
    classifier = to_onnx(models.build("resnet50", CLASSES, input_size=224, seed=0), input_size=(224, 224))
    samples = alternate({"build": lambda: add_input_gradient(classifier)}, warmup=0, repeats=5)["build"]
    return {"model": "resnet50@224", "build_s": round(milliseconds(samples) / 1e3, 3)}


def main(names: list[str]) -> None:
    """Measure ``names``, or all and record."""
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    rows: list[dict[str, Any]] = []
    steps = [partial(measure, name, threads) for name in names or MODELS]
    for step in steps if names else [build_time, *steps]:
        rows.append(step())
        print(rows[-1], flush=True)
        if not names:
            record("gradients", rows, threads=threads)  # after each model: an interrupted run keeps what it has


if __name__ == "__main__":
    main(sys.argv[1:])
