"""Training and explaining on this machine's device: does the data keep up, and what does each way of computing bring?

    python -m benchmarks.training            everything; records benchmarks/results/training_cpu.json (or _cuda)
    python -m benchmarks.training --quick    a few steps of the small network, printed only

All runs of a comparison alternate in one process; a ratio is the median of the ratios of the rounds. "loop" is
training as it is: batches from the data set, shuffled, moved, normalised. "synthetic" is the same loop on one batch
that is ready on the device. Networks are on random images: no figure here depends on what they show.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from typing import Any
from unittest import mock

import numpy as np

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads would take the cores from the next
import torch
from captum.attr import IntegratedGradients, NoiseTunnel, Saliency

from benchmarks.common import alternate, ratio, record
from edge_runtime.manifest import PRESETS, InputSpec
from toolkit import adversarial, evaluation, models, recipes
from toolkit.data import MEAN, STD, Split
from toolkit.data.loader import place
from toolkit.distributed import Group
from toolkit.recipes import TrainConfig
from toolkit.steps import Batch, Network, gradients
from toolkit.training import batches

CLASSES = 43
ARCHITECTURES = ("vgg16", "resnet18", "vgg_small")
SPEC = InputSpec(height=32, width=32, mean=MEAN, std=STD)
PLAIN = TrainConfig(amp=(), channels_last=(), compile="never")
KINDS = recipes.KINDS
CONFIGS: dict[str, TrainConfig] = {
    "float32": PLAIN,
    "channels_last": replace(PLAIN, channels_last=KINDS),
    "amp": replace(PLAIN, amp=KINDS),
    "amp+channels_last": replace(PLAIN, amp=KINDS, channels_last=KINDS),
    "amp+channels_last+compile": replace(PLAIN, amp=KINDS, channels_last=KINDS, compile="always"),
}
CAPTUM_BATCHES = (8, 32, 64, 128, 256, 1024, 4096)
"""Sample points together; those larger than all points of a call are left out."""


@dataclass(frozen=True)
class Size:
    """How much of everything: images of a step, steps of a run, steps of an attack, images explained per architecture,
    and seconds for a comparison."""

    batch: int
    steps: int
    attack: int
    explained: Mapping[str, int]
    seconds: float


SIZES = {
    "cpu": Size(batch=64, steps=4, attack=5, explained={"vgg_small": 64, "vgg16": 4}, seconds=15),
    "cuda": Size(batch=128, steps=40, attack=40, explained={"vgg_small": 256, "vgg16": 64}, seconds=12),
}
QUICK = Size(batch=8, steps=2, attack=1, explained={"vgg_small": 2}, seconds=0)


@dataclass(frozen=True)
class Trainer:
    """A network, its optimiser, and images to train it on."""

    network: Network
    optimizer: torch.optim.Optimizer
    data: Any

    def epoch(self) -> Iterable[Batch]:
        return batches(self.data, self.network.config, SPEC, 0, Group())

    def take(self, given: Iterable[Batch]) -> None:
        """Take the steps that training takes on ``given``, and wait for the device."""
        generator = torch.Generator().manual_seed(0)
        total = torch.zeros(2, dtype=torch.float64, device=self.network.device)
        for batch in given:
            total += gradients(self.network, batch, generator)
            self.optimizer.step()
        assert bool(total.isfinite().all())


def trainer(architecture: str, config: TrainConfig, size: Size, device: torch.device) -> Trainer:
    config = replace(config, batch=size.batch, learning_rate=1e-3)
    layout = torch.channels_last if device.type in config.channels_last else torch.contiguous_format
    model = models.build(architecture, CLASSES, seed=0).to(device).to(memory_format=layout)
    network = Network(model, config, SPEC)
    if config.compile == "always":
        network.compiled = torch.compile(model, dynamic=False)
    optimizer = recipes.OPTIMIZERS[config.optimizer](model.parameters(), config)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (size.batch * size.steps, 32, 32, 3), np.uint8)
    labels = rng.integers(0, CLASSES, len(images))
    return Trainer(network, optimizer, place(Split(images, labels), device))


def rates(samples: Mapping[str, list[float]], images: int) -> dict[str, float]:
    """Return images a second by name, from the median."""
    return {name: round(images / statistics.median(values), 1) for name, values in samples.items()}


def feeding(architecture: str, size: Size, device: torch.device) -> dict[str, Any]:
    """Compare the loop, with and without augmentation, with a batch that is ready."""
    best = CONFIGS["amp+channels_last" if device.type == "cuda" else "channels_last"]
    own = {name: trainer(architecture, replace(best, augmentation=name), size, device) for name in ("none", "light")}
    ready = next(iter(own["none"].epoch()))
    runs: dict[str, Callable[[], None]] = {
        "synthetic": lambda: own["none"].take(repeat(ready, size.steps)),
        "loop": lambda: own["none"].take(own["none"].epoch()),
        "loop_augmented": lambda: own["light"].take(own["light"].epoch()),
    }
    samples = alternate(runs, warmup=2, repeats=30, seconds=size.seconds)
    return {
        "images_per_second": rates(samples, size.batch * size.steps),
        "loop_over_synthetic": round(ratio(samples, "synthetic", "loop"), 3),
        "augmented_over_synthetic": round(ratio(samples, "synthetic", "loop_augmented"), 3),
    }


def ways(architecture: str, size: Size, device: torch.device, names: Iterable[str]) -> dict[str, Any]:
    """Compare the ways of computing a step on one batch."""
    runs: dict[str, Callable[[], None]] = {}
    for name in names:
        own = trainer(architecture, CONFIGS[name], size, device)
        runs[name] = partial(_repeated, own, next(iter(own.epoch())), size.steps)
    samples = alternate(runs, warmup=2, repeats=30, seconds=size.seconds)
    return {
        "images_per_second": rates(samples, size.batch * size.steps),
        "over_float32": {name: round(ratio(samples, "float32", name), 3) for name in runs if name != "float32"},
    }


def _repeated(own: Trainer, batch: Batch, steps: int) -> None:
    own.take(repeat(batch, steps))


def attacked(architecture: str, size: Size, device: torch.device) -> dict[str, Any]:
    """Measure adversarial training, and what freezing the parameters during the attack saves."""
    attack = replace(adversarial.preset("paper"), steps=size.attack)
    way = CONFIGS["amp+channels_last" if device.type == "cuda" else "channels_last"]
    own = trainer(architecture, replace(way, adversarial=attack), size, device)
    batch = next(iter(own.epoch()))

    def unfrozen() -> None:
        with mock.patch.object(adversarial, "frozen", lambda model: contextlib.nullcontext()):
            own.take([batch])

    samples = alternate({"frozen": lambda: own.take([batch]), "unfrozen": unfrozen}, repeats=8, seconds=size.seconds)
    return {
        "attack_steps": size.attack,
        "images_per_second": rates(samples, size.batch),
        "frozen_over_unfrozen": round(ratio(samples, "unfrozen", "frozen"), 3),
    }


def explaining(architecture: str, size: Size, device: torch.device) -> dict[str, Any]:
    """Compare the study's explanations with plain Captum at its best batch size, searched warm among candidates."""
    model = models.build(architecture, CLASSES, seed=0).to(device).eval()
    count = size.explained[architecture]
    images = np.random.default_rng(0).standard_normal((count, 3, 32, 32)).astype(np.float32)
    target = np.zeros(count, np.int64)
    row: dict[str, Any] = {"images": count}
    for method in ("ig", "sg"):
        preset = PRESETS["paper"][method]
        plain = PLAIN_CAPTUM[method](model, torch.from_numpy(images).to(device), preset)
        candidates = {each: partial(plain, each) for each in CAPTUM_BATCHES if each <= count * preset.samples}
        searched = alternate(
            {str(key): call for key, call in candidates.items()}, warmup=1, repeats=3, seconds=size.seconds / 2
        )
        best = min(candidates, key=lambda key: min(searched[str(key)]))
        runs: dict[str, Callable[[], Any]] = {
            "ours": partial(evaluation.captum_explain, model, images, preset, target, SPEC),
            "captum": candidates[best],
        }
        samples = alternate(runs, warmup=1, repeats=15, seconds=size.seconds)
        row[method] = {
            "samples": preset.samples,
            "captum_batch": best,
            "images_per_second": rates(samples, count),
            "over_captum": round(ratio(samples, "captum", "ours"), 3),
        }
    return row


