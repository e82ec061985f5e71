"""Find the results of audits and benchmarks in files and folders, and join those of the same bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from edge_runtime.audit import AuditResult, Distribution, RoadAudit
from edge_runtime.benchmark import BenchmarkResult, Measurement
from edge_runtime.bundle import CLASSIFIER, load_arrays, precision_file
from edge_runtime.device_identity import DeviceIdentity
from edge_runtime.errors import DataError
from edge_runtime.examples import from_arrays
from edge_runtime.manifest import FP32, MANIFEST, Manifest
from toolkit.report.summary import Estimate, Examples, Latency, RoadCurves, Summary

EXAMPLES = "examples.npz"
# What tells one kind of JSON file from another: a key that only it has.
KINDS: dict[str, type[AuditResult] | type[BenchmarkResult]] = {
    "explainers": AuditResult,
    "measurements": BenchmarkResult,
}
# 95 % of a normal distribution lie within so many standard deviations.
NORMAL_95 = 1.96


@dataclass
class Found:
    """All results of one bundle in one precision, by its digest."""

    digest: str
    precision: str = FP32
    names: list[str] = field(default_factory=list)
    audit: AuditResult | None = None
    folder: Path | None = None
    measurements: dict[str, Measurement] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """Summaries in the order found, and notes (heading, text) on how they were measured."""

    summaries: list[Summary]
    notes: list[tuple[str, str]]


def collect(paths: Sequence[Path], *, required: bool = True) -> Results:
    """Read every result in ``paths`` (files, or folders with all that is below them).

    Raises DataError where a path does not exist, a named file is no result, a result is damaged, or nothing is found
    where something is ``required``.
    """
    found: dict[tuple[str, str], Found] = {}
    audits, benchmarks = [], []
    for path, named in result_files(paths):
        result = read_result(path, named)
        if isinstance(result, AuditResult):
            key = result.digest, result.options.precision
            bundle = found.setdefault(key, Found(*key))
            bundle.names.insert(0, result.bundle)
            bundle.audit, bundle.folder = result, path.parent
            audits.append(result)
        elif isinstance(result, BenchmarkResult):
            for name in result.bundles:
                key = subject_of(result, name)
                bundle = found.setdefault(key, Found(*key))
                bundle.names.append(name.removesuffix(f" {bundle.precision}"))
                bundle.measurements |= {m.stage: m for m in result.measurements if m.bundle == name and m.batch == 1}
            benchmarks.append(result)
    if not found and required:
        where = ", ".join(map(str, paths))
        raise DataError(f"no results in {where}; `roadworthy audit --out` and `roadworthy bench --out` make them")
    names = short_names(list(found.values()))
    return Results(
        [summarize(bundle, name) for bundle, name in zip(found.values(), names, strict=True)],
        describe(audits, benchmarks, dict(zip(found, names, strict=True))),
    )


def result_files(paths: Iterable[Path]) -> list[tuple[Path, bool]]:
    """Return the JSON files to look at, and whether the user named them."""
    files: list[tuple[Path, bool]] = []
    for path in paths:
        if path.is_dir():
            files += [(file, False) for file in sorted(path.rglob("*.json"))]
        elif path.is_file():
            files.append((path, True))
        else:
            raise DataError(f"{path} does not exist; name a result of `roadworthy audit` or `roadworthy bench`")
    return files


def read_result(path: Path, named: bool) -> AuditResult | BenchmarkResult | None:
    """Return the result in ``path``, or None where a file that nobody named is something else."""
    data = path.read_bytes()
    try:
        keys = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if named:
            raise DataError(f"{path} is not JSON ({error}); name a result of audit or bench") from error
        return None
    kind = next((kind for key, kind in KINDS.items() if key in keys and "format" in keys), None)
    if kind is None:
        if named:
            raise DataError(f"{path} is no result of `roadworthy audit` or `roadworthy bench`")
        return None
    try:
        result: AuditResult | BenchmarkResult = msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise DataError(f"{path} is not a result that this version reads ({error}); measure again") from error
    return result


def summarize(bundle: Found, name: str) -> Summary:
    """Turn the results of one bundle into what the report shows."""
    manifest = read_manifest(bundle)
    latency = {stage: m.latency for stage, m in bundle.measurements.items()}
    audit = bundle.audit
    if audit is not None:
        # The benchmark alternates between bundles, the audit does not: its own times stand in where there is none.
        latency = audit.latency | latency
    explainers = audit.explainers if audit is not None else {}
    return Summary(
        name=name,
        digest=bundle.digest,
        size=manifest.files[precision_file(CLASSIFIER, bundle.precision)].size if manifest else None,
        macs=manifest.macs if manifest else None,
        parameters=manifest.parameters if manifest else None,
        nonzero_parameters=manifest.nonzero_parameters if manifest else None,
        accuracy=proportion(audit.accuracy, audit.images) if audit is not None else None,
        audited=audit.images if audit is not None else 0,
        latency={stage: Latency(value.p50, value.p95, value.p99) for stage, value in latency.items()},
        gini={method: mean(found.gini) for method, found in explainers.items()},
        gradient_norm={method: mean(found.gradient_norm) for method, found in explainers.items()},
        road={method: curves(found.road) for method, found in explainers.items() if found.road is not None},
        examples=read_examples(bundle, manifest),
    )


def read_manifest(bundle: Found) -> Manifest | None:
    """Return the manifest beside the audit, if it is the audited bundle's."""
    path = bundle.folder / MANIFEST if bundle.folder else None
    if path is None or not path.is_file():
        return None
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != bundle.digest:
        raise DataError(f"{path} is not the manifest of the bundle that was audited; audit again")
    return msgspec.json.decode(data, type=Manifest)


