"""Write a bundle: all that the vehicle needs, in one folder that appears whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx

from edge_runtime.audit import audit_bundle
from edge_runtime.bundle import AUDIT_SET, CLASSIFIER, EXPLAINER, GOLDEN, AuditSet, Bundle, open_bundle
from edge_runtime.errors import BundleError
from edge_runtime.folders import new_folder
from edge_runtime.manifest import (
    FORMAT_VERSION,
    FP32,
    MANIFEST,
    PRESETS,
    Baselines,
    DriftOptions,
    FileEntry,
    GradientParity,
    InputSpec,
    Manifest,
    ProviderName,
    RoadBaseline,
    Tolerance,
)
from edge_runtime.self_test import TOLERANCES
from edge_runtime.variant import Variant
from export import facts
from export.golden import golden_bytes, make_golden, npz_bytes
from export.gradients import build_explainer
from export.interface import check_fit

DEFAULT_PRESETS = "paper"
# Images of the golden set: enough for medians, few enough for a self-test of seconds on a vehicle.
GOLDEN_IMAGES = 8


@dataclass(frozen=True)
class Contents:
    """What a bundle holds beside the two graphs.

    ``golden_images``: normalised float32 [G,3,H,W], the self-test's inputs. ``audit_set``: labelled images for audits
    on the device; with ``baselines`` they are audited here too, for the vehicle to compare its figures with, as
    ``drift`` says.
    ``presets`` names the explainers' parameters, ``tolerances`` bounds the self-test by provider. ``variant`` and
    ``gradient_parity`` are None for a user's own ONNX file.
    """

    name: str
    input: InputSpec
    labels: tuple[str, ...]
    golden_images: npt.NDArray[np.float32]
    variant: Variant | None = None
    audit_set: AuditSet | None = None
    baselines: bool = True
    drift: DriftOptions = field(default_factory=DriftOptions)
    dataset_digest: str | None = None
    gradient_parity: GradientParity | None = None
    presets: str = DEFAULT_PRESETS
    tolerances: Mapping[ProviderName, Tolerance] = field(default_factory=lambda: TOLERANCES[FP32])


def write_bundle(
    out: str | os.PathLike[str], classifier: onnx.ModelProto, contents: Contents, *, force: bool = False
) -> Path:
    """Write the bundle folder ``out`` of ``classifier`` and return its path.

    The explainer is built from the classifier, the golden set's outputs are computed by the device runtime and
    cross-checked, and the finished folder is opened once as the vehicle will open it before it gets its name. Raises
    ExportError for a model that cannot be explained or does not fit labels and size, BundleError for an existing
    ``out`` without ``force``.
    """
    check_fit(classifier, contents.input, contents.labels)
    manifest = describe(classifier, contents)
    with new_folder(out, marker=MANIFEST, force=force, error=BundleError) as folder:
        (folder / CLASSIFIER).write_bytes(classifier.SerializeToString())
        (folder / EXPLAINER).write_bytes(build_explainer(classifier).SerializeToString())
        write_manifest(folder, manifest)
        golden = make_golden(open_bundle(folder), contents.golden_images)
        (folder / GOLDEN).write_bytes(golden_bytes(golden))
        if contents.audit_set is not None:
            (folder / AUDIT_SET).write_bytes(npz_bytes(**vars(contents.audit_set)))
        write_manifest(folder, manifest)
        if contents.audit_set is not None and contents.baselines:
            manifest = msgspec.structs.replace(manifest, baselines=measure_baselines(open_bundle(folder)))
            write_manifest(folder, manifest)
        finished = open_bundle(folder)
        finished.golden()
        if contents.audit_set is not None:
            finished.audit_set()
    return Path(out)


def describe(classifier: onnx.ModelProto, contents: Contents) -> Manifest:
    """Return the manifest, still without files."""
    counted = facts.count(classifier)
    return Manifest(
        format_version=FORMAT_VERSION,
        name=contents.name,
        labels=contents.labels,
        input=contents.input,
        files={},
        variant=contents.variant,
        explainers=PRESETS[contents.presets],
        drift=contents.drift,
        dataset_digest=contents.dataset_digest,
        macs=counted.macs,
        parameters=counted.parameters,
        nonzero_parameters=counted.nonzero_parameters,
        gradient_parity=contents.gradient_parity,
        tolerances={FP32: dict(contents.tolerances)},
        producer=f"roadworthy {metadata.version('roadworthy')}",
    )


def measure_baselines(bundle: Bundle) -> Baselines:
    """Audit ``bundle`` on its own audit set, as the vehicle will."""
    result = audit_bundle(bundle)
    ginis, roads = {}, {}
    for method, found in result.explainers.items():
        # An undefined value (a map of zeros) has no place in a distribution to compare with.
        ginis[method] = tuple(value for value in found.gini.values if value is not None)
        if found.road is not None:
            road = found.road
            roads[method] = RoadBaseline(percentages=road.percentages, morf=road.morf, lerf=road.lerf, areas=road.areas)
    assert result.confidence is not None
    confidence = tuple(value for value in result.confidence.values if value is not None)
    return Baselines(accuracy=result.accuracy, gini=ginis, road=roads, confidence=confidence)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` with size and SHA-256 of every file that lies in ``folder``."""
    entries = {}
    for path in sorted(folder.iterdir()):
        if path.name != MANIFEST:
            data = path.read_bytes()
            entries[path.name] = FileEntry(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    content = msgspec.json.encode(msgspec.structs.replace(manifest, files=entries))
    (folder / MANIFEST).write_bytes(msgspec.json.format(content, indent=2) + b"\n")
