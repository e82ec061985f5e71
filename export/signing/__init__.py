"""The publisher's side of signed bundles: keys, roots and their rotation, signatures. See ``docs/trust.md``."""

from __future__ import annotations

from export.signing.bundles import sign_bundle
from export.signing.key_folder import KeyFolder
from export.signing.roots import Plan, create_keys, rotate_keys

__all__ = ["KeyFolder", "Plan", "create_keys", "rotate_keys", "sign_bundle"]
