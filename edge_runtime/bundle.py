"""Open a bundle: every file checked against the manifest before a byte of it is used."""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import BundleError, RoadworthyError, unknown
from edge_runtime.manifest import FORMAT_VERSION, FP32, MANIFEST, MAX_MANIFEST_BYTES, FileEntry, Manifest

CLASSIFIER = "classifier.onnx"
EXPLAINER = "explainer.onnx"
GOLDEN = "golden.npz"
AUDIT_SET = "audit_set.npz"
METADATA = "metadata"  # signed metadata describes the manifest, so the manifest cannot list it

PIECE_BYTES = 1 << 20
MAX_ARRAY_BYTES = 2 << 30  # an .npz may not unfold to more: a few compressed kilobytes can ask for terabytes
PRECISION = re.compile("[a-z][a-z0-9]{0,15}")
# Linux and macOS: fail on a link put in place of the file, and never wait for a pipe's other end.
OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


# What zipfile, its decompressors and NumPy raise for damaged, encrypted or pickled members.
UNREADABLE = (
    ValueError,
    KeyError,
    EOFError,
    OSError,
    RuntimeError,
    lzma.LZMAError,
    zlib.error,
    zipfile.BadZipFile,
)


class _Version(msgspec.Struct):
    format_version: int


@dataclass(frozen=True)
class Golden:
    """Inputs with the desktop's outputs for the device's self-test; G images.

    ``images`` float32 [G, C, H, W] (normalised), ``target`` int64 [G], ``logits`` float32 [G, K], ``attribution``
    float32 [G, C, H, W] by method ("vg", "ig", "sg"), made with seed 0.
    """

    images: NDArray[np.float32]
    target: NDArray[np.int64]
    logits: NDArray[np.float32]
    attribution: dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class AuditSet:
    """The bundle's labelled images for ROAD on the device: ``images`` uint8 [N, H, W, 3], ``labels`` int64 [N]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. ``digest`` is the SHA-256 of its manifest, and so identifies every byte of it."""

    path: Path
    manifest: Manifest
    digest: str

    @property
    def labels(self) -> tuple[str, ...]:
        return self.manifest.labels

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that the bundle holds, FP32 first."""
        return (FP32, *self.manifest.precisions)

    def file(self, name: str, precision: str) -> str:
        """Return what file ``name`` is called in ``precision``; raises InputError for one that the bundle lacks."""
        if precision not in self.precisions:
            raise unknown("precision of this bundle", precision, self.precisions)
        return precision_file(name, precision)

    def has(self, name: str) -> bool:
        """Say whether the bundle holds the file ``name``."""
        return name in self.manifest.files

    def read(self, name: str) -> bytes:
        """Return the bytes of one file, hashed anew as they are read, so that what is returned is what was checked.

        Raises BundleError when the bundle has no such file, or when it changed since the bundle was opened.
        """
        if name not in self.manifest.files:
            raise BundleError(f"{self.path} holds no {name}; export the bundle again with it")
        return read_verified(self.path, name, self.manifest.files[name])

    def golden(self, precision: str = FP32) -> Golden:
        """Return the self-test's inputs and expected outputs; raises BundleError when absent or malformed."""
        file = self.file(GOLDEN, precision)
        arrays = self._arrays(file)
        methods = sorted(name.removeprefix("attribution_") for name in arrays if name.startswith("attribution_"))
        shape = (-1, 3, self.manifest.input.height, self.manifest.input.width)
        images = expect(arrays, file, "images", np.float32, shape)
        count = len(images)
        return Golden(
            images=images,
            target=expect(arrays, file, "target", np.int64, (count,)),
            logits=expect(arrays, file, "logits", np.float32, (count, len(self.labels))),
            attribution={
                method: expect(arrays, file, f"attribution_{method}", np.float32, images.shape) for method in methods
            },
        )

    def audit_set(self) -> AuditSet:
        """Return the bundle's labelled images; raises BundleError when absent or malformed."""
        arrays = self._arrays(AUDIT_SET)
        shape = (-1, self.manifest.input.height, self.manifest.input.width, 3)
        images = expect(arrays, AUDIT_SET, "images", np.uint8, shape)
        labels = expect(arrays, AUDIT_SET, "labels", np.int64, (len(images),))
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.labels):
            raise BundleError(f"{AUDIT_SET}: a label is outside 0..{len(self.labels) - 1}; export the bundle again")
        return AuditSet(images=images, labels=labels)

    def _arrays(self, name: str) -> dict[str, NDArray[np.generic]]:
        return load_arrays(self.read(name), name)


