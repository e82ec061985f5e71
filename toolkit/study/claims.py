"""The paper's claims, each as a measured effect with a test: supported, not supported, or undecided.

An effect is a mean over images of paired differences between networks of the same seed. The verdict comes from the
seeds alone (paired t interval): images of one network are no repetition of its training. Where one seed leaves it
undecided, the bootstrap over images stands beside it as secondary evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from edge_runtime.metrics.road import area
from toolkit.report.tables import MISSING, csv_text
from toolkit.study.grid import BySeed, Grid
from toolkit.study.results import CellResult, bits
from toolkit.study.schema import TIMINGS, Subject

CONFIDENCE = 0.95
EQUIVALENCE_CONFIDENCE = 0.9  # two one-sided tests at 5 %
RESAMPLES = 2000
EARLY = 41.0  # the authors' last percentage within the first 40 % of removed pixels: 1, 11, ..., 41
GINI_MARGIN = 0.02  # "nearly unchanged": the spread of the paper's own post-train tables

Verdict = Literal["supported", "not supported", "undecided"]
ByImage = dict[int, float]
Value = Callable[[CellResult], ByImage]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Claim:
    """A claim: ``below`` zero, or, with a ``margin``, within it; ``effect(grid, subject, method)`` gives per seed the
    differences of every image. ``methods`` None: it is not about explainers."""

    text: str
    quantity: str
    effect: Callable[[Grid, Subject, str], dict[int, ByImage]]
    methods: tuple[str, ...] | None = ("vg", "ig", "sg")
    margin: float | None = None


@dataclass(frozen=True)
class Finding:
    """A claim on one subject and explainer.

    ``effects`` holds one mean difference per seed, ``interval`` and ``p`` come from the paired t test over seeds (None
    for fewer than two), ``size`` is Cohen's d of the differences, ``images`` the bootstrap interval over images.
    """

    claim: Claim
    subject: str
    method: str
    effects: tuple[float, ...]
    interval: Interval | None
    p: float | None
    size: float | None
    images: Interval | None
    verdict: Verdict

    @property
    def effect(self) -> float | None:
        """The mean over seeds; None where nothing was measured."""
        return float(np.mean(self.effects)) if self.effects else None


def all_findings(grid: Grid) -> list[Finding]:
    """Return every claim by subject and explainer; one that no result speaks to is undecided, without an effect."""
    found = []
    for claim in CLAIMS:
        for subject in grid.study.subjects:
            for method in claim.methods or ("",):
                known = not method or method in grid.study.evaluation.explainers
                effects = claim.effect(grid, subject, method) if known else {}
                differences = {seed: each for seed, each in effects.items() if each}
                found.append(judge(claim, subject.name, method, differences))
    return found


def judge(claim: Claim, subject: str, method: str, differences: dict[int, ByImage]) -> Finding:
    """Test one claim on ``differences`` {seed: {image: difference}}, none of the seeds without images."""
    effects = np.array([np.mean(list(each.values())) for each in differences.values()])
    interval = p = size = None
    if len(effects) > 1:
        interval = t_interval(effects, CONFIDENCE if claim.margin is None else EQUIVALENCE_CONFIDENCE)
        p, size = _paired_t(effects)
    return Finding(
        claim=claim,
        subject=subject,
        method=method,
        effects=tuple(effects.tolist()),
        interval=interval,
        p=p,
        size=size,
        images=bootstrap(list(differences.values())) if differences else None,
        verdict="undecided" if interval is None else verdict(interval, claim.margin),
    )


def verdict(interval: Interval, margin: float | None) -> Verdict:
    """Return what an interval says of a claim: below zero, or within ``margin`` of it."""
    low, high = interval
    if margin is None:
        return "supported" if high < 0 else "not supported" if low > 0 else "undecided"
    if -margin < low and high < margin:
        return "supported"
    return "not supported" if low > margin or high < -margin else "undecided"


def t_interval(effects: NDArray[np.float64], confidence: float) -> Interval:
    """Return the t interval of the mean of ``effects`` [S], S at least 2."""
    mean, error = float(effects.mean()), float(effects.std(ddof=1) / np.sqrt(len(effects)))
    reach = error * float(stats.t.ppf((1 + confidence) / 2, len(effects) - 1))
    return mean - reach, mean + reach


def bootstrap(differences: Sequence[ByImage], seed: int = 0) -> Interval | None:
    """Return the bootstrap interval of the mean over the images that every seed has; None where they share none."""
    shared = sorted(set.intersection(*(set(each) for each in differences)))
    if not shared:
        return None
    values = np.mean([[each[image] for image in shared] for each in differences], axis=0)
    drawn = np.random.default_rng(seed).integers(0, len(shared), (RESAMPLES, len(shared)))
    low, high = np.percentile(values[drawn].mean(axis=1), [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return float(low), float(high)


def _paired_t(effects: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """Return the two-sided p value and Cohen's d; None for both where all seeds agree to the last bit."""
    deviation = float(effects.std(ddof=1))
    if deviation == 0:
        return None, None
    size = float(effects.mean()) / deviation
    t = size * np.sqrt(len(effects))
    return float(2 * stats.t.sf(abs(t), len(effects) - 1)), size


