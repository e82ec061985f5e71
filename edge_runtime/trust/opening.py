"""Open a bundle as this machine demands: signed, once a root of trust is installed."""

from __future__ import annotations

import os
from pathlib import Path

from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.trust.metadata import ROOT, decode
from edge_runtime.trust.store import installed_store
from edge_runtime.trust.verification import Acceptance, Trusted, check_root, open_trusted, read_bounded


def open_required(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle; where a root is installed, only with metadata that it leads to.

    Raises TrustError (a BundleError) for a bundle that the device must not use, InputError where a root is installed
    but the extra ``trust`` is not.
    """
    return open_checked(path)[0]


def open_checked(path: str | os.PathLike[str]) -> tuple[Bundle, Acceptance | None]:
    """Like :func:`open_required`, with what the signatures proved; None where no root is installed."""
    store = installed_store()
    return (open_bundle(path), None) if store is None else open_trusted(path, store.load())


def open_with_root(path: str | os.PathLike[str], root: Path) -> tuple[Bundle, Acceptance]:
    """Open a bundle as a fresh device would on which the file ``root`` has just been installed."""
    data = read_bounded(root.parent, root.name)
    version = decode(data, ROOT, root).signed.version
    return open_trusted(path, Trusted({version: check_root(data, version, root.parent)}))