def read_examples(bundle: Found, manifest: Manifest | None) -> Examples | None:
    """Return the images beside the audit with their explanations, if there are any."""
    path = bundle.folder / EXAMPLES if bundle.folder else None
    if path is None or manifest is None or bundle.audit is None or not path.is_file():
        return None
    examples = from_arrays(load_arrays(path.read_bytes(), str(path), DataError), list(bundle.audit.explainers))
    if examples is None:
        raise DataError(f"{path} does not hold the examples of an audit; audit again")
    labels = (*manifest.labels, "?")  # class -1 is unknown
    return Examples(
        images=examples.images,
        saliency=examples.saliency,
        labels=tuple(labels[index] for index in examples.labels),
        predicted=tuple(labels[index] for index in examples.predicted),
    )


def short_names(bundles: Sequence[Found]) -> list[str]:
    """Return a name for each bundle: its variant's label where that tells them apart, else the bundle's own name.

    A precision other than FP32 is part of the name.
    """
    labels = [
        bundle.audit.variant.label if bundle.audit and bundle.audit.variant else bundle.names[0] for bundle in bundles
    ]
    choices = (labels, [bundle.names[0] for bundle in bundles])
    for names in choices:
        labels = [with_precision(name, bundle) for name, bundle in zip(names, bundles, strict=True)]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{name} {bundle.digest[:6]}" for name, bundle in zip(labels, bundles, strict=True)]


def with_precision(name: str, bundle: Found) -> str:
    return name if bundle.precision == FP32 else f"{name}, {bundle.precision.upper()}"


def curves(road: RoadAudit) -> RoadCurves:
    return RoadCurves(road.percentages, road.morf, road.lerf, road.morf_auc, road.lerf_auc)


def mean(distribution: Distribution) -> Estimate:
    """Return the mean of the defined values with the normal 95 % interval of a mean."""
    values = np.array([value for value in distribution.values if value is not None])
    if len(values) < 2:
        return Estimate(distribution.mean if distribution.mean is not None else float("nan"))
    half = NORMAL_95 * float(values.std(ddof=1)) / len(values) ** 0.5
    centre = float(values.mean())
    return Estimate(centre, centre - half, centre + half)


def proportion(share: float | None, count: int) -> Estimate | None:
    """Return a share of ``count`` images with Wilson's 95 % interval."""
    if share is None:
        return None
    z = NORMAL_95**2 / count
    centre = (share + z / 2) / (1 + z)
    half = NORMAL_95 / (1 + z) * (share * (1 - share) / count + z / (4 * count)) ** 0.5
    return Estimate(share, centre - half, centre + half)


def device_line(device: DeviceIdentity) -> str:
    """Return what a reader needs to tell devices apart, without the details of the kernel."""
    memory = f"{device.memory_bytes / 2**30:.0f} GiB" if device.memory_bytes else None
    cores = f"{device.cores} cores" if device.cores else None
    return ", ".join(filter(None, (device.board, device.cpu_model, cores, memory, device.gpu))) or "unknown"


def subject_of(result: BenchmarkResult, name: str) -> tuple[str, str]:
    """Return digest and precision of what a benchmark calls ``name``."""
    return result.bundles[name], result.precisions.get(name, FP32)


def describe(
    audits: Sequence[AuditResult], benchmarks: Sequence[BenchmarkResult], names: dict[tuple[str, str], str]
) -> list[tuple[str, str]]:
    """Return the notes on how the figures came about; what differs between results is listed with all its values.

    ``names`` maps bundle digests and precisions to the names that the report uses.
    """
    rows: list[tuple[str, str]] = []
    for result in benchmarks:
        rows.append(("device", device_line(result.device)))
        calls = max((m.latency.count for m in result.measurements), default=0)
        stages = ", ".join(result.options.stages)
        where = f"{result.options.provider}, threads: {result.options.threads or 'all'}"
        rows.append(("latency", f"{calls} calls of {stages}, bundles in alternation, on {where}"))
        for stage in result.options.stages:
            moved = [m for m in result.measurements if m.stage == stage and m.steady is False]
            if moved:
                which = ", ".join(dict.fromkeys(names[subject_of(result, m.bundle)] for m in moved))
                rows.append(("not steady", f"{stage} of {which}, for instance: {moved[0].moved[0]}"))
    for audit in audits:
        rows.append(("images", f"{audit.images} ({audit.source})"))
        for method, found in audit.explainers.items():
            preset = found.preset
            text = f"{preset.samples} samples, channels by {preset.reduction}"
            rows.append((f"explainer {method}", f"{text}, sigma {preset.sigma:g}" if preset.sigma else text))
            if found.road is not None:
                rows.append(("ROAD", f"{found.road.measure} on images that are classified {audit.options.road_images}"))
    for software in [result.software for result in audits] + [result.software for result in benchmarks]:
        rows.append(("software", ", ".join(f"{name} {version}" for name, version in software.items())))
    merged: dict[str, list[str]] = {}
    for heading, text in rows:
        texts = merged.setdefault(heading, [])
        if text not in texts:
            texts.append(text)
    return [(heading, "; ".join(texts)) for heading, texts in merged.items()]
