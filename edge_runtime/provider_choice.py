"""Which execution provider to use: the one that was named, or with "auto" the first that proves itself.

A provider that is listed may lack its libraries, its GPU or the model's operators, or compute something else. So each
is tried with the bundle itself: sessions are created and the golden set is computed. Nothing else proves anything.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from edge_runtime.errors import EngineError, ProviderError, unknown
from edge_runtime.manifest import FP32
from edge_runtime.sessions import PROVIDERS

if TYPE_CHECKING:
    from edge_runtime.bundle import Bundle

AUTO = "auto"
ORDER = ("tensorrt", "cuda", "cpu")  # the fastest first
CHOICES = (*PROVIDERS, AUTO)

logger = logging.getLogger(__name__)


class PassedOver(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A provider that "auto" did not take, and why."""

    provider: str
    reason: str

    def __str__(self) -> str:
        return f"provider {self.provider} passed over: {self.reason}"


@dataclass(frozen=True)
class Choice:
    """The provider to use, and those passed over for it."""

    provider: str
    passed_over: tuple[PassedOver, ...] = ()


# A bundle in one of its precisions.
Subject = tuple["Bundle", str]
# What was found out stays true while the process lives, and classifier and explainer of a bundle must agree.
_known: dict[tuple[object, ...], Choice] = {}


def choose(bundle: Bundle, provider: str, threads: int | None = None, *, precision: str = FP32) -> Choice:
    """Return ``provider``, or for "auto" the first of ORDER that reproduces the bundle's golden set.

    What is passed over is logged as a warning, once.
    Raises InputError for an unknown provider, ProviderError where none proves itself, BundleError for a bundle that
    cannot be tested.
    """
    return choose_for([(bundle, precision)], provider, threads)


def choose_for(subjects: Sequence[Subject], provider: str, threads: int | None = None) -> Choice:
    """As :func:`choose`, for one provider that proves itself with every bundle and precision of ``subjects``."""
    if provider not in CHOICES:
        raise unknown("provider", provider, CHOICES)
    if provider != AUTO:
        return Choice(provider)
    key = (*((bundle.digest, precision) for bundle, precision in subjects), threads)
    if key not in _known:
        _known[key] = _try_in_order(subjects, threads)
    return _known[key]


def forget() -> None:
    """Forget what was found out, so that the next "auto" tries again."""
    _known.clear()


def _try_in_order(subjects: Sequence[Subject], threads: int | None) -> Choice:
    passed_over: list[PassedOver] = []
    for name in ORDER:
        reason = _shortcoming(subjects, name, threads)
        if reason is None:
            return Choice(name, tuple(passed_over))
        passed_over.append(PassedOver(name, reason))
        logger.warning("%s", passed_over[-1])
    raise ProviderError(f"no provider reproduces the golden set ({'; '.join(map(str, passed_over))}); export it again")


def _shortcoming(subjects: Sequence[Subject], provider: str, threads: int | None) -> str | None:
    """Return why ``provider`` does not do for all ``subjects``, None where it does."""
    from edge_runtime.self_test import EXPLAINED, self_test

    for bundle, precision in subjects:
        where = f"{bundle.manifest.name} in {precision}: " if len(subjects) > 1 else ""
        try:
            result = self_test(bundle, provider, threads, precision=precision, explained=EXPLAINED)
        except (ProviderError, EngineError) as error:
            return f"{where}{error}"
        if not result.passed:
            return f"{where}{result.verdict}"
    return None
