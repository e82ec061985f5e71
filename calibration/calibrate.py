"""``calibrate``: a bundle with one more precision, if its explanations survive it; else the bundle as it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
import onnx

from calibration.drift import Drift, measure_drift
from calibration.gate import refusals
from calibration.half import NAME as HALF
from calibration.half import to_half
from calibration.images import LabelledImages, calibration_sample, check_images, stream
from calibration.layers import Network, find_layers
from calibration.options import CalibrationOptions, DriftOptions
from calibration.placement import tensors_to_watch
from calibration.probe import Probe
from calibration.quantise import NAME, Quantised, silent_layers
from calibration.ranges import Progress, Ranges, choose_ranges, observe_cached
from calibration.sensitivity import Candidate, LayerSensitivity, Search, keep_fewest, keep_worst, sensitivities
from calibration.trim import trim_kernels
from edge_runtime.bundle import CLASSIFIER, EXPLAINER, GOLDEN, Bundle, open_bundle, precision_file
from edge_runtime.classifier import Classifier
from edge_runtime.errors import BundleError, GateError, InputError, unknown
from edge_runtime.explainer import Explainer
from edge_runtime.folders import new_folder
from edge_runtime.manifest import FORMAT_VERSION, MANIFEST, Precision, PrecisionParity
from edge_runtime.preprocess import normalize
from edge_runtime.self_test import TOLERANCES
from export.bundle import GOLDEN_IMAGES, write_manifest
from export.golden import golden_bytes, make_golden

PARITY_IMAGES = 32
REPORT = "drift.{}.json"


@dataclass(frozen=True)
class Calibrated:
    """What :func:`calibrate` made: the report, the layers' table (empty if nobody asked for it), ranges and notes."""

    drift: Drift
    precision: Precision
    layers: tuple[LayerSensitivity, ...]
    ranges: Ranges | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Data:
    """``calibration``: images of the training split; ``held_out``: labelled images that no training saw."""

    calibration: LabelledImages
    held_out: LabelledImages


