"""At least a thousand power cuts: every acknowledged record survives, whatever subset of unsynced sectors did."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_runtime.errors import LogError
from edge_runtime.log import Anchor, store, verify
from tests.edge_runtime.log_tools import Files, Trace, after_power_cut, frame, hooked, open_log, write_files

DRIVES, CUTS_PER_DRIVE = 100, 11
COMMITS_PER_DRIVE, RECORDS_PER_COMMIT, PICTURE = 6, 2, 6000


@dataclass
class Tally:
    """What the cuts led to."""

    cuts: int = 0
    damaged: int = 0
    first_problem: str = ""
    recoveries_cut: int = 0


def drive(folder: Path, number: int) -> Trace:
    """Open the log, commit a few times, close it; return everything that reached the operating system."""
    trace = Trace()
    with hooked(trace) as vfs, open_log(folder / "audit.log", vfs) as log:
        trace("opened", "")
        for commit in range(COMMITS_PER_DRIVE):
            for record in range(RECORDS_PER_COMMIT):
                log.append(frame((number * COMMITS_PER_DRIVE + commit) * RECORDS_PER_COMMIT + record, PICTURE))
            log.commit()
            assert log.status.pending == 0
            trace("acknowledged", log.head)
    return trace


def problem_after_cut(files: Files, folder: Path, acknowledged: Anchor | None) -> str | None:
    """Return what is wrong with the log that the cut left, None if it holds everything acknowledged."""
    write_files(folder, files)
    try:
        return verify(folder / "audit.log", anchor=acknowledged).problem
    except LogError as error:
        # Before the first acknowledgement there may be no log yet.
        return None if acknowledged is None else str(error)


def simulate(folder: Path, seed: int, until_damaged: bool = False) -> Tally:
    """Drive, cut, recover, drive on: each drive starts from what one of the previous drive's cuts left."""
    randomness, tally = random.Random(seed), Tally()
    durable: Files = {}
    acknowledged: Anchor | None = None
    for number in range(DRIVES):
        write_files(folder / "drive", durable)
        try:
            trace = drive(folder / "drive", number)
        except LogError as error:
            tally.damaged, tally.first_problem = tally.damaged + 1, tally.first_problem or str(error)
            return tally
        opened = trace.operations.index(("opened", ""))
        for cut in range(CUTS_PER_DRIVE):
            # One cut in four strikes while the log recovers from the previous one.
            until = randomness.randrange(max(opened, 1) if cut % 4 == 3 else len(trace.operations)) + 1
            before = trace.operations[:until]
            anchors = [operation[1] for operation in before if operation[0] == "acknowledged"]
            survived = after_power_cut(durable, before, randomness)
            known = anchors[-1] if anchors else acknowledged
            problem = problem_after_cut(survived, folder / "cut", known)
            tally.cuts += 1
            tally.recoveries_cut += until <= opened
            if problem is not None:
                tally.damaged, tally.first_problem = tally.damaged + 1, tally.first_problem or problem
        if until_damaged and tally.damaged:
            break
        durable, acknowledged = survived, known
    return tally


def test_no_acknowledged_record_is_lost_in_a_thousand_power_cuts(tmp_path: Path) -> None:
    tally = simulate(tmp_path, seed=1)
    assert tally.cuts >= 1000
    assert tally.recoveries_cut >= 100
    assert (tally.damaged, tally.first_problem) == (0, "")


@pytest.mark.parametrize("synchronous", ["off", "normal"])
def test_the_simulation_finds_the_losses_of_a_log_that_syncs_too_little(
    synchronous: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(store.PRAGMAS, "synchronous", synchronous)
    tally = simulate(tmp_path, seed=1, until_damaged=True)
    assert tally.damaged > 0
    assert tally.first_problem