# --- values of one network, by image


def accuracy(result: CellResult) -> ByImage:
    return dict(enumerate(bits(result.correct).tolist()))


def gini(method: str) -> Value:
    def value(result: CellResult) -> ByImage:
        values = result.explainers[method].gini.values
        return {image: each for image, each in zip(result.images, values, strict=True) if each is not None}

    return value


def norm(method: str) -> Value:
    def value(result: CellResult) -> ByImage:
        values = result.explainers[method].gradient_norm.values
        return {image: each for image, each in zip(result.images, values, strict=True) if each is not None}

    return value


def morf(method: str, low: float = 0.0, high: float = 100.0) -> Value:
    """Return the area under each image's MoRF curve between two percentages."""

    def value(result: CellResult) -> ByImage:
        road = result.explainers[method].road
        if road is None:
            return {}
        levels = np.asarray(road.percentages)
        part = (levels >= low) & (levels <= high)
        if not part.any():
            return {}
        return dict(zip(road.images, area(levels[part], road.correct("morf")[:, part]).tolist(), strict=True))

    return value


# --- differences between networks of one seed, by image


def difference(value: Value, first: CellResult, second: CellResult) -> ByImage:
    """Return first minus second on the images that both have."""
    a, b = value(first), value(second)
    return {image: a[image] - b[image] for image in sorted(a.keys() & b.keys())}


def mean_of(parts: Iterable[ByImage]) -> ByImage:
    """Return the mean over ``parts`` on the images that all of them have."""
    kept = list(parts)
    if not kept:
        return {}
    shared = sorted(set.intersection(*(set(each) for each in kept)))
    return {image: float(np.mean([each[image] for each in kept])) for image in shared}


def against_natural(grid: Grid, subject: Subject, group: Sequence[BySeed], value: Value) -> dict[int, ByImage]:
    """Return by seed the mean difference of a group of networks to the natural one."""
    natural = grid.natural(subject)
    return {
        seed: mean_of(difference(value, each[seed], natural[seed]) for each in group if seed in each)
        for seed in natural
    }


def _pruned(grid: Grid, subject: Subject) -> list[BySeed]:
    return list(grid.pruned(subject, TIMINGS))


def _steeper(grid: Grid, subject: Subject, method: str) -> dict[int, ByImage]:
    return against_natural(grid, subject, _pruned(grid, subject), morf(method))


def _steeper_early(grid: Grid, subject: Subject, method: str) -> dict[int, ByImage]:
    """Return how much more the curves gain in the first 40 % than after it."""
    levels = grid.study.evaluation.road
    if not levels or not levels[0] < EARLY < levels[-1]:
        return {}
    early = against_natural(grid, subject, _pruned(grid, subject), morf(method, high=EARLY))
    late = against_natural(grid, subject, _pruned(grid, subject), morf(method, low=EARLY))
    return {
        seed: {image: each - late[seed][image] for image, each in early[seed].items() if image in late[seed]}
        for seed in early
    }


def _pre_steepest(grid: Grid, subject: Subject, method: str) -> dict[int, ByImage]:
    """Return the areas of networks pruned before training minus those of the others, natural included."""
    before = list(grid.pruned(subject, ["pre"]))
    after = [*grid.pruned(subject, ["post", "post-tuned"]), grid.natural(subject)]
    value = morf(method)
    seeds = sorted({seed for each in before for seed in each} & {seed for each in after for seed in each})
    found = {}
    for seed in seeds:
        first, second = (mean_of(value(each[seed]) for each in group if seed in each) for group in (before, after))
        found[seed] = {image: first[image] - second[image] for image in sorted(first.keys() & second.keys())}
    return found


def _adversarial_gini(grid: Grid, subject: Subject, method: str) -> dict[int, ByImage]:
    return against_natural(grid, subject, list(grid.adversarial(subject)), gini(method))


