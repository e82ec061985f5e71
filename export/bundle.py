"""Write a bundle: all that the vehicle needs, in one folder that appears whole or not at all."""

from __future__ import annotations

import hashlib
import os
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx

from edge_runtime.bundle import AUDIT_SET, CLASSIFIER, EXPLAINER, GOLDEN, AuditSet, open_bundle
from edge_runtime.errors import BundleError
from edge_runtime.folders import new_folder
from edge_runtime.manifest import FORMAT_VERSION, MANIFEST, PRESETS, FileEntry, InputSpec, Manifest
from edge_runtime.variant import Variant
from export import facts
from export.golden import golden_bytes, make_golden, npz_bytes
from export.gradients import build_explainer
from export.interface import check_fit

DEFAULT_PRESETS = "paper"


def write_bundle(
    out: str | os.PathLike[str],
    classifier: onnx.ModelProto,
    *,
    name: str,
    input: InputSpec,
    labels: tuple[str, ...],
    golden_images: npt.NDArray[np.float32],
    variant: Variant | None = None,
    audit_set: AuditSet | None = None,
    dataset_digest: str | None = None,
    presets: str = DEFAULT_PRESETS,
    force: bool = False,
) -> Path:
    """Write the bundle folder ``out`` of ``classifier`` and return its path.

    ``golden_images``: normalised float32 [G,3,H,W], the self-test's inputs. ``audit_set``: labelled images for the
    audit on the device. The explainer is built from the classifier, the expected outputs are computed by the device
    runtime and cross-checked, and the finished folder is opened once as the vehicle will open it before it gets its
    name. Raises ExportError for a model that cannot be explained or does not fit labels and size, BundleError for an
    existing ``out`` without ``force``.
    """
    target = Path(out)
    counted = facts.count(classifier)
    check_fit(classifier, input, labels)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        labels=labels,
        input=input,
        files={},
        variant=variant,
        explainers=PRESETS[presets],
        dataset_digest=dataset_digest,
        macs=counted.macs,
        parameters=counted.parameters,
        nonzero_parameters=counted.nonzero_parameters,
        producer=f"roadworthy {metadata.version('roadworthy')}",
    )
    with new_folder(target, marker=MANIFEST, force=force, error=BundleError) as folder:
        (folder / CLASSIFIER).write_bytes(classifier.SerializeToString())
        (folder / EXPLAINER).write_bytes(build_explainer(classifier).SerializeToString())
        write_manifest(folder, manifest)
        golden = make_golden(open_bundle(folder), golden_images)
        (folder / GOLDEN).write_bytes(golden_bytes(golden))
        if audit_set is not None:
            (folder / AUDIT_SET).write_bytes(npz_bytes(images=audit_set.images, labels=audit_set.labels))
        write_manifest(folder, manifest)
        finished = open_bundle(folder)
        finished.golden()
        if audit_set is not None:
            finished.audit_set()
    return target


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` with size and SHA-256 of every file that lies in ``folder``."""
    entries = {}
    for path in sorted(folder.iterdir()):
        if path.name != MANIFEST:
            data = path.read_bytes()
            entries[path.name] = FileEntry(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    content = msgspec.json.encode(msgspec.structs.replace(manifest, files=entries))
    (folder / MANIFEST).write_bytes(msgspec.json.format(content, indent=2) + b"\n")
