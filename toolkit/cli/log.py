"""Commands on the vehicle's audit log: show, verify, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_runtime.errors import InputError, LogError
from toolkit.cli.options import FILE, examples, force_option, json_option

if TYPE_CHECKING:
    from edge_runtime.log import VerifyResult

SHOWN = 20

log_argument = click.argument("log", type=FILE)
key_option = click.option("--key", type=FILE, help="File of the key that sealed the log.")
anchor_option = click.option(
    "--anchor", metavar="SEQUENCE:HASH", help="A head noted elsewhere.  [default: the file LOG-anchor, if there is one]"
)


@click.group(
    name="log",
    epilog=examples(
        "roadworthy log show audit.log",
        "roadworthy log verify audit.log",
        "roadworthy log export audit.log drive.mcap",
    ),
)
def cli() -> None:
    """Look into an audit log, check that it is whole, or export it."""


@cli.command(
    epilog=examples("roadworthy log show audit.log --last 5", "roadworthy log show audit.log --kind lost --json")
)
@log_argument
@click.option("--last", type=click.IntRange(min=1), default=SHOWN, show_default=True, help="Newest so many records.")
@click.option("--kind", help="Only records of this kind: frame, event, evicted, lost.")
@json_option
def show(log: Path, last: int, kind: str | None, as_json: bool) -> None:
    """Print the newest records of a log, one a line; a log may be shown while it is written."""
    from edge_runtime.errors import unknown
    from edge_runtime.log import KINDS, read
    from edge_runtime.log.table import as_json_line, as_text_line

    if kind is not None and kind not in KINDS:
        raise unknown("kind of record", kind, KINDS)
    line = as_json_line if as_json else as_text_line
    for entry in read(log, last=last, kind=kind):
        click.echo(line(entry))


@cli.command(
    epilog=examples(
        "roadworthy log verify audit.log",
        "roadworthy log verify audit.log --key vehicle.key --anchor 1234:9f2c...",
    )
)
@log_argument
@anchor_option
@key_option
@json_option
def verify(log: Path, anchor: str | None, key: Path | None, as_json: bool) -> None:
    """Check that a log holds every record that was acknowledged, in order and unchanged.

    Exit code 2 and the first bad record if not. What rewrites the whole chain shows only against an anchor or a key.
    """
    import msgspec

    result = checked(log, anchor, key)
    if as_json:
        report = {**msgspec.to_builtins(result), "head": str(result.head) if result.head else None, "ok": result.ok}
        click.echo(msgspec.json.format(msgspec.json.encode(report), indent=2))
    if not result.ok:
        raise LogError(f"{log}: {result.problem}")
    if not as_json:
        click.echo(f"{log}: {result.records} records verify, checked against: {', '.join(result.checked_by)}")
        click.echo(
            f"gaps: {result.evicted} evicted for the byte cap, {result.lost} lost; clock steps: {result.clock_steps}"
        )
        click.echo(f"head: {result.head}")


@cli.command(
    epilog=examples(
        "roadworthy log export audit.log drive.parquet",
        "roadworthy log export audit.log drive.mcap  (opens in Foxglove)",
        "roadworthy log export audit.log table.txt --to csv",
    )
)
@log_argument
@click.argument("out", type=FILE)
@click.option("--to", help="parquet, csv or mcap.  [default: by OUT's ending]")
@click.option("--unverified", is_flag=True, help="Export what can be read of a log that does not verify.")
@force_option
def export(log: Path, out: Path, to: str | None, unverified: bool, force: bool) -> None:
    """Write a log as a Parquet or CSV table, or as MCAP with image, overlay and metric topics."""
    from edge_runtime.log.export import export_log

    if not unverified:
        result = checked(log, None, None)
        if not result.ok:
            raise LogError(f"{log}: {result.problem}; pass --unverified to export it all the same")
    written = export_log(log, out, to=to, force=force)
    click.echo(f"{out}: {written} records, {out.stat().st_size} bytes")


@cli.command(
    epilog=examples(
        "roadworthy log copy /var/lib/roadworthy/log/audit.db /media/usb/vehicle7.db",
        "roadworthy log verify /media/usb/vehicle7.db",
    )
)
@log_argument
@click.argument("out", type=FILE)
@force_option
def copy(log: Path, out: Path, force: bool) -> None:
    """Take a log off the vehicle, also while it is written: one verified file, and its anchor beside it."""
    from edge_runtime.log.collect import copy_log

    head = copy_log(log, out, force=force)
    click.echo(f"{out}: {out.stat().st_size} bytes; note its head elsewhere: {head}")


def checked(log: Path, anchor: str | None, key: Path | None) -> VerifyResult:
    """Verify a log against the anchor's text and the key's file, where given."""
    from edge_runtime.log import Anchor, verify

    if key is not None and not key.is_file():
        raise InputError(f"{key} does not exist; give the file of the key that sealed the log")
    return verify(
        log,
        anchor=None if anchor is None else Anchor.parse(anchor),
        key=None if key is None else key.read_bytes(),
    )
