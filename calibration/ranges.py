"""Ranges of a network's tensors, observed on a stream of images, kept in a cache, readable as JSON."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx

from calibration.layers import Network
from calibration.thresholds import BINS, METHODS, Histogram, threshold
from edge_runtime.errors import DataError, InputError, unknown
from edge_runtime.folders import new_file
from export.session import cpu_session, expose

FORMAT = 1
CACHE_FORMAT = 1

Images = npt.NDArray[np.float32]
Progress = Callable[[str, int, int], None]


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``threshold``: the largest |value| that int8 represents, 127 steps; ``largest``: that was seen (None: not known).

    0 means that the tensor is 0 for every image.
    """

    threshold: float
    largest: float | None = None


class Ranges(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Ranges by tensor, and where they come from; ``model`` and ``data`` are SHA-256 digests, None where not known."""

    format: int
    method: str
    tensors: dict[str, Range]
    samples: int | None = None
    model: str | None = None
    data: str | None = None

    def thresholds(self) -> dict[str, float]:
        """Return the threshold of every tensor."""
        return {name: found.threshold for name, found in self.tensors.items()}


@dataclass(frozen=True)
class Stream:
    """Calibration images: ``batches`` of normalised float32 [n, C, H, W], how many images in all, and their digest."""

    batches: Callable[[], Iterable[Images]]
    images: int
    digest: str


def observe(
    network: Network, tensors: list[str], stream: Stream, progress: Progress | None = None
) -> dict[str, Histogram]:
    """Run the network over the stream and return the histogram of every tensor; only one batch is held at a time.

    Raises DataError where a tensor is not finite.
    """
    model = onnx.ModelProto()
    model.CopyFrom(network.prepared.model)
    image = network.prepared.image
    inner = [name for name in tensors if name != image]
    expose(model, inner)
    session = cpu_session(model)
    histograms = {name: Histogram() for name in tensors}
    done = 0
    for batch in stream.batches():
        values = dict(zip(inner, session.run(inner, {image: batch}), strict=True)) if inner else {}
        values[image] = batch
        for name, histogram in histograms.items():
            if not np.isfinite(values[name]).all():
                raise DataError(
                    f"tensor {name!r} is NaN or infinite for calibration images {done} to {done + len(batch) - 1}; "
                    "check these images and the model"
                )
            histogram.add(values[name])
        done += len(batch)
        if progress is not None:
            progress("calibrating", done, stream.images)
    return histograms


def observe_cached(
    network: Network, tensors: list[str], stream: Stream, cache: Path | None, progress: Progress | None = None
) -> dict[str, Histogram]:
    """As :func:`observe`, from the folder ``cache`` where it was done before for this model and these images."""
    if cache is None:
        return observe(network, tensors, stream, progress)
    file = cache / f"{cache_key(network, tensors, stream)}.npz"
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return load_histograms(file, tensors)
    histograms = observe(network, tensors, stream, progress)
    file.parent.mkdir(parents=True, exist_ok=True)
    with new_file(file, force=True) as temporary, open(temporary, "wb") as opened:
        np.savez_compressed(
            opened,
            counts=np.stack([h.counts for h in histograms.values()]),
            limits=np.array([[h.limit, h.largest] for h in histograms.values()]),
        )
    return histograms


def load_histograms(file: Path, tensors: list[str]) -> dict[str, Histogram]:
    """Read a cached observation; raises ValueError for one of other tensors, and what NumPy raises for damage."""
    with np.load(file, allow_pickle=False) as arrays:
        counts, limits = arrays["counts"], arrays["limits"]
    if counts.shape != (len(tensors), BINS) or limits.shape != (len(tensors), 2):
        raise ValueError(file)
    histograms = {}
    for name, row, (limit, largest) in zip(tensors, counts, limits.tolist(), strict=True):
        histograms[name] = Histogram()
        histograms[name].counts, histograms[name].limit, histograms[name].largest = row, limit, largest
    return histograms


def default_cache() -> Path:
    """Return the user's folder for observations."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roadworthy" / "calibration"


def cache_key(network: Network, tensors: list[str], stream: Stream) -> str:
    """Return a digest of all that an observation depends on."""
    parts = [str(CACHE_FORMAT), str(BINS), model_digest(network), stream.digest, *tensors]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def model_digest(network: Network) -> str:
    """Return the SHA-256 of the prepared network."""
    return hashlib.sha256(network.prepared.model.SerializeToString(deterministic=True)).hexdigest()


def choose_ranges(histograms: dict[str, Histogram], method: str, network: Network, stream: Stream) -> Ranges:
    """Return the ranges that ``method`` chooses; raises InputError for an unknown method."""
    if method not in METHODS:
        raise unknown("calibration method", method, METHODS)
    return Ranges(
        format=FORMAT,
        method=method,
        tensors={
            name: Range(threshold=threshold(found, method), largest=found.largest) for name, found in histograms.items()
        },
        samples=stream.images,
        model=model_digest(network),
        data=stream.digest,
    )


def write_ranges(ranges: Ranges, path: Path, *, force: bool = False) -> None:
    """Write the ranges as JSON; refuses an existing file unless ``force``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path, force=force) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(ranges), indent=2) + b"\n")


def read_ranges(path: Path) -> Ranges:
    """Read ranges from JSON; raises InputError for a file that holds none."""
    try:
        ranges = msgspec.json.decode(path.read_bytes(), type=Ranges)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} holds no ranges: {error}; write them with --ranges-out") from error
    wrong = [name for name, found in ranges.tensors.items() if not 0 <= found.threshold < float("inf")]
    if wrong:
        raise InputError(
            f"{path}: the range of {wrong[0]!r} is {ranges.tensors[wrong[0]].threshold}; give a number >= 0"
        )
    return ranges
