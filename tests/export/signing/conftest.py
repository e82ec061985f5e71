"""The publisher and the signed bundle of the device's tests."""

from __future__ import annotations

from tests.edge_runtime.conftest import network
from tests.edge_runtime.trust.conftest import bundle, no_trust, published, publisher

__all__ = ["bundle", "network", "no_trust", "published", "publisher"]
