"""What to measure next: Optuna's TPE sampler over the candidates, with its study kept in a journal.

The journal is a memory that may be lost: the trials' own files are what was measured, and whatever a study lacks is
told to it again. There is one study for each set of limits and choices, so that with other limits the same measurements
are judged anew. A proposal depends on the seed and on what is known, not on how often the search was interrupted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import optuna
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from toolkit import workplace
from toolkit.select.constraints import Limits
from toolkit.select.measures import OBJECTIVES, Point, Record
from toolkit.select.space import Candidate, Space

STARTUP = 8
"""Measured candidates before the sampler models them; until then it draws at random."""
ATTEMPTS = 20
"""Proposals in a row that are known already before one is drawn from what is left."""
NUMBER, REASON = "number", "reason"


def proposals(journal: Path, space: Space, limits: Limits, seed: int) -> Proposals:
    """Open the study of this space and these limits in ``journal``; one that cannot be used is made anew."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    _mend(journal)
    try:
        return Proposals(journal, space, limits, seed)
    except Exception as error:  # whatever a damaged journal, or one of another release, raises when it is replayed
        if workplace.disk_full(error):
            raise
        journal.unlink(missing_ok=True)
        return Proposals(journal, space, limits, seed)


def _mend(journal: Path) -> None:
    """Cut off a last line that a killed process did not finish; the next one would be appended to it."""
    if journal.is_file():
        content = journal.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(journal, content.rfind(b"\n") + 1)


class _NoLock(JournalFileOpenLock):
    """The search is alone in its folder already, and this lock does not outlive a kill."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


class Proposals:
    """One Optuna study; see :func:`proposals`."""

    def __init__(self, journal: Path, space: Space, limits: Limits, seed: int) -> None:
        self.space, self.limits, self.seed = space, limits, seed
        content = msgspec.json.encode([vars(space), limits], order="deterministic")
        self.study = optuna.create_study(
            study_name=hashlib.sha256(content).hexdigest()[:12],
            storage=JournalStorage(JournalFileBackend(str(journal), _NoLock(str(journal)))),
            directions=["minimize" if each.sign > 0 else "maximize" for each in OBJECTIVES],
            load_if_exists=True,
        )
        self._asked: dict[Candidate, optuna.Trial] = {}
        self._drop_unfinished()
        self._told = {trial.user_attrs[NUMBER] for trial in self.study.get_trials(deepcopy=False) if _is_told(trial)}

    def learn(self, records: Sequence[Record], points: Mapping[int, Point]) -> None:
        """Tell the study every record that it does not know yet; ``points`` are the measured ones by number."""
        inside = set(self.space.all())
        for record in records:
            if record.number not in self._told and record.candidate in inside:
                self._tell(record, points.get(record.number))
                self._told.add(record.number)

    def propose(self, known: Collection[Candidate]) -> Candidate | None:
        """Return a candidate that is not ``known``; None where all are."""
        for candidate in self.space.beginning():
            if candidate not in known:
                return candidate
        (state,) = np.random.SeedSequence([self.seed, len(known)]).generate_state(1).tolist()
        self.study.sampler = TPESampler(seed=state, n_startup_trials=STARTUP)
        for _ in range(ATTEMPTS):
            trial = self.study.ask()
            candidate = self.space.suggest(trial)
            if candidate not in known:
                self._asked[candidate] = trial
                return candidate
            self.study.tell(trial, state=TrialState.FAIL)
        left = [candidate for candidate in self.space.all() if candidate not in known]
        return left[int(np.random.default_rng(state).integers(len(left)))] if left else None

    def _tell(self, record: Record, point: Point | None) -> None:
        trial = self._asked.pop(record.candidate, None) or self._trial_of(self.space.parameters(record.candidate))
        trial.set_user_attr(NUMBER, record.number)
        if point is None:
            trial.set_user_attr(REASON, record.reason)
            self.study.tell(trial, state=TrialState.FAIL)
            return
        for each in self.limits.given():
            trial.set_constraint(each.name, each.excess(point, self.limits))
        self.study.tell(trial, [getattr(point, each.name) for each in OBJECTIVES])

    def _trial_of(self, parameters: dict[str, Any]) -> optuna.Trial:
        self.study.enqueue_trial(parameters)
        trial = self.study.ask()
        self.space.suggest(trial)
        return trial

    def _drop_unfinished(self) -> None:
        """End what a killed process had asked for; its candidate is begun again from its folder."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)
        for _ in self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self.study.tell(self.study.ask(), state=TrialState.FAIL)


def _is_told(trial: optuna.trial.FrozenTrial) -> bool:
    """Tell whether a record was told to its end: a kill may have come between its number and its values."""
    return NUMBER in trial.user_attrs and (trial.state == TrialState.COMPLETE or REASON in trial.user_attrs)
