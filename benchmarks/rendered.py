"""How hard the rendered signs are: what a linear model and a small VGG reach on their test images.

Both learn from the same 6,000 images. The linear model is softmax regression on the normalised pixels, the best of
several weight penalties *on the test images*, so that its figure errs on the high side.

    python -m benchmarks.rendered
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common import record
from edge_runtime.preprocess import normalize
from edge_runtime.variant import Variant
from toolkit import evaluation, training
from toolkit.data import Dataset, Split, load
from toolkit.recipes import TrainConfig
from toolkit.training import input_spec

PENALTIES = (0.0, 1e-4, 3e-4, 1e-3, 1e-2)
LINEAR_EPOCHS = 30
VGG = Variant(dataset="rendered", architecture="vgg_small")
VGG_CONFIG = TrainConfig(epochs=5, batch=64, learning_rate=0.03, schedule="one-cycle", device="cpu")


def linear_accuracy(dataset: Dataset, penalty: float | None = None) -> float:
    """Return the test accuracy of softmax regression with a squared ``penalty``; None takes the best of PENALTIES."""
    if penalty is None:
        return max(linear_accuracy(dataset, choice) for choice in PENALTIES)
    torch.manual_seed(0)
    pixels, labels = flat(dataset, dataset.train)
    model = nn.Linear(pixels.shape[1], len(dataset.labels))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(LINEAR_EPOCHS):
        for batch in torch.randperm(len(pixels)).split(128):
            loss = F.cross_entropy(model(pixels[batch]), labels[batch]) + penalty * model.weight.square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    pixels, labels = flat(dataset, dataset.test)
    return float((model(pixels).argmax(1) == labels).float().mean())


def flat(dataset: Dataset, split: Split) -> tuple[Tensor, Tensor]:
    pixels = torch.from_numpy(normalize(split.images, input_spec(dataset)))
    return pixels.flatten(1), torch.from_numpy(split.labels)


def vgg_accuracy(dataset: Dataset) -> float:
    """Return the test accuracy of the small VGG after five epochs without augmentation."""
    with tempfile.TemporaryDirectory() as folder:
        model = training.train(dataset, Path(folder) / "run", VGG_CONFIG, VGG).model
    predicted = evaluation.predict(model, dataset.test.images, input_spec(dataset)).argmax(axis=1)
    return float(np.mean(predicted == dataset.test.labels))


def main() -> None:
    torch.set_num_threads(1)  # more are slower where the cores are shared
    start = time.process_time()  # CPU time: neighbours on the same cores do not count
    dataset = load("rendered")
    drawing = time.process_time() - start
    rows = [
        {"model": f"softmax regression, penalty {penalty:g}", "test_accuracy": linear_accuracy(dataset, penalty)}
        for penalty in PENALTIES
    ]
    start = time.process_time()
    rows.append({"model": f"{VGG.architecture}, {VGG_CONFIG.epochs} epochs", "test_accuracy": vgg_accuracy(dataset)})
    spent = time.process_time() - start
    sizes = {"train": len(dataset.train), "validation": len(dataset.validation), "test": len(dataset.test)}
    context = {"images": sizes, "classes": len(dataset.labels), "digest": dataset.digest}
    print(record("rendered", rows, **context, drawing_cpu_seconds=drawing, vgg_cpu_seconds=spent))


if __name__ == "__main__":
    main()
