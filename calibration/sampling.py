"""A small sample that stands for a data set: class-balanced, seeded, the same on every machine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import InputError


def balanced_sample(labels: npt.ArrayLike, count: int, *, seed: int = 0) -> npt.NDArray[np.int64]:
    """Return ``count`` indices into ``labels`` [N], as evenly spread over the classes as their sizes allow.

    Classes take turns, one image each, in an order drawn once from ``seed``; a class that runs out is passed over. So
    the counts of two classes differ by more than one only where the smaller class is used up, and a smaller sample of
    the same seed is the beginning of a larger one. Returns all N indices if ``count`` is larger. Raises InputError for
    an empty data set or a count below 1.
    """
    values = np.asarray(labels)
    if values.ndim != 1 or not values.size:
        raise InputError(f"cannot sample from labels of shape {values.shape}: need a non-empty list of class numbers")
    if count < 1:
        raise InputError(f"cannot sample {count} images: take at least 1")
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(values))
    # Stable sorts keep the shuffled order inside a class, and the drawn order of classes inside a turn.
    classes, members = np.unique(values, return_inverse=True)
    place_of_class = generator.permutation(len(classes))
    by_class = shuffled[np.argsort(members[shuffled], kind="stable")]
    sizes = np.bincount(members)
    turn = np.arange(len(values)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    order = np.lexsort((place_of_class[members[by_class]], turn))
    return by_class[order][:count].astype(np.int64)
