"""A publisher for the tests: keys, roots, and a small signed bundle with a golden set."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.bundle import open_bundle
from edge_runtime.trust.metadata import decode, encode
from edge_runtime.trust.verification import Acceptance
from export.golden import golden_bytes, make_golden
from export.signing import KeyFolder, Plan, create_keys, rotate_keys, sign_bundle
from tests.edge_runtime.tiny_bundle import SIZE, TinyNetwork, tiny_files, write_tiny_bundle

PASSPHRASE = "correct horse battery"


class Publisher:
    """One key folder, and what is done with it."""

    def __init__(self, folder: Path, plan: Plan | None = None) -> None:
        self.folder = folder
        create_keys(folder, PASSPHRASE, plan or Plan())

    @property
    def keys(self) -> KeyFolder:
        return KeyFolder(self.folder, PASSPHRASE)

    def root(self, version: int = 1) -> Path:
        return self.folder / f"{version}.root.json"

    def rotate(self, role: str, key: str | None = None) -> Path:
        return rotate_keys(self.folder, PASSPHRASE, role, key)

    def sign(self, bundle: Path, **options: Any) -> Acceptance:
        return sign_bundle(bundle, self.folder, PASSPHRASE, **options)

    def forge(self, bundle: Path, change: Callable[[Any], object], role: str = "targets") -> None:
        """Change what a bundle's targets say and sign them again with the present keys of ``role``."""
        path = bundle / "metadata" / "targets.json"
        metadata = decode(path.read_bytes(), "targets", path)
        change(metadata.signed)
        metadata.signatures.clear()
        for signer in self.keys.signers(self.keys.root(), role):
            metadata.sign(signer, append=True)
        path.write_bytes(encode(metadata))


def golden_bundle(folder: Path, network: TinyNetwork, **changes: object) -> Path:
    """Write the tiny bundle with a golden set of four images."""
    files = tiny_files(network)
    raw = open_bundle(write_tiny_bundle(folder.with_name(f"{folder.name}.raw"), files))
    images = np.random.default_rng(0).standard_normal((4, 3, SIZE, SIZE)).astype(np.float32)
    files["golden.npz"] = golden_bytes(make_golden(raw, images))
    shutil.rmtree(raw.path)
    return write_tiny_bundle(folder, files, **changes)
