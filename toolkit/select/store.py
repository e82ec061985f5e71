"""The folder of a search: what it is a search of, and every candidate with what became of it.

::

    OUT/search.json                  what all measurements in OUT have in common (Identity)
    OUT/trials/007-SLUG/             candidate.json, then run/ (toolkit.runs), result.json as the last thing, trial.log
    OUT/search.journal               Optuna's memory (toolkit.select.proposals); made anew from trials/ where it is lost
    OUT/pareto.json, pareto.csv, select.html, recommended/    the outcome
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.errors import InputError, RoadworthyError, RunError
from edge_runtime.folders import new_file, new_folder
from toolkit import runs, workplace
from toolkit.select.measures import Record
from toolkit.select.space import BASELINE, Candidate

FORMAT = 1
IDENTITY, CANDIDATE, RESULT = "search.json", "candidate.json", "result.json"


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What may not change within one folder, because measurements would no longer compare.

    ``training`` and ``fine_tuning`` are the recipes' settings, but for epochs of fine-tuning, which are chosen, and the
    device to train on. ``origin`` is the SHA-256 of the weights that a search begins with instead of training.
    """

    format: int = FORMAT
    data: str
    data_digest: str
    normalisation: tuple[tuple[float, float, float], tuple[float, float, float]]
    architecture: str
    width: float
    size: int
    seed: int
    training: dict[str, Any]
    fine_tuning: dict[str, Any]
    origin: str | None
    explainer: str
    images: int
    provider: str
    threads: int | None
    machine: str


@dataclass(frozen=True)
class Trial:
    """A candidate with its number and folder."""

    number: int
    candidate: Candidate
    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    @property
    def result(self) -> Path:
        return self.folder / RESULT

    @property
    def log(self) -> Path:
        return self.folder / "trial.log"

    def record(self) -> Record | None:
        """Return what became of it; None where it is not finished, or its file is damaged."""
        try:
            return msgspec.json.decode(self.result.read_bytes(), type=Record)
        except (OSError, msgspec.DecodeError):
            return None


@dataclass(frozen=True)
class Store:
    """The search's folder."""

    root: Path

    @property
    def journal(self) -> Path:
        return self.root / "search.journal"

    @property
    def recommended(self) -> Path:
        return self.root / "recommended"

    def check(self) -> None:
        """Raise InputError for a folder that holds something else than a search: before the data are read."""
        if self.root.is_dir() and not (self.root / IDENTITY).is_file():
            foreign = sorted(path.name for path in self.root.iterdir() if path.name != workplace.LOCK)
            if foreign:
                raise InputError(f"{self.root} holds {foreign[0]!r} and no search; choose another --out")

    def claim(self, identity: Identity) -> None:
        """Make this the folder of the search ``identity``; raises InputError where it is another's, and says whose."""
        path = self.root / IDENTITY
        if not path.is_file():
            write_json(path, identity)
            return
        try:
            there = msgspec.json.decode(path.read_bytes(), type=Identity)
        except (OSError, msgspec.DecodeError) as error:
            raise RunError(f"{path} is damaged ({error}); restore it or choose another --out") from error
        if differences := list(_differences(_plain(there), _plain(identity))):
            raise InputError(
                f"{self.root} belongs to another search ({'; '.join(differences)}); repeat that or choose another --out"
            )

    def clean(self) -> None:
        """Remove what a killed process had begun to write; only while alone in the folder."""
        for folder in (self.root, self.root / "trials", *(self.root / "trials").glob("*/")):
            workplace.remove_leftovers(folder)

    def trials(self) -> list[Trial]:
        """Return every candidate that was begun, by number."""
        found = []
        for path in sorted((self.root / "trials").glob(f"*/{CANDIDATE}")):
            number, candidate = path.parent.name.partition("-")[0], _read_candidate(path)
            if candidate is not None and number.isdecimal():
                found.append(Trial(int(number), candidate, path.parent))
        return sorted(found, key=lambda trial: trial.number)

    def begin(self, number: int, candidate: Candidate) -> Trial:
        """Return the new folder of a candidate, or its old one without what lay there unreadable."""
        folder = self.root / "trials" / f"{number:03}-{candidate.slug if candidate != BASELINE else 'baseline'}"
        with new_folder(folder, marker=CANDIDATE, force=True, error=RunError) as temporary:
            (temporary / CANDIDATE).write_bytes(_pretty(candidate))
        return Trial(number, candidate, folder)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` whole or not at all; raises RunError where the file system fails."""
    with new_file(path, force=True, error=RunError) as temporary:
        temporary.write_bytes(_pretty(content))


def sha256_of(run: Path) -> str:
    """Return the SHA-256 (hex) of a run's weights; raises RunError for a run without."""
    try:
        return hashlib.sha256((run / runs.WEIGHTS).read_bytes()).hexdigest()
    except OSError as error:
        raise RunError(f"{run / runs.WEIGHTS} cannot be read: {error.strerror}; train again or restore it") from error


def _plain(content: Any) -> Any:
    """Return what JSON makes of ``content``: tuples become lists."""
    return msgspec.json.decode(msgspec.json.encode(content))


def _pretty(content: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


def _read_candidate(path: Path) -> Candidate | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Candidate)
    except (OSError, msgspec.DecodeError, RoadworthyError):
        return None


def _differences(there: dict[str, Any], here: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield ``name X there, Y here`` for whatever differs, inside of nested settings too."""
    for name in here:
        old, new = there.get(name), here[name]
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            yield f"{prefix}{name.replace('_', ' ')} {_short(old)} there, {_short(new)} here"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
