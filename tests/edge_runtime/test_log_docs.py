"""docs/audit_log.md says what the code does."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.log import KINDS, store
from edge_runtime.log.chain import DOMAIN
from tests.edge_runtime import test_log_killed, test_log_power_cut

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "audit_log.md").read_text(encoding="utf-8")


def test_the_schema_is_the_documented_one() -> None:
    assert store.SCHEMA.strip() in DOCUMENT
    assert f"`user_version` = schema version, now {store.SCHEMA_VERSION}" in DOCUMENT
    assert f"0x{store.APPLICATION_ID:08X}" in DOCUMENT
    assert DOMAIN.decode() in DOCUMENT


def test_every_kind_and_its_fields_are_documented() -> None:
    for kind, struct in KINDS.items():
        line = next(line for line in DOCUMENT.splitlines() if line.startswith(f"| `{kind}` |"))
        assert all(f"`{field}`" in line for field in struct.__struct_fields__), kind


def test_the_counts_are_those_of_the_tests() -> None:
    cuts = test_log_power_cut.DRIVES * test_log_power_cut.CUTS_PER_DRIVE
    assert f"{cuts} simulated power cuts" in DOCUMENT
    assert f"at {test_log_killed.KILLS} random points" in DOCUMENT
