"""``manifest.json``: what a bundle says about itself. The schema is these frozen structs; nothing else is accepted."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from edge_runtime.variant import Variant

FORMAT_VERSION = 2  # 2: tolerances
MANIFEST = "manifest.json"
FP32 = "fp32"  # the precision that every bundle has
MAX_MANIFEST_BYTES = 4 << 20

Positive = Annotated[int, msgspec.Meta(ge=1)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Method = Literal["vg", "ig", "sg"]
ProviderName = Literal["cpu", "cuda", "tensorrt"]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Reduction = Literal["sum_abs", "abs_sum", "max_abs", "sum_positive"]


class InputSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The classifier's input: RGB, resized to ``height`` x ``width`` (bilinear), scaled to [0, 1], normalised."""

    height: Positive
    width: Positive
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layout: Literal["NCHW"] = "NCHW"


class ExplainerPreset(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of one explainer.

    ``samples`` is the number of path points K; ``sigma`` the noise's standard deviation in normalised space;
    ``baseline`` the start of the IG path ("black": pixel value 0; "zero": 0 in normalised space);
    ``quadrature`` IG's rule; ``aggregate`` whether signed gradients or their magnitudes are averaged;
    ``reduction`` how channels become one saliency map. With a ``tolerance``, IG doubles its samples until the
    completeness gap is at most this share of |F(x) - F(baseline)|.
    """

    method: Method
    samples: Positive = 1
    sigma: float = 0.0
    baseline: Literal["black", "zero"] = "black"
    quadrature: Literal["gauss-legendre", "riemann-trapezoid"] = "gauss-legendre"
    aggregate: Literal["signed", "magnitude"] = "signed"
    reduction: Reduction = "sum_abs"
    tolerance: float | None = None


# Where the paper and its authors' code disagree both stand here, and "paper" is the default (PROTOCOL: explanations).
PRESETS: dict[str, dict[str, ExplainerPreset]] = {
    "paper": {
        "vg": ExplainerPreset(method="vg"),
        "ig": ExplainerPreset(method="ig", samples=50),
        "sg": ExplainerPreset(method="sg", samples=50, sigma=0.15),
    },
    "authors-code": {
        "vg": ExplainerPreset(method="vg"),
        "ig": ExplainerPreset(
            method="ig", samples=10, baseline="zero", quadrature="riemann-trapezoid", reduction="abs_sum"
        ),
        "sg": ExplainerPreset(method="sg", samples=10, sigma=0.15, aggregate="magnitude"),
    },
}


class RoadBaseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Desktop ROAD curve of one explainer on the audit set: accuracy after removing each percentage, MoRF and LeRF.

    ``areas``: of every image that entered the curves, half of the area under its LeRF minus its MoRF curve. The mean is
    the explainer's faithfulness, the distribution is what the vehicle compares its own with.
    """

    percentages: tuple[float, ...]
    morf: tuple[float, ...]
    lerf: tuple[float, ...]
    areas: tuple[float, ...] = ()


class Baselines(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Desktop figures to compare the vehicle's with.

    ``gini``: per explainer, one value per image of the audit set; ``confidence``: the probability of the predicted
    class, one value per image. Undefined values are left out.
    """

    accuracy: float | None = None
    gini: dict[str, tuple[float, ...]] = {}
    road: dict[str, RoadBaseline] = {}
    confidence: tuple[float, ...] = ()


class DriftOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a vehicle calls a measure drifted away from its baseline (``loop.drift`` has the test and its error rate).

    The newest ``window`` values are compared with the baseline after every ``stride`` new ones. A p-value below
    ``threshold`` is drift; it ends when the p-value is ``returned`` or more. ``thin`` takes only every so-many-th
    value: a camera sees the same sign in many frames in a row, whose values say less than those of different signs.
    """

    window: Annotated[int, msgspec.Meta(ge=8)] = 100
    stride: Positive = 20
    threshold: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 1e-5
    returned: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 1e-2
    thin: Positive = 1


class GradientParity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the exported gradient compared with the original's, over ``images`` images.

    ``max_error``: largest |difference|, relative to its image's largest |gradient|; ``relative_l2``: relative L2 error
    of the worst image; ``flipped_units`` of ``units`` (0 where none had to be looked for) lie so close to their kink
    that float32 rounding decided them the other way; ``residual``: the worst relative L2 error that is left once these
    are accounted for.
    """

    images: int
    max_error: float
    relative_l2: float
    flipped_units: int
    units: int
    residual: float

    @property
    def share_flipped(self) -> float:
        """Share of all units that decided differently."""
        return self.flipped_units / self.units if self.units else 0.0


class Gate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a precision must keep of FP32 to be accepted; shares and areas, not percent.

    ``max_accuracy_drop``; ``min_rank_correlation``: mean Spearman correlation of the vanilla gradient's saliency maps;
    ``max_road_auc_increase``: of the area under its ROAD curve (MoRF), which is the less faithful the larger it is.
    """

    max_accuracy_drop: float = 0.005
    min_rank_correlation: float = 0.95
    max_road_auc_increase: float = 0.02


class GateMeasures(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a gate judges, measured over ``images`` images that calibration did not see."""

    images: int
    accuracy_drop: float
    rank_correlation: float
    road_auc_increase: float


class PrecisionParity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the two graphs of a precision agree, over ``images`` images: the explainer's logits with the classifier's.

    ``logits``: the largest |difference|, relative to the largest |logit|; ``same_class``: images with one prediction.
    """

    images: int
    logits: float
    same_class: int


class Precision(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One more precision of the bundle's network, beside FP32.

    ``method``, ``samples`` and ``data`` (SHA-256 of the images) say how it was calibrated, ``kept`` which layers stayed
    in floating point; ``measured`` is what ``gate`` let pass.
    """

    gate: Gate
    measured: GateMeasures
    parity: PrecisionParity
    method: str | None = None
    samples: int | None = None
    data: str | None = None
    kept: tuple[str, ...] = ()


class Tolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How far a device may be from the golden set.

    ``logits``: relative to the largest one. ``attribution``: relative L2 error, as the median over images: a ReLU unit
    within rounding of zero may flip and move single images by a percent or more, so single images do not count.
    """

    logits: Share
    attribution: Share


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Size in bytes and SHA-256 of one file of the bundle."""

    size: int
    sha256: Sha256


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that a bundle says about itself.

    ``variant`` is None for a user's own ONNX file. ``macs`` counts multiply-accumulates of one forward pass,
    ``parameters`` the stored weights, ``nonzero_parameters`` those that masks left. ``gradient_parity`` is None where
    the export knew no original to compare with. ``precisions`` describes the precisions other than FP32 by name
    ("int8"), whose files bear that name: ``classifier.int8.onnx``. ``tolerances`` bounds the self-test by precision and
    provider; where it is silent, ``self_test.TOLERANCES`` holds. ``files`` names every file of the folder but the
    manifest itself (and the folder ``metadata/`` of signed metadata).
    """

    format_version: int
    name: str
    labels: tuple[str, ...]
    input: InputSpec
    files: dict[str, FileEntry]
    variant: Variant | None = None
    explainers: dict[str, ExplainerPreset] = {}
    baselines: Baselines = Baselines()
    drift: DriftOptions = DriftOptions()
    dataset_digest: str | None = None
    macs: int | None = None
    parameters: int | None = None
    nonzero_parameters: int | None = None
    gradient_parity: GradientParity | None = None
    precisions: dict[str, Precision] = {}
    tolerances: dict[str, dict[ProviderName, Tolerance]] = {}
    producer: str = ""
