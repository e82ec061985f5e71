"""Claims on results with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.toolkit.study.synthetic import STUDY, result
from toolkit.study import claims
from toolkit.study.claims import CLAIMS, Claim, Finding, Verdict
from toolkit.study.grid import Grid
from toolkit.study.results import CellResult

NOTHING = Claim("x", "y", lambda grid, subject, method: {})
EQUIVALENT = Claim("x", "y", lambda grid, subject, method: {}, margin=0.02)


def judged(*effects: float, claim: Claim = NOTHING) -> Finding:
    return claims.judge(claim, "s", "vg", {seed: {0: effect, 1: effect} for seed, effect in enumerate(effects)})


@pytest.mark.parametrize(
    ("effects", "claim", "verdict"),
    [
        ((-1.0, -1.1, -0.9), NOTHING, "supported"),
        ((1.0, 1.1, 0.9), NOTHING, "not supported"),
        ((-1.0, 1.1, -0.9), NOTHING, "undecided"),
        ((-1.0,), NOTHING, "undecided"),
        ((), NOTHING, "undecided"),
        ((-1.0, -1.0), NOTHING, "supported"),
        ((0.0, 0.0), NOTHING, "undecided"),
        ((0.001, -0.001, 0.002), EQUIVALENT, "supported"),
        ((0.5, 0.51, 0.49), EQUIVALENT, "not supported"),
        ((-0.5, -0.51, -0.49), EQUIVALENT, "not supported"),
        ((0.001, -0.05, 0.05), EQUIVALENT, "undecided"),
    ],
)
def test_verdicts(effects: tuple[float, ...], claim: Claim, verdict: Verdict) -> None:
    assert judged(*effects, claim=claim).verdict == verdict


def test_paired_t_of_a_textbook_sample() -> None:
    finding = judged(1.0, 2.0, 3.0)
    assert finding.effect == 2
    # t(2) has its 97.5th percentile at 4.303; standard error 1 / sqrt(3).
    assert finding.interval == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), abs=1e-3)
    assert finding.p == pytest.approx(0.0742, abs=1e-4)
    assert finding.size == pytest.approx(2.0)


def test_bootstrap_is_paired_by_image() -> None:
    rng = np.random.default_rng(0)
    many = dict(enumerate(rng.normal(-1, 1, 400)))
    low, high = claims.bootstrap([many, {**many, 999: 5.0}]) or (0, 0)
    assert -1.2 < low < np.mean(list(many.values())) < high < -0.8
    assert claims.bootstrap([{0: 1.0}, {1: 1.0}]) is None
    assert claims.bootstrap([many]) == claims.bootstrap([many])


def findings(results: list[CellResult]) -> dict[str, Finding]:
    found = claims.all_findings(Grid.of(STUDY, results))
    return {finding.claim.text: finding for finding in found if finding.method in ("vg", "")}


def results(seeds: int = 3) -> list[CellResult]:
    found = []
    for seed in range(seeds):
        shift = 0.001 * seed
        found += [
            result("natural", "none", seed, correct="1111", morf=("11110", "11110")),
            # Less accurate and less sparse, in every seed.
            result("adv", "none", seed, correct="1010", gini=(0.4 + shift, 0.5)),
            # Curves fall at once, Gini moves within the margin, norms are half.
            result("l1", "pre", seed, morf=("10000", "10000"), gini=(0.5 + shift, 0.6), norm=(1 + shift, 2)),
            result("l1", "post", seed, morf=("10000", "10000"), gini=(0.5, 0.6 - shift), norm=(1, 2)),
        ]
    return found


def test_a_study_that_finds_what_the_paper_says() -> None:
    found = findings(results())
    assert {text: finding.verdict for text, finding in found.items()} == {
        "Pruning makes MoRF curves steeper": "supported",
        "... most in the first 40 % of removed pixels": "supported",
        "Adversarial training lowers Gini": "supported",
        "Adversarial training lowers accuracy": "supported",
        "Pruning leaves Gini nearly unchanged": "supported",
        "Explanations of pruned networks have a smaller norm": "supported",
    }
    # Areas over 1 .. 91: natural (20 + 20 + 20 + 15) / 90, pruned 10 / 90.
    assert found["Pruning makes MoRF curves steeper"].effect == pytest.approx(-65 / 90)
    # To 41: 10 / 40 against 1; after: 0 against (20 + 15) / 50.
    assert found["... most in the first 40 % of removed pixels"].effect == pytest.approx(-30 / 40 + 35 / 50)
    assert found["Adversarial training lowers accuracy"].effect == pytest.approx(-0.5)
    assert found["Explanations of pruned networks have a smaller norm"].effect == pytest.approx(-0.5, abs=1e-3)


def test_smooth_grad_compares_timings() -> None:
    (claim,) = [each for each in CLAIMS if each.methods == ("sg",)]
    made = [
        result("natural", "none", 0, morf=("11111", "11111")),
        result("l1", "pre", 0, morf=("10000", "10000")),
        result("l1", "post", 0, morf=("11111", "11111")),
    ]
    effect = claim.effect(Grid.of(STUDY, made), STUDY.subjects[0], "vg")
    assert effect == {0: {0: pytest.approx(10 / 90 - 1), 1: pytest.approx(10 / 90 - 1)}}


def test_one_seed_is_undecided_with_images_as_secondary_evidence() -> None:
    finding = findings(results(seeds=1))["Adversarial training lowers accuracy"]
    assert (finding.verdict, finding.interval, finding.p) == ("undecided", None, None)
    assert finding.images is not None and finding.images[1] <= 0


def test_images_that_one_network_misses_leave_the_pair() -> None:
    made = [result("natural", "none", 0), result("adv", "none", 0, gini=(float("nan"), 0.5))]
    assert findings(made)["Adversarial training lowers Gini"].effect == pytest.approx(-0.1)


def test_every_claim_stands_on_the_page_even_without_results() -> None:
    found = claims.all_findings(Grid.of(STUDY, []))
    assert {finding.claim.text for finding in found} == {claim.text for claim in CLAIMS}
    assert all(finding.verdict == "undecided" and finding.effect is None for finding in found)
    text = claims.markdown(found, "Title")
    assert all(claim.text in text for claim in CLAIMS)
    assert claims.csv(found).count("\n") == 1 + len(found)
