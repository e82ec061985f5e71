"""Drift on real signs that turn dark, blurred and foreign: a small network trained for it, as benchmarks.drift does."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_real_signs_that_change_are_told_from_those_that_do_not(shared_data: Path, tmp_path: Path) -> None:
    from benchmarks import drift

    signs = drift.read_signs(shared_data / "gtsrb")
    bundle = drift.make_bundle(signs, tmp_path)
    assert len(bundle.manifest.baselines.confidence) == drift.AUDIT_IMAGES
    rows = {row["phase"]: row for row in drift.drive(bundle, signs, tmp_path)}
    assert rows["usual"]["events"] == []
    for phase in ("dark", "blurred", "foreign"):
        assert rows[phase]["drifted"], f"nothing drifted while the images were {phase}"
    for phase in ("usual again", "usual a third time", "usual at last"):
        assert rows[phase]["drifted"] == [], f"not everything is back in the phase {phase!r}"
    for phase, row in rows.items():
        told = [(event["name"], event["measure"]) for event in row["events"]]
        assert len(told) == len(set(told)), f"one event is told twice in the phase {phase!r}"
