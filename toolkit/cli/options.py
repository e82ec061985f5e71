"""Option stacks that several commands share, and the form of the examples in ``--help``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edge_runtime.manifest import FP32
from edge_runtime.provider_choice import CHOICES
from edge_runtime.sessions import DEFAULT_PROVIDER

Decorated = Callable[..., Any]
FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


def examples(*lines: str) -> str:
    """Return the epilog of a command: its examples, one a line, unwrapped."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def stack(*options: Callable[[Decorated], Decorated]) -> Callable[[Decorated], Decorated]:
    """Combine options into one decorator; they are listed in the order given."""

    def decorate(function: Decorated) -> Decorated:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


bundle_argument = click.argument("bundle", type=FOLDER)

runtime_options = stack(
    click.option("--provider", default=DEFAULT_PROVIDER, show_default=True, help=f"One of: {', '.join(CHOICES)}."),
    click.option("--threads", type=int, help="CPU threads of one inference.  [default: all cores]"),
)

precision_option = click.option(
    "--precision", default=FP32, show_default=True, help="One that the bundle holds; `calibrate` adds int8."
)

force_option = click.option("--force", is_flag=True, help="Replace an existing output.")

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
