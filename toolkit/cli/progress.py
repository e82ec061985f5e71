"""Progress on the terminal: bars on stderr, so that stdout stays the result; silence where nobody looks."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from toolkit import training


def first_process() -> bool:
    """Tell whether this process speaks for those that torchrun started with it; alone, it does."""
    return os.environ.get("RANK", "0") == "0"


def together(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command with the option ``device`` work in all processes that torchrun started."""

    @functools.wraps(command)
    def run(**options: Any) -> Any:
        from toolkit import distributed

        with distributed.joined(options["device"]):
            return command(**options)

    return run


@contextlib.contextmanager
def bars() -> Iterator[Progress]:
    """Yield rich's progress display on a terminal's stderr; it shows nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not (console.is_terminal and first_process())) as progress:
        yield progress


def training_report(progress: Progress, name: str) -> Callable[[training.Progress], None]:
    """Return a callback that shows epoch, loss and validation accuracy of a training as one bar over all steps."""
    task = progress.add_task(name, total=None)

    def report(state: training.Progress) -> None:
        done = (state.epoch - 1) * state.steps + state.step
        accuracy = "" if state.validation_accuracy is None else f", validation {state.validation_accuracy:.1%}"
        progress.update(
            task,
            total=state.epochs * state.steps,
            completed=done,
            description=f"{name}: epoch {state.epoch} of {state.epochs}, loss {state.loss:.3f}{accuracy}",
        )

    return report


def reading_report(progress: Progress, name: str) -> Callable[[int, int], None]:
    """Return a callback(done, total) for a data set that is being read."""
    task = progress.add_task(name, total=None)

    def report(done: int, total: int) -> None:
        progress.update(task, total=total, completed=done)

    return report


def stages_report(progress: Progress) -> Callable[[str, int, int], None]:
    """Return a callback(stage, done, total) that shows each stage as a bar of its own."""
    tasks: dict[str, TaskID] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = progress.add_task(stage, total=total)
        progress.update(tasks[stage], total=total, completed=done + 1)

    return report