def _adversarial_accuracy(grid: Grid, subject: Subject, method: str) -> dict[int, ByImage]:
    return against_natural(grid, subject, list(grid.adversarial(subject)), accuracy)


def _pruned_gini(grid: Grid, subject: Subject, method: str) -> dict[int, ByImage]:
    return against_natural(grid, subject, _pruned(grid, subject), gini(method))


def _pruned_norm(grid: Grid, subject: Subject, method: str) -> dict[int, ByImage]:
    """Return differences of the norms as shares of the natural network's mean norm."""
    found = against_natural(grid, subject, _pruned(grid, subject), norm(method))
    means = {seed: result.explainers[method].gradient_norm.mean for seed, result in grid.natural(subject).items()}
    scaled = {}
    for seed, each in found.items():
        mean = means[seed]
        scaled[seed] = {image: value / mean for image, value in each.items()} if mean else {}
    return scaled


CLAIMS: tuple[Claim, ...] = (
    Claim("Pruning makes MoRF curves steeper", "area under MoRF, pruned minus natural", _steeper),
    Claim(
        "... most in the first 40 % of removed pixels",
        "change of the area in the first 40 % minus the change after",
        _steeper_early,
    ),
    Claim(
        "Pruning before training is steepest under SmoothGrad",
        "area under MoRF, pruned before training minus the others",
        _pre_steepest,
        ("sg",),
    ),
    Claim("Adversarial training lowers Gini", "Gini, adversarial minus natural", _adversarial_gini),
    Claim("Adversarial training lowers accuracy", "accuracy, adversarial minus natural", _adversarial_accuracy, None),
    Claim(
        "Pruning leaves Gini nearly unchanged",
        f"Gini, pruned minus natural, within ±{GINI_MARGIN:g}",
        _pruned_gini,
        margin=GINI_MARGIN,
    ),
    Claim(
        "Explanations of pruned networks have a smaller norm",
        "norm, pruned minus natural, as a share of natural",
        _pruned_norm,
    ),
)

HEADER = ("claim", "subject", "explainer", "verdict", "effect", "interval over seeds", "p", "d", "seeds", "over images")


def row(finding: Finding) -> tuple[str, ...]:
    """Return a finding as text under :data:`HEADER`."""

    def number(value: float | None, form: str = "+.3f") -> str:
        return MISSING if value is None else format(value, form)

    def interval(value: Interval | None) -> str:
        return MISSING if value is None else f"{value[0]:+.3f} .. {value[1]:+.3f}"

    return (
        finding.claim.text,
        finding.subject,
        finding.method.upper() or MISSING,
        finding.verdict,
        number(finding.effect),
        interval(finding.interval),
        number(finding.p, ".3g"),
        number(finding.size, "+.2f"),
        str(len(finding.effects)),
        interval(finding.images),
    )


def explanation() -> Iterator[str]:
    """Yield what a reader must know of the verdicts, a paragraph each."""
    yield (
        f"A claim is supported where the {CONFIDENCE:.0%} interval of the paired t test over seeds lies on its side of "
        "zero, not supported where it lies on the other, undecided otherwise, and always with a single seed. "
        f"'Nearly unchanged' is an equivalence test: the {EQUIVALENCE_CONFIDENCE:.0%} interval must lie within "
        f"±{GINI_MARGIN:g}. p and d (Cohen's) are of the difference from zero."
    )
    yield (
        "The last column is a paired bootstrap over images. It is secondary evidence: it says how these networks "
        "differ, not whether others, trained with another seed, would."
    )


def markdown(findings: Sequence[Finding], title: str) -> str:
    """Return the claims as a Markdown page."""
    lines = [f"# {title}: the paper's claims", ""]
    for paragraph in explanation():
        lines += [paragraph, ""]
    lines += [f"| {' | '.join(HEADER)} |", "| --- " * len(HEADER) + "|"]
    lines += [f"| {' | '.join(row(finding))} |" for finding in findings]
    lines += ["", *(f"- {claim.text}: {claim.quantity}." for claim in CLAIMS), ""]
    return "\n".join(lines)


def csv(findings: Sequence[Finding]) -> str:
    """Return the claims as CSV."""
    header = ["claim", "subject", "explainer", "verdict", "effect", "low", "high", "p", "d", "seeds", "images_low"]
    return csv_text(
        [*header, "images_high"],
        (
            [
                finding.claim.text,
                finding.subject,
                finding.method,
                finding.verdict,
                finding.effect,
                *(finding.interval or (None, None)),
                finding.p,
                finding.size,
                len(finding.effects),
                *(finding.images or (None, None)),
            ]
            for finding in findings
        ),
    )
