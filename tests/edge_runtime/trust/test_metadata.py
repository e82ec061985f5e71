"""Signed metadata has one spelling, and the parser takes no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import TrustError
from edge_runtime.trust.metadata import MAX_BYTES, decode, encode, signed_at
from tests.edge_runtime.trust.publisher import Publisher


def test_what_is_written_is_read(publisher: Publisher) -> None:
    data = publisher.root().read_bytes()
    metadata = decode(data, "root", "root")
    assert encode(metadata) == data
    assert signed_at(metadata.signed).tzinfo is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + "\n",
        lambda text: text.replace(",", ", ", 1),
        lambda text: text.replace('"version":1', '"version":1,"version":1'),
        lambda text: text.replace('"version":1', '"version":2,"version":1'),
        lambda text: text.replace('"version":1', '"version":1.0'),
        lambda text: text.replace('"version":1', '"version":"1"'),
        lambda text: text.replace('"_type"', '"\\u005ftype"'),
        lambda text: text.replace('"signatures"', '"more":1,"signatures"'),
        lambda text: text.replace('"keyid"', '"extra":"","keyid"', 1),
        lambda text: text.replace('"sig":"', '"sig":"0', 1),
        lambda text: text[:200],
    ],
)
def test_another_spelling_is_refused(publisher: Publisher, change: object) -> None:
    assert callable(change)
    changed = change(publisher.root().read_text())
    with pytest.raises(TrustError, match=r"root\.json"):
        decode(changed.encode(), "root", "root.json")


def test_capital_digits_of_a_signature_are_refused(publisher: Publisher) -> None:
    document = json.loads(publisher.root().read_text())
    document["signatures"][0]["sig"] = document["signatures"][0]["sig"].upper()
    with pytest.raises(TrustError, match="matching regex"):
        decode(json.dumps(document, sort_keys=True, separators=(",", ":")).encode(), "root", "root")


def test_another_role_is_refused(publisher: Publisher, bundle: Path) -> None:
    with pytest.raises(TrustError, match="is not valid targets metadata"):
        decode(publisher.root().read_bytes(), "targets", "targets")
    with pytest.raises(TrustError, match="is not valid root metadata"):
        decode((bundle / "metadata" / "targets.json").read_bytes(), "root", "root")


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"{}", b"[" * 100_000, b"1" * 5000, b"\xff\xfe", b'{"signed":1}']
)
def test_other_bytes_are_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(TrustError) as refusal:
        decode(data, "root", "root")
    assert len(str(refusal.value).splitlines()) == 1


def test_the_limit_is_checked_first() -> None:
    with pytest.raises(TrustError, match="larger than 256 KiB"):
        decode(b"[" * (MAX_BYTES["root"] + 1), "root", "root")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(where=st.integers(0, 40), value=JSON)
def test_any_value_in_any_place_is_refused_or_the_same(root_text: str, where: int, value: object) -> None:
    document = json.loads(root_text)
    slots = list(places(document))
    holder, key = slots[where % len(slots)]
    before = holder[key]
    holder[key] = value
    try:
        decode(json.dumps(document, sort_keys=True, separators=(",", ":")).encode(), "root", "root")
    except TrustError:
        return
    assert type(before) is type(value)


def places(node: object) -> list[tuple[object, object]]:
    """Return every (holder, key) within a JSON document."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    found: list[tuple[object, object]] = []
    for key, value in items:
        found += [(node, key), *places(value)]
    return found


@pytest.fixture(scope="session")
def root_text(published: tuple[Path, Path]) -> str:
    return (published[0] / "1.root.json").read_text()