def _plain_ig(model: torch.nn.Module, images: torch.Tensor, preset: Any) -> Callable[[int], Any]:
    explainer = IntegratedGradients(model)

    def call(size: int) -> Any:
        return explainer.attribute(images, target=0, n_steps=preset.samples, internal_batch_size=size).cpu()

    return call


def _plain_sg(model: torch.nn.Module, images: torch.Tensor, preset: Any) -> Callable[[int], Any]:
    explainer = NoiseTunnel(Saliency(model))

    def call(size: int) -> Any:
        # Captum counts noisy copies of all images; fewer images than a batch holds are given one by one.
        together = max(1, size // len(images))
        parts = images.split(max(1, min(size, len(images))))
        options = {"nt_samples": preset.samples, "nt_samples_batch_size": together, "stdevs": preset.sigma}
        return [explainer.attribute(part, target=0, nt_type="smoothgrad", abs=False, **options).cpu() for part in parts]

    return call


PLAIN_CAPTUM = {"ig": _plain_ig, "sg": _plain_sg}


def main(arguments: list[str]) -> None:
    """Measure and, unless --quick, record."""
    quick = "--quick" in arguments
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = QUICK if quick else SIZES[device.type]
    names = [name for name in CONFIGS if "compile" not in name or device.type == "cuda"]
    rows: list[dict[str, Any]] = []
    for architecture in ARCHITECTURES[-1:] if quick else ARCHITECTURES:
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "feeding": partial(feeding, architecture, size, device),
            "ways": partial(ways, architecture, size, device, names),
            "adversarial": partial(attacked, architecture, size, device),
        }
        if architecture in size.explained:
            parts["explaining"] = partial(explaining, architecture, size, device)
        row: dict[str, Any] = {"architecture": architecture, "batch": size.batch}
        rows.append(row)
        for name, part in parts.items():
            started = time.perf_counter()
            row[name] = part()
            print(f"{architecture} {name}: {row[name]} ({time.perf_counter() - started:.0f} s)", flush=True)
            if not quick:
                record(f"training_{device.type}", rows, threads=threads, attack="PGD, steps of eps/10")


if __name__ == "__main__":
    main(sys.argv[1:])
