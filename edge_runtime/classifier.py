"""Classify images with a bundle's ``classifier.onnx``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_runtime.bundle import CLASSIFIER, Bundle
from edge_runtime.errors import BundleError
from edge_runtime.manifest import FP32
from edge_runtime.preprocess import check_batch
from edge_runtime.provider_choice import choose
from edge_runtime.sessions import DEFAULT_PROVIDER, Run, default_batch, open_session, run_session

if TYPE_CHECKING:
    import onnxruntime

INVALID = -1  # the class of an image whose logits are not finite


@dataclass(frozen=True)
class Prediction:
    """What the classifier says of N images: ``logits`` float32 [N, K], ``target`` int64 [N] (the predicted class),
    ``probability`` float32 [N] (softmax of that class) and ``valid`` bool [N].

    Where the logits hold NaN or infinity, ``valid`` is False, ``target`` is -1 and ``probability`` is NaN.
    """

    logits: NDArray[np.float32]
    target: NDArray[np.int64]
    probability: NDArray[np.float32]
    valid: NDArray[np.bool_]


class Classifier:
    """A bundle's classifier in one of its precisions, on one execution provider (see ``provider_choice.CHOICES``).

    ``provider`` is the one in use, ``run`` runs its engine.
    """

    def __init__(
        self,
        bundle: Bundle,
        provider: str = DEFAULT_PROVIDER,
        threads: int | None = None,
        *,
        precision: str = FP32,
        run: Run = run_session,
    ) -> None:
        self.bundle = bundle
        self.precision = precision
        self.provider = provider = choose(bundle, provider, threads, precision=precision).provider
        self._run = run
        file = bundle.file(CLASSIFIER, precision)
        self.session = open_session(bundle, file, provider, threads)
        self._batch = default_batch(provider, bundle.manifest.input)
        check_interface(self.session, file, {"image"}, {"logits"})

    def predict(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits float32 [N, K] of normalised images float32 [N, C, H, W], as the engine gives them.

        Raises InputError for an empty batch, another type or shape, and images that are not finite.
        """
        check_batch(images, self.bundle.manifest.input)
        starts = range(0, len(images), self._batch)
        parts = [
            self._run(self.session, ["logits"], {"image": images[start : start + self._batch]})[0] for start in starts
        ]
        logits: NDArray[np.float32] = np.concatenate(parts)
        classes = len(self.bundle.labels)
        if logits.shape != (len(images), classes):
            raise BundleError(f"{CLASSIFIER} returns {list(logits.shape)} logits for {classes} labels; export it again")
        return logits

    def classify(self, images: NDArray[np.float32]) -> Prediction:
        """Return predicted classes and probabilities; see :meth:`predict` for the input and the errors."""
        return interpret(self.predict(images))


def interpret(logits: NDArray[np.float32]) -> Prediction:
    """Turn logits [N, K] into classes and probabilities; rows that are not finite are flagged, never classified."""
    valid = finite_rows(logits)
    target = np.where(valid, np.argmax(logits, axis=1), INVALID).astype(np.int64)
    probability = np.full(len(logits), np.nan, np.float32)
    finite = logits[valid].astype(np.float64)
    # softmax of the largest logit: exp(0) / sum exp(z - max)
    probability[valid] = 1 / np.exp(finite - finite.max(axis=1, keepdims=True)).sum(axis=1)
    return Prediction(logits=logits, target=target, probability=probability, valid=valid)


def finite_rows(array: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return bool [N]: where all values of a row of ``array`` [N, ...] are finite."""
    return np.asarray(np.isfinite(array).reshape(len(array), -1).all(axis=1))


def check_interface(session: onnxruntime.InferenceSession, file: str, inputs: set[str], outputs: set[str]) -> None:
    """Raise BundleError unless the model has exactly these inputs, and at least these outputs."""
    found_inputs = {each.name for each in session.get_inputs()}
    found_outputs = {each.name for each in session.get_outputs()}
    if found_inputs != inputs or not outputs <= found_outputs:
        raise BundleError(
            f"{file} maps {sorted(found_inputs)} to {sorted(found_outputs)}, "
            f"expected {sorted(inputs)} to {sorted(outputs)}; export it again"
        )
