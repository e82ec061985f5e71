"""The whole job in minutes: train, prune four ways, export, audit in the device's own process, write the report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from rich.progress import Progress

from calibration.sampling import balanced_sample
from edge_runtime.errors import RoadworthyError
from edge_runtime.folders import new_folder
from toolkit import adversarial, data, pipeline, recipes, training
from toolkit.cli.progress import reading_report, training_report
from toolkit.data import Dataset
from toolkit.device_process import run_on_device
from toolkit.report.page import PAGE, write_files
from toolkit.report.results import collect

ARCHITECTURE = "vgg_small"
WIDTH = 1.0
RECIPE = "fast"
NATURAL = "natural"
ADVERSARIAL = "adversarial"
PRUNED = ("l1", "global", "layered", "channel")
# Enough for 97 % on the rendered signs; the recipe's own numbers are for more than a demonstration.
EPOCHS, FINE_TUNE_EPOCHS = 6, 1
# Enough for curves that rise above the noise, few enough for minutes on two cores.
AUDIT_IMAGES = 50
# Stages and calls of each bundle: a percentile needs many, an explanation of 50 sample points takes long.
BENCHMARKS = {("classify", "vg"): 300, ("ig", "sg"): 30}
SHOWN_IMAGES = 3
# A second thread gains little on a network of this size; where cores are shared it cost tenfold, in spinning.
THREADS = 1


class DemoStoppedError(RoadworthyError):
    """Ctrl-C during the demo."""

    exit_code = 130


@dataclass(frozen=True)
class DemoPlan:
    """Data set, seed, whether to train adversarially as well, and the Python of a device install (None: this one)."""

    spec: str
    seed: int = 0
    adversarial: bool = False
    edge_python: Path | None = None


@dataclass(frozen=True)
class Folders:
    """Where the demo keeps what."""

    root: Path

    def run(self, name: str) -> Path:
        return self.root / "runs" / name

    def bundle(self, name: str) -> Path:
        return self.root / "bundles" / name

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def images(self) -> Path:
        return self.root / "images"


def run(plan: DemoPlan, out: Path, progress: Progress, *, force: bool = False) -> Path:
    """Do the whole job in the folder ``out``, which appears when it is complete; return the report's path."""
    torch.set_num_threads(THREADS)
    try:
        with new_folder(out, marker=PAGE, force=force) as root:
            folders = Folders(root)
            dataset = load(plan, progress)
            names = make_runs(plan, dataset, folders, progress)
            audited = pipeline.Audited(dataset, AUDIT_IMAGES)
            for name in progress.track(names, description="exporting"):
                pipeline.export(folders.run(name), folders.bundle(name), audited)
            measure(plan, dataset, folders, names, progress)
            found = collect([folders.results])
            write_files(root, found.summaries, f"{dataset.name}: {ARCHITECTURE} and its pruned variants", found.notes)
    except (training.TrainingStoppedError, KeyboardInterrupt):
        raise DemoStoppedError(f"stopped; {out} is written only when everything is done") from None
    return out / PAGE


def load(plan: DemoPlan, progress: Progress) -> Dataset:
    report = reading_report(progress, f"reading {plan.spec}")
    return data.load(plan.spec, seed=plan.seed, progress=report)


def make_runs(plan: DemoPlan, dataset: Dataset, folders: Folders, progress: Progress) -> list[str]:
    """Train the natural variant, and make the others from it; return their names."""
    recipe = partial(recipes.preset, RECIPE, architecture=ARCHITECTURE, dataset=dataset.name)
    config = replace(recipe(), epochs=EPOCHS, seed=plan.seed)
    tune = replace(recipe(fine_tune=True), epochs=FINE_TUNE_EPOCHS)
    attacked = replace(config, adversarial=adversarial.preset("fast"))
    trainings = {NATURAL: config} | ({ADVERSARIAL: attacked} if plan.adversarial else {})
    for name, each in trainings.items():
        report = training_report(progress, f"training {name}")
        pipeline.train(dataset, folders.run(name), ARCHITECTURE, each, width=WIDTH, progress=report)
    for method in PRUNED:
        report = training_report(progress, f"fine-tuning {method}")
        pipeline.prune(
            folders.run(NATURAL),
            folders.run(method),
            pipeline.Pruning(method),
            dataset=dataset,
            fine_tune=tune,
            progress=report,
        )
    return [*trainings, *PRUNED]


def measure(plan: DemoPlan, dataset: Dataset, folders: Folders, names: list[str], progress: Progress) -> None:
    """Let the device's part verify, classify, explain and audit every bundle, and time all of them in alternation."""
    images = write_images(dataset, folders.images)
    python = plan.edge_python
    for name in progress.track(names, description="device: classify, explain, audit"):
        bundle, results = folders.bundle(name), folders.results / name
        run_on_device(["verify", bundle], python)
        options = ["--seed", str(plan.seed), "--examples", str(SHOWN_IMAGES), "--threads", str(THREADS)]
        run_on_device(["audit", bundle, "--out", results, *options], python)
        predictions = run_on_device(["classify", bundle, *images, "--json"], python)
        (results / "classify.json").write_text(predictions, encoding="utf-8")
        run_on_device(["explain", bundle, images[0], "--method", "ig", "--out", results / "explained.png"], python)
    bundles = [folders.bundle(name) for name in names]
    for stages, iterations in BENCHMARKS.items():
        task = progress.add_task(f"device: benchmark of {', '.join(stages)}, bundles in alternation", total=None)
        options = [*(part for stage in stages for part in ("--stage", stage)), "--iterations", str(iterations)]
        options += ["--cold-starts", "0", "--threads", str(THREADS)]
        out = folders.results / f"bench-{'-'.join(stages)}.json"
        run_on_device(["bench", *bundles, *options, "--out", out], python)
        progress.update(task, total=1, completed=1)


def write_images(dataset: Dataset, folder: Path) -> list[Path]:
    """Write a few held-out images as files, for commands that take files; return their paths."""
    split = dataset.held_out()
    folder.mkdir(parents=True)
    paths = []
    for index in balanced_sample(split.labels, SHOWN_IMAGES):
        paths.append(folder / f"{index}-class-{split.labels[index]}.png")
        Image.fromarray(split.images[index]).save(paths[-1])
    return paths
