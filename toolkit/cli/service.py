"""``roadworthy service``: print the systemd unit of a vehicle loop."""

from __future__ import annotations

from typing import Any

import click

from edge_runtime.service.unit import UnitOptions, unit_text
from toolkit.cli.options import examples

DEFAULTS = UnitOptions(source="")


def option(name: str, help_text: str) -> Any:
    """Return an option whose default is the unit's."""
    return click.option(
        f"--{name.replace('_', '-')}", name, default=getattr(DEFAULTS, name), show_default=True, help=help_text
    )


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog=examples(
        "roadworthy service --source camera:0 > /etc/systemd/system/roadworthy.service",
        "roadworthy service --source camera:0 --watchdog 30 -- --crop 0.5 --provider cuda",
    ),
)
@click.option("--source", required=True, help="What the loop runs on: a camera, a robot log ...")
@option("bundle", "Bundle to run: the link that `roadworthy install` switches.")
@option("log", "Audit log to write.")
@option("user", "User that the loop runs as.")
@click.option("--program", default="", help="The command.  [default: this installation's]")
@option("memory_mib", "Memory that the loop may take.")
@option("cpu_weight", "Share of the processor, 100 being everybody else's.")
@option("watchdog", "Seconds without a completed frame until it is started anew.")
@click.argument("extra", nargs=-1)
def service(**options: Any) -> None:
    """Print a systemd unit; EXTRA are more options of `roadworthy audit`."""
    click.echo(unit_text(UnitOptions(**options)), nl=False)
