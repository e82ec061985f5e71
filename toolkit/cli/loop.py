"""``roadworthy audit --source``: the vehicle loop from the command line."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from click.core import ParameterSource

from edge_runtime.errors import InputError, LogError, unknown
from edge_runtime.log.store import DEFAULT_MAX_BYTES
from edge_runtime.loop import GROUP, EngineOptions, LadderOptions, LoopOptions, ScheduleOptions, VehicleLoop
from edge_runtime.path import METHODS
from edge_runtime.provider_choice import choose
from toolkit.cli.options import FILE, FOLDER, stack
from toolkit.cli.told import events_on_stderr

if TYPE_CHECKING:
    from edge_runtime.bundle import Bundle
    from edge_runtime.log import AuditLog
    from edge_runtime.loop import LoopSummary

# Options of the other form of `audit`, which have no meaning for a source.
OF_IMAGES = ("images", "limit", "presets", "example_count", "out", "force")
# And those of a source, which have none for a set of images.
OF_SOURCE = (
    "boxes", "crop", "topic", "log", "log_bytes", "vehicle", "live", "no_live", "every", "budget", "road_images",
    "road_window", "depth", "frames", "seconds", "timeout", "target_ms", "hot",
)  # fmt: skip

# How long Python lets one thread run on while another waits, 5 ms by default: as long as a small network takes.
SWITCH_SECONDS = 5e-4

DEFAULTS = LoopOptions()


def number(name: str, default: float | None, text: str, kind: type[int] | type[float] = int) -> Any:
    """Return an option for a number whose default, if it has one, is shown."""
    return click.option(name, type=kind, default=default, show_default=default is not None, help=text)


source_options = stack(
    click.option("--source", help="Run on frames instead: a folder, a video, a camera, a robot log (.mcap)."),
    click.option("--boxes", help="With --source: where the signs are, CSV or JSON lines.  [default: whole frames]"),
    click.option("--crop", help="With --source: x0,y0,x1,y1 of every frame, or the centre's fraction."),
    click.option("--topic", help="With --source of a robot log: the topic with the images."),
    click.option("--log", type=FILE, help="With --source: audit log to write or go on with."),
    number("--log-bytes", DEFAULT_MAX_BYTES, "Cap of the log; the oldest records go first."),
    click.option("--vehicle", help="With --log: name of the vehicle; reports group by it."),
    click.option("--live", type=FOLDER, help="Folder that `roadworthy serve` shows.  [default: where it looks]"),
    click.option("--no-live", is_flag=True, help="With --source: show nothing."),
    number("--every", DEFAULTS.schedule.every, "Explain (VG) every so-many-th image."),
    number("--budget", DEFAULTS.schedule.budget, "Share of time for IG, SG and ROAD.", float),
    number("--road-images", DEFAULTS.schedule.road_images, "Images of one ROAD measurement."),
    number("--road-window", DEFAULTS.schedule.road_window, "Images that these are drawn from."),
    number("--depth", DEFAULTS.depth, "Frames that may wait: 1 or 2."),
    number("--frames", None, "End after so many frames.  [default: with the source]"),
    number("--seconds", None, "End after so many seconds.", float),
    number("--timeout", DEFAULTS.engine.timeout, "Seconds that one inference may take.", float),
    number("--target-ms", DEFAULTS.ladder.target_ms, "Leave audits out above this p95 of a frame's age.", float),
    number("--hot", DEFAULTS.ladder.hot_celsius, "Leave audits out from so many degrees Celsius on.", float),
)


def check_form(ctx: click.Context) -> None:
    """Raise InputError for options that belong to the other form of the command than the one that --source chooses."""
    has_source = ctx.params["source"] is not None
    for name in OF_IMAGES if has_source else OF_SOURCE:
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
            option = next(param.opts[0] for param in ctx.command.params if param.name == name)
            remedy = "leave one of the two out" if has_source else "name a source too"
            raise InputError(f"{option} goes {'without' if has_source else 'with'} --source; {remedy}")


def run_loop(bundle: Path, options: dict[str, Any], as_json: bool) -> None:
    """Run the loop until its source ends, a limit is reached, or SIGINT or SIGTERM asks it to stop."""
    from edge_runtime.device import DeviceSampler
    from edge_runtime.live import LiveWriter, default_live_folder
    from edge_runtime.sources import open_source
    from edge_runtime.trust import open_required

    sys.setswitchinterval(SWITCH_SECONDS)
    chosen = loop_options(options)
    opened = open_required(bundle)
    source = open_source(options["source"], boxes=options["boxes"], crop=options["crop"], topic=options["topic"])
    if options["live"] is not None and options["no_live"]:
        raise InputError("--live and --no-live are given; leave one of the two out")
    live = None if options["no_live"] else LiveWriter(options["live"] or default_live_folder())
    with DeviceSampler() as sampler:
        log = None if options["log"] is None else open_log(opened, options)
        loop = VehicleLoop(opened, source, chosen, log=log, live=live, sampler=sampler)
        with stopped_by_signals(loop), events_on_stderr():
            summary = loop.run()
    click.echo(msgspec.json.format(msgspec.json.encode(summary), indent=2) if as_json else summary_table(summary))
    if summary.problem is not None:
        raise LogError(summary.problem)


def loop_options(options: dict[str, Any]) -> LoopOptions:
    """Turn the command's options into the library's; raises InputError for what cannot be."""
    for method in options["methods"]:
        if method not in METHODS:
            raise unknown("method", method, METHODS)
    chosen = LoopOptions(
        engine=EngineOptions(options["provider"], options["threads"], options["timeout"], options["precision"]),
        schedule=ScheduleOptions(
            methods=options["methods"] or tuple(METHODS),
            every=options["every"],
            budget=options["budget"],
            road_images=options["road_images"] if options["road"] else 0,
            road_window=options["road_window"],
            seed=options["seed"],
        ),
        ladder=LadderOptions(target_ms=options["target_ms"], hot_celsius=options["hot"]),
        depth=options["depth"],
        frames=options["frames"],
        seconds=options["seconds"],
    )
    chosen.check()
    return chosen


def open_log(bundle: Bundle, options: dict[str, Any]) -> AuditLog:
    """Open the audit log, new or existing."""
    from edge_runtime.device_identity import device_identity
    from edge_runtime.log import AuditLog
    from edge_runtime.log.frames import identity_of

    chosen = choose(bundle, options["provider"], options["threads"], precision=options["precision"])
    identity = identity_of(bundle, provider=chosen.provider, device=device_identity(), vehicle=options["vehicle"])
    return AuditLog(options["log"], identity, max_bytes=options["log_bytes"], group=GROUP)


@contextlib.contextmanager
def stopped_by_signals(loop: VehicleLoop) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the loop in order while the block runs."""
    numbers = (signal.SIGINT, signal.SIGTERM)

    def stop(number: int, frame: Any) -> None:
        loop.stop(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def summary_table(summary: LoopSummary) -> str:
    """Return the summary as plain text."""
    counts = summary.counts
    lines = [
        f"{summary.bundle} on {summary.source}: {summary.ended} after {summary.seconds:.1f} s",
        f"  frames: {counts.produced} produced = {counts.processed} processed + {counts.dropped} dropped"
        f" + {counts.failed} failed; {summary.images} images classified",
        f"  audits: {counted(summary.audits)}; left out: {counted(summary.skipped)}",
        f"  events: {counted(summary.events)}",
    ]
    for stage, latency in summary.latency.items():
        lines.append(f"  {stage}: {latency.p50:.2f} ms (p50), {latency.p95:.2f} ms (p95), {latency.p99:.2f} ms (p99)")
    drifted = [measure for measure, state in summary.drift.items() if state.drifted]
    if summary.drift:
        lines.append(f"  drift: {', '.join(drifted) or 'none'} (of {', '.join(summary.drift)})")
    if summary.log:
        lines.append(f"  log: {summary.log['acknowledged']} records in {summary.log['path']}")
    return "\n".join(lines)


def counted(numbers: dict[str, int]) -> str:
    """Return ``3 vg, 1 ig``, or ``none``."""
    return ", ".join(f"{number} {name}" for name, number in numbers.items()) or "none"
