"""The sizes that a bundle's engines are built for: one image at a time first, because that is what a vehicle does.

An engine holds memory for the largest sizes of its profiles. A profile of up to N images *and* up to K sample points
would hold it for N * K, so images and points never grow together: an explainer runs many points of one image, or one
point of many images, and a batch that is neither goes through the engine image by image.
"""

from __future__ import annotations

from collections.abc import Callable

from edge_runtime.backends.keys import Profile, Sizes
from edge_runtime.bundle import CLASSIFIER, EXPLAINER, precision_file
from edge_runtime.errors import BundleError, InputError
from edge_runtime.manifest import PRESETS, InputSpec, Manifest
from edge_runtime.path import even_step, sample_path

ONE: Sizes = (1, 1, 1)
DEFAULT_PRESETS = "paper"

# First axis of each input: how many images, or how many sample points. All others have the size of the bundle's images.
IMAGES, POINTS = "images", "points"
FIRST_AXIS = {
    "image": IMAGES,
    "target": IMAGES,
    "baseline": IMAGES,
    "scale": POINTS,
    "weight": POINTS,
    "noise": POINTS,
}
PICTURES = ("image", "baseline", "noise")


def classifier_profiles(manifest: Manifest, batch: int, chunk: int) -> tuple[Profile, ...]:
    """One frame; and batches, as ROAD takes them."""
    return (Profile(images=ONE), Profile(images=(1, batch, batch)))


def explainer_profiles(manifest: Manifest, batch: int, chunk: int) -> tuple[Profile, ...]:
    """One frame's gradient; one image's path, in the steps that its preset takes; the gradients of a batch."""
    presets = (manifest.explainers or PRESETS[DEFAULT_PRESETS]).values()
    usual = max(even_step(len(sample_path(preset).scale), chunk) for preset in presets)
    return (
        Profile(images=ONE, points=ONE),
        Profile(images=ONE, points=(1, usual, chunk)),
        Profile(images=(1, chunk, chunk), points=ONE),
    )


# The bundle's file, in whichever precision -> its profiles, from the largest batch and the largest number of points.
PROFILES: dict[str, Callable[[Manifest, int, int], tuple[Profile, ...]]] = {
    CLASSIFIER: classifier_profiles,
    EXPLAINER: explainer_profiles,
}


def engine_profiles(manifest: Manifest, name: str, batch: int, chunk: int) -> tuple[Profile, ...]:
    """Return the profiles of the bundle's file ``name``; raises InputError for a file that is no graph of a bundle."""
    for file, profiles in PROFILES.items():
        if name in {precision_file(file, precision) for precision in ("fp32", *manifest.precisions)}:
            return profiles(manifest, batch, chunk)
    raise InputError(f"{name} is neither classifier nor explainer, so no engine is built of it")


def input_shapes(name: str, profile: Profile, spec: InputSpec) -> tuple[tuple[int, ...], ...]:
    """Return least, usual and largest shape of an engine's input; raises BundleError for one that no bundle has."""
    if name not in FIRST_AXIS:
        raise BundleError(f"input {name!r} is none of a bundle's ({', '.join(FIRST_AXIS)}); export the bundle again")
    sizes = profile.images if FIRST_AXIS[name] == IMAGES else profile.points or ONE
    rest = (3, spec.height, spec.width) if name in PICTURES else ()
    return tuple((size, *rest) for size in sizes)
