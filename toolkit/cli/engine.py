"""``roadworthy engine``: TensorRT engines on the device, built ahead, listed, cleared; and checked on the desktop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from edge_runtime.errors import GateError, ProviderError
from toolkit.cli.options import bundle_argument, examples, json_option

if TYPE_CHECKING:
    from edge_runtime.backends.cache import Entry
    from edge_runtime.backends.keys import Platform
    from edge_runtime.backends.workshop import BuiltEngine


@click.group(epilog=examples("roadworthy engine build bundles/natural", "roadworthy engine list"))
def engine() -> None:
    """Build, list and clear this device's TensorRT engines (docs/tensorrt.md)."""


@engine.command(
    epilog=examples(
        "roadworthy engine build bundles/natural",
        "roadworthy engine build bundles/int8 --precision int8 --optimization-level 5",
    )
)
@bundle_argument
@click.option("--precision", "precisions", multiple=True, help="One that the bundle holds.  [default: all of them]")
@click.option("--version-compatible", is_flag=True, help="Later versions of TensorRT's major version take it too.")
@click.option("--hardware-compatible", is_flag=True, help="Other GPUs from Ampere on take it too; not on Jetson.")
@click.option("--optimization-level", type=int, help="0 (quick build) to 5 (quick engine).  [default: 3]")
@click.option("--workspace-mib", type=int, help="Memory that a layer may use beside its tensors.  [default: 1024]")
@click.option("--force", is_flag=True, help="Build anew what is there already.")
@json_option
def build(
    bundle: Path,
    precisions: tuple[str, ...],
    version_compatible: bool,
    hardware_compatible: bool,
    optimization_level: int | None,
    workspace_mib: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Build the engines of BUNDLE here, so that the first start does not have to."""
    from edge_runtime.backends.keys import BuildOptions
    from edge_runtime.backends.workshop import build_bundle
    from edge_runtime.trust import open_required

    usual = BuildOptions()
    options = BuildOptions(
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        optimization_level=usual.optimization_level if optimization_level is None else optimization_level,
        workspace_mib=usual.workspace_mib if workspace_mib is None else workspace_mib,
    )
    opened = open_required(bundle)
    found = build_bundle(
        opened, precisions, options, force=force, tell=lambda file: click.echo(f"{file} ...", err=True)
    )
    click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2) if as_json else built_table(found))


@engine.command(name="list", epilog=examples("roadworthy engine list", "roadworthy engine list --json"))
@json_option
def list_engines(as_json: bool) -> None:
    """Show every engine of this device, and whether it would be loaded."""
    from edge_runtime.backends.cache import EngineCache
    from edge_runtime.backends.opening import native_runtime

    try:
        here: Platform | None = native_runtime().platform
    except ProviderError as error:
        here = None
        click.echo(f"which of them run here is not known: {error}", err=True)
    cache = EngineCache()
    entries = cache.entries(here)
    if as_json:
        rows = [{"name": each.name, "problem": each.problem, "record": each.record} for each in entries]
        click.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2))
        return
    click.echo(f"{cache.folder}: {len(entries)} engines" + (f"; {here}" if here else ""))
    for entry in entries:
        click.echo(entry_line(entry))


@engine.command(epilog=examples("roadworthy engine clear", "roadworthy engine clear --stale"))
@click.option("--stale", is_flag=True, help="Only engines that would not be loaded here.")
@json_option
def clear(stale: bool, as_json: bool) -> None:
    """Remove this device's engines; what is needed is built again."""
    from edge_runtime.backends.cache import EngineCache
    from edge_runtime.backends.opening import native_runtime

    cache = EngineCache()
    names = [each.name for each in cache.entries(native_runtime().platform) if each.problem] if stale else None
    removed = cache.clear(names)
    click.echo(msgspec.json.encode({"removed": removed}) if as_json else f"{cache.folder}: {removed} engines removed")


@engine.command(
    epilog=examples("roadworthy engine check bundles/natural", "roadworthy engine check bundles/int8 --tensorrt 10.3")
)
@bundle_argument
@click.option("--tensorrt", "version", help="As 10.3 or 11.4.  [default: every version that JetPack 6 and 7 bring]")
@json_option
def check(bundle: Path, version: str | None, as_json: bool) -> None:
    """Say on the desktop whether TensorRT takes every node of BUNDLE; exit code 3 where it does not."""
    from toolkit.cli import require

    require("engine check", ("onnx",))
    from edge_runtime.trust import open_required
    from export.tensorrt import check_bundle

    reports = check_bundle(open_required(bundle), version)
    if as_json:
        rows = [
            {"file": each.file, "refused": each.refused, "shapes": each.shapes, "findings": each.findings}
            for each in reports
        ]
        click.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2))
    else:
        for report in reports:
            click.echo(f"{report.file}: {'refused' if report.refused else 'every node is supported'}")
            for problem in (*report.shapes, *dict.fromkeys(map(str, report.findings))):
                click.echo(f"  {problem}")
    refused = [report.file for report in reports if report.refused]
    if refused:
        raise GateError(f"{bundle}: TensorRT {version or ''} takes not all of {', '.join(refused)}".replace("  ", " "))


def built_table(found: list[BuiltEngine]) -> str:
    """Return one line per engine."""
    said = {True: "built in {:.1f} s", False: "there already (built in {:.1f} s)"}
    return "\n".join(
        f"{each.file}: {said[each.built].format(each.seconds)}, {each.size / 2**20:.1f} MiB" for each in found
    )


def entry_line(entry: Entry) -> str:
    """Return what is known of one engine."""
    if entry.record is None:
        return f"  {entry.name[:16]}  {entry.problem}"
    record = entry.record
    state = entry.problem or "would be loaded"
    return f"  {entry.name[:16]}  {record.bundle} {record.file}, {record.size / 2**20:.1f} MiB, {record.built}: {state}"
