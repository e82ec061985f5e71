"""``roadworthy install``: activate a bundle on the vehicle, list what is there, go back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from edge_runtime.errors import InputError, RoadworthyError
from toolkit.cli.options import FOLDER, examples, json_option, precision_option, runtime_options

if TYPE_CHECKING:
    from edge_runtime.install import Installed, Places
    from edge_runtime.trust import TrustStore


@click.command(
    epilog=examples(
        "roadworthy install /media/usb/natural",
        "roadworthy install --list",
        "roadworthy install --rollback",
    )
)
@click.argument("bundle", type=FOLDER, required=False)
@click.option("--to", "folder", type=FOLDER, help="Folder of installed bundles.  [default: this user's]")
@click.option("--list", "listing", is_flag=True, help="Show what is installed, and whether it is whole.")
@click.option("--rollback", is_flag=True, help="Activate the last good bundle again.")
@click.option("--memory-mib", type=int, help="Memory of the self-test.  [default: 4096]")
@click.option("--cpu-seconds", type=int, help="Processor time of the self-test.  [default: 120]")
@precision_option
@runtime_options
@json_option
def install(
    bundle: Path | None,
    folder: Path | None,
    listing: bool,
    rollback: bool,
    memory_mib: int | None,
    cpu_seconds: int | None,
    precision: str,
    provider: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Activate BUNDLE: verify, copy, test in a bounded process, switch; the last good one is kept."""
    from edge_runtime.install import Limits, Places, default_folder, install_bundle, roll_back
    from edge_runtime.install.activation import Job
    from edge_runtime.trust import installed_store

    if [bundle is not None, listing, rollback].count(True) != 1:
        raise InputError("give one of: a bundle to install, --list, --rollback")
    places = Places(folder or default_folder())
    trust = installed_store()
    if listing:
        show(places, trust, as_json)
        return
    if rollback:
        click.echo(said(roll_back(places, trust), as_json))
        return
    assert bundle is not None
    usual = Limits()
    limits = Limits(
        memory_bytes=usual.memory_bytes if memory_mib is None else memory_mib << 20,
        cpu_seconds=usual.cpu_seconds if cpu_seconds is None else cpu_seconds,
    )
    job = Job(trust=trust, provider=provider, precision=precision, threads=threads, limits=limits)
    click.echo(said(install_bundle(bundle, places, job), as_json))


def said(installed: Installed, as_json: bool) -> str:
    """Return what is active now."""
    if as_json:
        known = {
            "active": str(installed.path),
            "name": installed.name,
            "version": installed.accepted.version if installed.accepted else None,
            "tested": installed.tested,
        }
        return msgspec.json.format(msgspec.json.encode(known), indent=2).decode()
    signatures = installed.accepted or "not signed, for no root of trust is installed here"
    tested = f"; {installed.tested.same_class} of {installed.tested.images} golden images" if installed.tested else ""
    return f"{installed.path} is {installed.name}: {signatures}{tested}"


def show(places: Places, trust: TrustStore | None, as_json: bool) -> None:
    """Print every installed bundle."""
    from edge_runtime.install.activation import opened_whatever_version

    rows = []
    for place in places.listed():
        try:
            whole, problem = opened_whatever_version(place.path, trust)[0].manifest.name, None
        except RoadworthyError as error:
            whole, problem = None, str(error)
        rows.append({"name": place.name, "role": place.role, "bundle": whole, "problem": problem})
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2))
        return
    if not rows:
        click.echo(f"{places.folder}: no bundle is installed")
    for row in rows:
        click.echo(f"{row['role'] or '-':9} {row['name']}  {row['bundle'] or row['problem']}")
