"""What an engine was built from, and for: all that must match before it may be loaded again."""

from __future__ import annotations

import hashlib

import msgspec

from edge_runtime.manifest import Positive, Sha256

# The first architecture of HardwareCompatibilityLevel.AMPERE_PLUS.
AMPERE = (8, 0)

Sizes = tuple[Positive, Positive, Positive]  # least, usual (tuned for), most


class Platform(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where an engine runs. ``tensorrt`` is the package's version, ``l4t_release`` Jetson Linux's, None elsewhere.

    Boards of one compute capability differ in their number of multiprocessors, for which an engine is tuned.
    """

    tensorrt: str
    compute_capability: str
    gpu: str
    multiprocessors: int
    machine: str
    l4t_release: str | None = None

    def __str__(self) -> str:
        system = f", L4T {self.l4t_release}" if self.l4t_release else ""
        return f"TensorRT {self.tensorrt} on {self.gpu} (compute capability {self.compute_capability}{system})"


class BuildOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How an engine is built.

    ``version_compatible``: later versions of TensorRT of the same major version take it too. ``hardware_compatible``:
    other GPUs from Ampere on take it too. Both cost speed. ``optimization_level``: TensorRT's, 0 to 5;
    ``workspace_mib``: memory that a layer may use beside its tensors.
    """

    version_compatible: bool = False
    hardware_compatible: bool = False
    optimization_level: int = 3
    workspace_mib: Positive = 1024


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sizes that an engine takes and is tuned for: images N, and for explainers sample points K."""

    images: Sizes
    points: Sizes | None = None

    def fits(self, images: int, points: int) -> bool:
        """Say whether a run of so many images and sample points lies within the profile."""
        inside = self.images[0] <= images <= self.images[2]
        return inside and (self.points is None or self.points[0] <= points <= self.points[2])


class EngineKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Identity of an engine: ``model`` is the SHA-256 of the ONNX file."""

    model: Sha256
    profiles: tuple[Profile, ...]
    platform: Platform
    options: BuildOptions = BuildOptions()

    @property
    def digest(self) -> str:
        """SHA-256 of all fields, as a name for files."""
        return digest(self)


def digest(value: msgspec.Struct) -> str:
    """Return the SHA-256 of a struct's canonical JSON."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()


def mismatch(key: EngineKey, here: Platform) -> str | None:
    """Return the first reason why an engine of ``key`` does not run on ``here``, or None.

    Only an engine that was built compatible may differ, and then only in what its flag is about.
    """
    built, flags = key.platform, key.options
    newer = flags.version_compatible and same_major_or_newer(built.tensorrt, here.tensorrt)
    other_gpu = flags.hardware_compatible and min(map(capability, (built, here))) >= AMPERE
    checks = (
        (built.tensorrt == here.tensorrt or newer, f"built by TensorRT {built.tensorrt}, here is {here.tensorrt}"),
        (
            built.compute_capability == here.compute_capability or other_gpu,
            f"built for compute capability {built.compute_capability}, here is {here.compute_capability}",
        ),
        (
            (built.gpu, built.multiprocessors) == (here.gpu, here.multiprocessors) or other_gpu,
            f"built on {built.gpu} ({built.multiprocessors} multiprocessors), here is {here.gpu} "
            f"({here.multiprocessors})",
        ),
        (built.machine == here.machine, f"built on {built.machine}, here is {here.machine}"),
        (
            built.l4t_release == here.l4t_release,
            f"built on L4T {built.l4t_release or 'none'}, here is {here.l4t_release or 'none'}",
        ),
    )
    return next((reason for holds, reason in checks if not holds), None)


def same_major_or_newer(built: str, here: str) -> bool:
    """Say whether version ``here`` is of the same major version as ``built`` and not older; False for other text."""
    try:
        first, second = ([int(part) for part in version.split(".")] for version in (built, here))
    except ValueError:
        return False
    return first[0] == second[0] and first <= second


def capability(platform: Platform) -> tuple[int, ...]:
    return tuple(int(part) for part in platform.compute_capability.split("."))