def precision_file(name: str, precision: str) -> str:
    """Return the name of a file in a precision: ``classifier.onnx`` is ``classifier.int8.onnx`` in int8."""
    if precision == FP32:
        return name
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}.{precision}{dot}{suffix}"


# The bundle's folder and its manifest's bytes -> what the signed metadata says of every other file.
Authorise = Callable[[Path, bytes], dict[str, FileEntry]]


def open_bundle(path: str | os.PathLike[str], authorise: Authorise | None = None) -> Bundle:
    """Verify the bundle folder ``path`` and return it.

    Checked: the manifest (size, schema, version), and that the folder holds exactly the files it names, as plain
    files of the stated size and SHA-256 (and, unlisted, the folder ``metadata/``). Raises BundleError otherwise.
    ``authorise`` is asked before anything is parsed; it raises for what was not signed (``edge_runtime.trust``).
    """
    folder = Path(path)
    if not folder.is_dir():
        raise BundleError(f"{folder} is not a bundle folder; `roadworthy export` makes one")
    data = read_manifest(folder)
    signed = None if authorise is None else authorise(folder, data)
    manifest = decode_manifest(data, folder / MANIFEST)
    if signed is not None and signed != manifest.files:
        raise BundleError(f"{folder}: what was signed is not what {MANIFEST} names; sign the bundle again")
    for name in manifest.files:
        check_name(name, folder / MANIFEST)
    compare_listing(folder, set(manifest.files))
    for name, entry in manifest.files.items():
        check_file(folder, name, entry)
    return Bundle(path=folder, manifest=manifest, digest=hashlib.sha256(data).hexdigest())


def read_manifest(folder: Path) -> bytes:
    """Return the manifest's bytes; raises BundleError when it is missing, no plain file, or absurdly large."""
    if not os.path.lexists(folder / MANIFEST):
        raise BundleError(f"{folder} holds no {MANIFEST}, so it is not a bundle; `roadworthy export` makes one")
    with open_plain(folder, MANIFEST) as file:
        data = file.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{folder / MANIFEST} is larger than {MAX_MANIFEST_BYTES >> 20} MiB; export the bundle again")
    return data


def decode_manifest(data: bytes, where: Path) -> Manifest:
    """Parse and check a manifest. The version comes first: a newer schema's fields would only look like damage."""
    try:
        version = msgspec.json.decode(data, type=_Version).format_version
        if version > FORMAT_VERSION:
            raise BundleError(
                f"{where} has format version {version}, this runtime reads up to {FORMAT_VERSION}; update roadworthy"
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{where} is not a valid manifest ({error}); export the bundle again") from None
    problem = manifest_problem(manifest)
    if problem:
        raise BundleError(f"{where}: {problem}; export the bundle again")
    return manifest


def manifest_problem(manifest: Manifest) -> str | None:
    """Return the first thing that the schema's types cannot say, or None."""
    labels, spec = manifest.labels, manifest.input
    rules = (
        (manifest.format_version >= 1, f"format version {manifest.format_version} does not exist"),
        (len(labels) >= 1, "it names no labels"),
        (len(set(labels)) == len(labels), "two labels are the same"),
        (CLASSIFIER in manifest.files, f"it names no {CLASSIFIER}"),
        (all(deviation > 0 for deviation in spec.std), f"std {spec.std} is not positive"),
        (
            all(PRECISION.fullmatch(name) and name != FP32 for name in manifest.precisions),
            "a precision's name is not lower-case letters and digits, or is that of the original",
        ),
        (
            all(
                precision_file(file, name) in manifest.files
                for name in manifest.precisions
                for file in (CLASSIFIER, EXPLAINER)
            ),
            "a precision lacks one of its files",
        ),
        (
            all(preset.method == method for method, preset in manifest.explainers.items()),
            "a preset stands under another method's name",
        ),
        (
            all(name in {FP32, *manifest.precisions} for name in manifest.tolerances),
            "it bounds a precision that it lacks",
        ),
    )
    return next((message for holds, message in rules if not holds), None)


def check_name(name: str, where: Path) -> None:
    """Raise BundleError for a file name that leaves the folder, hides, or means different things to systems."""
    parts = name.split("/")
    if "" in parts or ".." in parts or "\\" in name or ":" in name or "\0" in name:
        raise BundleError(f"{where} names {name!r}, which leaves the bundle folder; do not use this bundle")
    if any(part.startswith(".") for part in parts):
        raise BundleError(f"{where} names the hidden file {name!r}; do not use this bundle")
    if name == MANIFEST or parts[0] == METADATA:
        raise BundleError(f"{where} lists {name!r}, which no manifest may; export the bundle again")


def compare_listing(folder: Path, named: set[str]) -> None:
    """Raise BundleError unless the folder holds the named files, the manifest, ``metadata/``, and nothing else."""
    found = set(walk(folder))
    if missing := sorted(named - found):
        raise BundleError(f"{folder} lacks {listed(missing)}; copy the bundle again")
    extra = {name for name in found - named - {MANIFEST} if PurePosixPath(name).parts[0] != METADATA}
    if extra:
        raise BundleError(f"{folder} holds {listed(sorted(extra))}, which the manifest does not name; remove it")


def walk(folder: Path, prefix: str = "") -> Iterator[str]:
    """Yield every file below ``folder`` as a relative POSIX path; raises BundleError for links and special files."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise BundleError(f"{folder} cannot be listed ({error.strerror}); check its permissions") from None
    for entry in entries:
        name = prefix + entry.name
        if entry.is_symlink():
            raise BundleError(f"{folder}: {name} is a link; a bundle holds plain files only, so put the file there")
        if entry.is_dir():
            yield from walk(Path(entry.path), f"{name}/")
        elif entry.is_file():
            yield name
        else:
            raise BundleError(f"{folder}: {name} is neither file nor folder; remove it")


def listed(names: list[str]) -> str:
    """Return the first three names, and how many more there are."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def open_plain(folder: Path, name: str) -> BinaryIO:
    """Open a plain file without following a link; raises BundleError for anything else."""
    path = folder / name
    try:
        file = os.fdopen(os.open(path, OPEN_FLAGS), "rb")
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); copy the bundle again") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise BundleError(f"{path} is not a plain file; copy the bundle again")
    return file


