"""The publisher and the signed bundle of the tests of trust."""

from __future__ import annotations

from tests.edge_runtime.trust.conftest import bundle, no_trust, published, publisher

__all__ = ["bundle", "no_trust", "published", "publisher"]