def calibrate(
    bundle: Bundle,
    out: str | os.PathLike[str],
    data: Data,
    options: CalibrationOptions | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Calibrated:
    """Write ``bundle`` with one more precision to the folder ``out``, which may be the bundle's own with ``force``.

    Raises GateError, and writes nothing, where the gate refuses the result; InputError and DataError for images,
    ranges and options that cannot be; BundleError for an existing ``out`` without ``force``.
    """
    options = options or CalibrationOptions()
    if options.precision not in PRECISIONS:
        raise unknown("precision", options.precision, PRECISIONS)
    check_images(data.held_out, bundle.manifest.input)
    original = onnx.load_model_from_string(bundle.read(CLASSIFIER))
    probe = Probe(original, data.held_out, bundle.manifest.input, options.drift.images, options.drift.seed)
    found = PRECISIONS[options.precision](bundle, data.calibration, probe, options, progress)
    if found.candidate.refused:
        raise GateError(refusal(found.candidate, options))
    precision = Precision(
        gate=options.gate,
        measured=found.candidate.measured,
        parity=PrecisionParity(images=0, logits=0.0, same_class=0),
        method=None if found.ranges is None else found.ranges.method,
        samples=None if found.ranges is None else found.ranges.samples,
        data=None if found.ranges is None else found.ranges.data,
        kept=found.candidate.quantised.kept,
    )
    addition = Addition(options.precision, found.candidate.quantised, precision)
    drift, precision = write_precision(bundle, out, addition, data.held_out, options.drift, force, progress)
    return Calibrated(drift, precision, found.layers, found.ranges, found.notes)


@dataclass(frozen=True)
class Found:
    """A candidate, the table of layers where one was made, the ranges where there are any, and notes for the user."""

    candidate: Candidate
    layers: tuple[LayerSensitivity, ...] = ()
    ranges: Ranges | None = None
    notes: tuple[str, ...] = ()


def int8(
    bundle: Bundle, images: LabelledImages, probe: Probe, options: CalibrationOptions, progress: Progress | None
) -> Found:
    """Quantise with the ranges of ``images``, leaving out the layers that the options say."""
    network, notes = read_network(bundle)
    ranges = find_ranges(bundle, network, images, options, progress)
    silent = silent_layers(network, ranges.thresholds())
    notes += [f"{name} stays in floating point: a tensor of it is 0 for every image" for name in silent]
    candidate, rows = choose(Search(network, ranges.thresholds(), probe, options.gate, progress), options)
    return Found(candidate, tuple(rows), ranges, tuple(notes))


def fp16(
    bundle: Bundle, images: LabelledImages, probe: Probe, options: CalibrationOptions, progress: Progress | None
) -> Found:
    """Convert to half precision, which needs no images to calibrate with."""
    if options.auto or options.keep or options.keep_worst or options.sensitivity or options.ranges is not None:
        raise InputError("FP16 converts every layer and needs no ranges; --auto, --keep and --ranges are of int8")
    half = to_half(onnx.load_model_from_string(bundle.read(CLASSIFIER)))
    measured = probe.measure(half)
    return Found(Candidate(half, measured, refusals(options.gate, measured)))


PRECISIONS: dict[str, Callable[[Bundle, LabelledImages, Probe, CalibrationOptions, Progress | None], Found]] = {
    NAME: int8,
    HALF: fp16,
}


def read_network(bundle: Bundle) -> tuple[Network, list[str]]:
    """Return the bundle's network without useless taps, and notes about layers that cannot be quantised."""
    network = find_layers(onnx.load_model_from_string(bundle.read(CLASSIFIER)))
    notes = [f"{name} stays in floating point: {reason}" for name, reason in network.others.items()]
    trimmed = trim_kernels(network.prepared)
    if trimmed:
        notes.append(f"{trimmed} weights left out that only ever meet padding")
    return network, notes


def find_ranges(
    bundle: Bundle,
    network: Network,
    images: LabelledImages,
    options: CalibrationOptions,
    progress: Progress | None = None,
) -> Ranges:
    """Return the given ranges, checked, or those that the calibration images have."""
    tensors = tensors_to_watch(network.layers)
    if options.ranges is not None:
        missing = [name for name in tensors if name not in options.ranges.tensors]
        if missing:
            raise InputError(
                f"the ranges lack {len(missing)} of {len(tensors)} tensors, first {missing[0]!r}; they are of another "
                "network: calibrate without them"
            )
        return options.ranges
    spec = bundle.manifest.input
    sample = calibration_sample(images, spec, len(bundle.labels), options.samples, options.seed)
    images_in_batches = stream(sample, spec)
    histograms = observe_cached(network, tensors, images_in_batches, options.cache, progress)
    return choose_ranges(histograms, options.method, network, images_in_batches)


def choose(search: Search, options: CalibrationOptions) -> tuple[Candidate, list[LayerSensitivity]]:
    """Return the candidate that the options ask for, and the table of layers where it was needed or wanted."""
    for name in options.keep:
        search.network.layer(name)
    if options.auto and options.keep:
        raise InputError("--auto chooses the layers itself; leave out --keep")
    if options.auto:
        first = search.candidate(())
        if not first.refused:
            return first, sensitivities(search) if options.sensitivity else []
        rows = sensitivities(search, others=options.sensitivity)
        return keep_fewest(search, rows), rows
    if options.keep_worst:
        rows = sensitivities(search, others=options.sensitivity)
        return keep_worst(search, options.keep_worst, rows), rows
    rows = sensitivities(search) if options.sensitivity else []
    return search.candidate(options.keep), rows


def refusal(candidate: Candidate, options: CalibrationOptions) -> str:
    """Return the one line that says why nothing was written, and what to do."""
    if options.precision != NAME:
        way_out = "loosen the gate"
    elif options.auto:
        way_out = "no choice of layers passes; loosen the gate, or train with quantisation in mind"
    else:
        way_out = "--auto leaves the worst layers in floating point, --sensitivity shows them"
    return f"{options.precision} is refused: {'; '.join(candidate.refused)}; nothing was written. {way_out}"


@dataclass(frozen=True)
class Addition:
    """A precision to add: its name, its graphs, and its entry in the manifest."""

    name: str
    graphs: Quantised
    entry: Precision


def write_precision(
    bundle: Bundle,
    out: str | os.PathLike[str],
    addition: Addition,
    held_out: LabelledImages,
    options: DriftOptions,
    force: bool,
    progress: Progress | None = None,
) -> tuple[Drift, Precision]:
    """Write ``bundle`` with ``addition``, its golden set and its drift report; the folder appears whole or not at all.

    Signed metadata of the old bundle does not describe the new one and stays behind.
    """
    name = addition.name
    with new_folder(out, marker=MANIFEST, force=force, error=BundleError) as folder:
        old = {precision_file(file, name) for file in (CLASSIFIER, EXPLAINER, GOLDEN)} | {REPORT.format(name)}
        for file in bundle.manifest.files:
            if file not in old:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_bytes(bundle.read(file))
        (folder / precision_file(CLASSIFIER, name)).write_bytes(addition.graphs.classifier.SerializeToString())
        (folder / precision_file(EXPLAINER, name)).write_bytes(addition.graphs.explainer.SerializeToString())

        def describe(entry: Precision) -> Bundle:
            changed = msgspec.structs.replace(
                bundle.manifest,
                format_version=FORMAT_VERSION,
                precisions={**bundle.manifest.precisions, name: entry},
                tolerances={**bundle.manifest.tolerances, name: TOLERANCES[name]},
            )
            write_manifest(folder, changed)
            return open_bundle(folder)

        written = describe(addition.entry)
        entry = msgspec.structs.replace(addition.entry, parity=measure_parity(written, name, held_out))
        golden = make_golden(written, golden_images(bundle, held_out), name)
        (folder / precision_file(GOLDEN, name)).write_bytes(golden_bytes(golden))
        drift = measure_drift(written, name, held_out, options, progress)
        report = msgspec.json.format(msgspec.json.encode(drift), indent=2)
        (folder / REPORT.format(name)).write_bytes(report + b"\n")
        describe(entry).golden(name)
    return drift, entry


def golden_images(bundle: Bundle, held_out: LabelledImages) -> npt.NDArray[np.float32]:
    """Return the images of the FP32 golden set, or where there is none some that were held out."""
    if bundle.has(GOLDEN):
        return bundle.golden().images
    return normalize(held_out.images[:GOLDEN_IMAGES], bundle.manifest.input)


def measure_parity(bundle: Bundle, precision: str, data: LabelledImages) -> PrecisionParity:
    """Compare the explainer's logits with the classifier's, which engines compute in other orders."""
    images = normalize(data.images[:PARITY_IMAGES], bundle.manifest.input)
    logits = Classifier(bundle, precision=precision).predict(images)
    explained = Explainer(bundle, precision=precision).explain(images, "vg", target=0).logits
    return PrecisionParity(
        images=len(images),
        logits=float(np.abs(explained - logits).max() / np.abs(logits).max()),
        same_class=int((explained.argmax(axis=1) == logits.argmax(axis=1)).sum()),
    )
