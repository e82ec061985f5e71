"""One network of every torchvision family: half its channels removed, stored, loaded, made a bundle, explained.

    python -m benchmarks.families [FAMILY ...]    all, or some; each is recorded in benchmarks/results/families.json,
                                                  of which docs/pruning.md shows a table

No times are taken: what is asked is whether every step works, and what goes. Weights are random, for no step looks at
what they mean; batch norm's statistics are those of random images, without which the values of deep networks vanish.
Images are small.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import RESULTS, record
from edge_runtime.bundle import open_bundle
from edge_runtime.errors import RoadworthyError
from edge_runtime.explainer import Explainer
from edge_runtime.manifest import InputSpec
from edge_runtime.variant import Variant
from export.parity import random_images
from toolkit import evaluation, models, pipeline, pruning, runs
from toolkit.data import MEAN, STD
from toolkit.pruning import Pruning
from toolkit.pruning.families import PARTS
from toolkit.runs import RunInfo

# Family -> its smallest member, and the size of the images.
FAMILIES: dict[str, tuple[str, int]] = {
    "AlexNet": ("alexnet", 64),
    "VGG": ("vgg11_bn", 64),
    "ResNet": ("resnet18", 64),
    "ResNeXt": ("resnext50_32x4d", 64),
    "Wide ResNet": ("wide_resnet50_2", 64),
    "DenseNet": ("densenet121", 64),
    "SqueezeNet": ("squeezenet1_1", 64),
    "GoogLeNet": ("googlenet", 64),
    "Inception": ("inception_v3", 96),
    "MobileNetV2": ("mobilenet_v2", 64),
    "MobileNetV3": ("mobilenet_v3_small", 64),
    "MNASNet": ("mnasnet0_5", 64),
    "ShuffleNetV2": ("shufflenet_v2_x0_5", 64),
    "EfficientNet": ("efficientnet_b0", 64),
    "EfficientNetV2": ("efficientnet_v2_s", 64),
    "RegNet X": ("regnet_x_400mf", 64),
    "RegNet Y": ("regnet_y_400mf", 64),
    "ConvNeXt": ("convnext_tiny", 64),
    "ViT": ("vit_b_32", 64),
    "Swin": ("swin_t", 64),
    "Swin V2": ("swin_v2_t", 64),
    "MaxViT": ("maxvit_t", 224),
}
CLASSES = 10


def pruned_and_stored(architecture: str, size: int, folder: Path) -> tuple[torch.nn.Module, dict[str, float]]:
    """Prune half of the channels, write a run, and return the network read back with the shares that went.

    Raises InputError where the family cannot be pruned, AssertionError where the run says something else.
    """
    variant = Variant(dataset="none", architecture=architecture, input_size=size, pruning="channel", amount=0.5)
    spec = InputSpec(height=size, width=size, mean=MEAN, std=STD)
    labels = tuple(f"class {index}" for index in range(CLASSES))
    info = RunInfo(variant=variant, input=spec, labels=labels, dataset_digest="0" * 64)
    original = models.build(architecture, CLASSES, input_size=size)
    settle(original, size)
    done = pruning.apply(original, Pruning("channel"), input_size=size)
    settle(done.model, size)
    images = torch.from_numpy(random_images(2, (size, size)))
    with torch.inference_mode():
        expected = done.model.eval()(images)
        runs.save(folder / architecture, done.model, info)
        loaded, _ = runs.load(folder / architecture)
        assert torch.equal(loaded(images), expected), "the run differs from what was stored"
    before, after = evaluation.count(original, size), evaluation.count(loaded, size)
    assert after.macs < before.macs and after.parameters < before.parameters
    return loaded, done.removed


def settle(model: torch.nn.Module, size: int) -> None:
    """Take the statistics of batch norm from random images, as (fine-)tuning would."""
    model.train()
    with torch.no_grad():
        for seed in range(8):
            model(torch.from_numpy(random_images(8, (size, size), seed)))
    model.eval()


def exported(run: Path, size: int) -> float:
    """Make a bundle of ``run``, verified like any other, and explain an image with it.

    Returns the largest gradient difference that flipped units do not explain. Raises ExportError.
    """
    bundle = open_bundle(pipeline.export(run, run.with_name("bundle")))
    explanation = Explainer(bundle).explain(random_images(1, (size, size)), method="vg")
    assert np.isfinite(explanation.attribution).all()
    parity = bundle.manifest.gradient_parity
    assert parity is not None
    return parity.residual


def row(family: str) -> dict[str, Any]:
    """Return what became of one family; the error's first line where it does not work."""
    architecture, size = FAMILIES[family]
    model_type = type(models.build(architecture, CLASSES, input_size=size))
    found: dict[str, Any] = {"family": family, "network": architecture, "pixels": size}
    with tempfile.TemporaryDirectory() as folder:
        try:
            _, removed = pruned_and_stored(architecture, size, Path(folder))
            residual = exported(Path(folder) / architecture, size)
        except RoadworthyError as error:
            return {**found, "works": False, "reason": str(error).splitlines()[0]}
    assert np.isfinite(residual)
    return {**found, "works": True, "in_parts": model_type in PARTS, "removed": removed, "gradient_residual": residual}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table of docs/pruning.md."""
    lines = ["| family | network | parameters | MACs | |", "| --- | --- | --- | --- | --- |"]
    for each in rows:
        start = f"| {each['family']} | `{each['network']}` |"
        if not each["works"]:
            lines.append(f"{start} | | {each['reason']} |")
            continue
        gone = [f"{-each['removed'][what]:.0%}".replace("-", "−") for what in ("parameters", "macs")]
        lines.append(f"{start} {gone[0]} | {gone[1]} | {'in parts' if each['in_parts'] else ''} |")
    return "\n".join(lines)


def recorded() -> list[dict[str, Any]]:
    """Return the rows that are recorded, in the order of the families."""
    path = RESULTS / "families.json"
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    return sorted(rows, key=lambda each: list(FAMILIES).index(each["family"]))


def main() -> None:
    for family in sys.argv[1:] or FAMILIES:
        found = row(family)
        print(table([found]).splitlines()[-1], flush=True)
        record("families", [*(each for each in recorded() if each["family"] != family), found])
    record("families", recorded())


if __name__ == "__main__":
    main()