def check_file(folder: Path, name: str, entry: FileEntry) -> None:
    """Raise BundleError when a file is not what ``entry`` describes; piece by piece, so that no model fills memory."""
    digest, buffer, count = hashlib.sha256(), memoryview(bytearray(PIECE_BYTES)), 0
    with open_plain(folder, name) as file:
        size = os.fstat(file.fileno()).st_size
        while size == entry.size and count <= size and (length := file.readinto(buffer)):  # type: ignore[attr-defined]
            digest.update(buffer[:length])
            count += length
    compare(folder / name, size if size != entry.size else count, digest.hexdigest(), entry)


def compare(path: Path, size: int, sha256: str, entry: FileEntry) -> None:
    """Raise BundleError unless a file's size and SHA-256 are those of ``entry``."""
    if size != entry.size:
        raise BundleError(f"{path} has {size} bytes, the manifest says {entry.size}; copy the bundle again")
    if sha256 != entry.sha256:
        raise BundleError(f"{path} was changed: its SHA-256 is not the manifest's; copy the bundle again")


def read_verified(folder: Path, name: str, entry: FileEntry) -> bytes:
    """Return the file's bytes; raises BundleError when they are not those that ``entry`` describes."""
    with open_plain(folder, name) as file:
        size = os.fstat(file.fileno()).st_size
        # Compared before reading: a wrong size in the manifest must not become a huge allocation.
        data = file.read(entry.size + 1) if size == entry.size else b""
    compare(folder / name, size if size != entry.size else len(data), hashlib.sha256(data).hexdigest(), entry)
    return data


def load_arrays(data: bytes, name: str, error: type[RoadworthyError] = BundleError) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of an ``.npz``; raises ``error`` for pickles, damage, or more than ``MAX_ARRAY_BYTES``."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unfolded = sum(member.file_size for member in archive.infolist())
        if unfolded > MAX_ARRAY_BYTES:
            raise error(f"{name} unfolds to {unfolded} bytes, more than the {MAX_ARRAY_BYTES} allowed; make it smaller")
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except UNREADABLE as failure:
        raise error(f"{name} is not a readable .npz ({failure}); make it again") from None


def expect(
    arrays: dict[str, NDArray[np.generic]], file: str, name: str, dtype: type, shape: tuple[int, ...]
) -> NDArray[Any]:
    """Return one array of the wanted type and shape (-1: any length); raises BundleError otherwise."""
    if name not in arrays:
        raise BundleError(f"{file} holds no {name!r}; export the bundle again")
    array = arrays[name]
    fits = len(shape) == array.ndim and all(want in (-1, have) for want, have in zip(shape, array.shape, strict=True))
    if array.dtype != dtype or not fits:
        wanted = f"{np.dtype(dtype)} {['any' if length == -1 else length for length in shape]}"
        raise BundleError(
            f"{file}: {name!r} is {array.dtype} {list(array.shape)}, expected {wanted}; export the bundle again"
        )
    return array
