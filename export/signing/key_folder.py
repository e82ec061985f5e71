"""A publisher's folder: encrypted private keys, every version of the root, the newest version signed.

ROLE-KEYID.pem    a private key (PKCS #8, encrypted), readable by its owner alone
N.root.json       public: what devices trust
signed.json       the highest version that was signed here
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edge_runtime.errors import TrustError
from edge_runtime.extras import library
from edge_runtime.trust.durable import sync_folder, write_durably
from edge_runtime.trust.metadata import ROOT, decode, encode
from edge_runtime.trust.verification import ROOT_FILE, check_link, check_root, root_name

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner
    from tuf.api.metadata import Metadata, Root

SIGNED = "signed.json"
SHORTEST_PASSPHRASE = 8
MAX_KEY_BYTES = 16 << 10


class KeyFolder:
    """Private keys and roots in one folder. ``passphrase`` opens the keys; reading roots needs none."""

    def __init__(self, folder: Path, passphrase: str = "") -> None:
        self.folder = folder
        self._passphrase = passphrase.encode()

    def roots(self) -> dict[int, bytes]:
        """Return every root by version, each verified to follow the one before; raises TrustError where one lacks."""
        names = [name for name in os.listdir(self.folder) if ROOT_FILE.fullmatch(name)] if self.folder.is_dir() else []
        roots = {int(name.partition(".")[0]): (self.folder / name).read_bytes() for name in names}
        if sorted(roots) != list(range(1, len(roots) + 1)) or not roots:
            raise TrustError(f"{self.folder} holds no unbroken line of roots; `roadworthy keys create` makes one")
        check_root(roots[1], 1, self.folder)
        for version in range(2, len(roots) + 1):
            check_link(roots[version - 1], roots[version], version, self.folder)
        return roots

    def root(self) -> Root:
        """Return the newest root."""
        roots = self.roots()
        metadata: Metadata[Root] = decode(roots[len(roots)], ROOT, self.folder / root_name(len(roots)))
        return metadata.signed

    def add_root(self, metadata: Metadata[Root]) -> Path:
        """Store a new version of the root; an existing one is never replaced."""
        path = self.folder / root_name(metadata.signed.version)
        if path.exists():
            raise TrustError(f"{path} already exists; roots are never replaced")
        write_durably(path, encode(metadata))
        return path

    def create_key(self, role: str) -> CryptoSigner:
        """Make an Ed25519 key for ``role``, store it encrypted with mode 0600, and return its signer."""
        signers, serialization = self._libraries()
        if len(self._passphrase) < SHORTEST_PASSPHRASE:
            raise TrustError(f"the passphrase is shorter than {SHORTEST_PASSPHRASE} bytes; choose a longer one")
        private = library("cryptography.hazmat.primitives.asymmetric.ed25519", "trust", "keys").Ed25519PrivateKey
        key = private.generate()
        signer: CryptoSigner = signers.CryptoSigner(key)
        encrypted = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(self._passphrase),
        )
        path = self.key_path(role, signer.public_key.keyid)
        try:
            # Neither follows a link nor replaces a key, and is never readable by others, not even for a moment.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise TrustError(f"{path} cannot be written ({error.strerror}); choose another folder") from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(encrypted)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self.folder)
        return signer

    def signers(self, root: Root, role: str) -> list[CryptoSigner]:
        """Return a signer for each of the role's keys that lies here, at least as many as the role asks for."""
        wanted = root.roles[role]
        present = [keyid for keyid in wanted.keyids if self.key_path(role, keyid).exists()]
        if len(present) < wanted.threshold:
            lacking = ", ".join(self.key_path(role, keyid).name for keyid in wanted.keyids if keyid not in present)
            raise TrustError(
                f"{self.folder} holds {len(present)} of the {wanted.threshold} {role} keys that root version "
                f"{root.version} asks for; bring {lacking} there"
            )
        return [self._load(self.key_path(role, keyid), root.keys[keyid]) for keyid in present]

    def key_path(self, role: str, keyid: str) -> Path:
        return self.folder / f"{role}-{keyid[:8]}.pem"

    def last_version(self) -> int:
        """Return the highest version that was signed here, 0 before the first."""
        try:
            return msgspec.json.decode((self.folder / SIGNED).read_bytes(), type=dict[str, int])["version"]
        except FileNotFoundError:
            return 0
        except (msgspec.DecodeError, KeyError, OSError) as error:
            raise TrustError(f"{self.folder / SIGNED} cannot be read ({error}); pass --version") from None

    def note_version(self, version: int) -> None:
        """Remember a version before anything is signed with it, so that it is never given twice."""
        write_durably(self.folder / SIGNED, msgspec.json.encode({"version": max(version, self.last_version())}))

    def _load(self, path: Path, public: Any) -> CryptoSigner:
        signers, serialization = self._libraries()
        try:
            with path.open("rb") as file:
                key = serialization.load_pem_private_key(file.read(MAX_KEY_BYTES), self._passphrase or None)
            signer: CryptoSigner = signers.CryptoSigner(key, public)
        except OSError as error:
            raise TrustError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
        except Exception as error:  # a wrong passphrase, a damaged file and another key raise unrelated types
            reason = " ".join(str(error).split())[:100]
            raise TrustError(f"{path} does not open ({reason}); check the passphrase") from None
        return signer

    @staticmethod
    def _libraries() -> tuple[Any, Any]:
        return (
            library("securesystemslib.signer", "trust", "signing"),
            library("cryptography.hazmat.primitives.serialization", "trust", "signing"),
        )
