"""The command line ``roadworthy``: one table of commands, each loaded only when it is called.

Commands are thin: they turn options into one library call and print its result. Expected failures
(:class:`~edge_runtime.errors.RoadworthyError`) become one line on stderr and the error's exit code; bugs keep their
traceback.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import click

from edge_runtime.errors import InputError, RoadworthyError, unknown

INTERRUPTED = 130  # the shell's convention for a program ended by Ctrl-C


@dataclass(frozen=True)
class Command:
    """Where a command lives, its line in ``roadworthy --help``, and the modules that it cannot work without."""

    target: str
    help: str
    needs: tuple[str, ...] = ()


TRUST = ("tuf", "cryptography")

COMMANDS: dict[str, Command] = {
    "train": Command("toolkit.cli.desktop:train", "Train a classifier into a run folder.", needs=("torch",)),
    "prune": Command("toolkit.cli.desktop:prune", "Prune a run into a new one.", needs=("torch",)),
    "evaluate": Command("toolkit.cli.desktop:evaluate", "Measure runs on held-out images.", needs=("torch",)),
    "study": Command("toolkit.cli.study:study", "Run a grid of networks; tables beside the paper's.", needs=("torch",)),
    "select": Command("toolkit.cli.select:select", "Choose a pruning that keeps to limits.", needs=("torch", "optuna")),
    "export": Command("toolkit.cli.export:export", "Make a run or an ONNX file into a bundle.", needs=("onnx",)),
    "calibrate": Command(
        "toolkit.cli.calibrate:calibrate", "Add INT8 to a bundle, if its explanations survive.", needs=("onnx",)
    ),
    "verify": Command(
        "toolkit.cli.runtime:verify",
        "Check a bundle and compute its golden set on this device.",
        needs=("onnxruntime",),
    ),
    "keys": Command("toolkit.cli.trust:keys", "Make and replace the keys that sign bundles.", needs=TRUST),
    "sign": Command("toolkit.cli.trust:sign", "Sign every file of a bundle.", needs=TRUST),
    "trust": Command("toolkit.cli.trust:trust", "Say whose bundles this device accepts.", needs=TRUST),
    "install": Command(
        "toolkit.cli.install:install", "Activate a bundle on this device, with a way back.", needs=("onnxruntime",)
    ),
    "classify": Command("toolkit.cli.runtime:classify", "Classify image files.", needs=("onnxruntime",)),
    "explain": Command("toolkit.cli.runtime:explain", "Draw what a decision rests on.", needs=("onnxruntime",)),
    "audit": Command("toolkit.cli.measure:audit", "Measure accuracy, Gini, ROAD and latency.", needs=("onnxruntime",)),
    "bench": Command("toolkit.cli.measure:bench", "Time bundles in alternation.", needs=("onnxruntime",)),
    "engine": Command("toolkit.cli.engine:engine", "Build, list and clear this device's TensorRT engines."),
    "service": Command("toolkit.cli.service:service", "Print the systemd unit of a vehicle loop."),
    "serve": Command(
        "toolkit.cli.serve:serve",
        "Show what a running vehicle loop sees: page, health, metrics.",
        needs=("starlette", "uvicorn", "prometheus_client"),
    ),
    "log": Command("toolkit.cli.log:cli", "Show, verify and export a vehicle's audit log."),
    "report": Command("toolkit.cli.report:report", "Make report.html of results and logs.", needs=("matplotlib",)),
    "demo": Command("toolkit.cli.report:demo", "Do the whole job on a small network.", needs=("torch",)),
}

# Which extra brings a module that may be missing.
EXTRAS = {
    "cryptography": "trust",
    "onnxruntime": "cpu",
    "prometheus_client": "serve",
    "starlette": "serve",
    "tuf": "trust",
    "uvicorn": "serve",
}
DEFAULT_EXTRA = "desktop"


class LazyGroup(click.Group):
    """A group whose commands come from :data:`COMMANDS`; listing them imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].target.partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS:
            raise unknown("command", name, COMMANDS)
        require(name, COMMANDS[name].needs)
        return name, self.get_command(ctx, name), args[1:]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in COMMANDS.items()])


def require(command: str, modules: Sequence[str]) -> None:
    """Raise InputError with the way out where ``command`` misses one of ``modules``; nothing is imported."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            extra = EXTRAS.get(module, DEFAULT_EXTRA)
            raise InputError(
                f"'roadworthy {command}' needs {module}, which is not installed here: pip install 'roadworthy[{extra}]'"
            )


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="\b\nExamples:\n  roadworthy demo\n  roadworthy train --help",
)
@click.version_option(package_name="roadworthy", prog_name="roadworthy")
def cli() -> None:
    """Traffic-sign classifiers that stay explainable on the vehicle: train, prune, export, explain, audit."""


def fail(message: str, code: int) -> NoReturn:
    """Print one line on stderr and end the program; all but the first process of a torchrun say which one they are."""
    rank = os.environ.get("RANK", "0")
    who = "roadworthy" if rank == "0" else f"roadworthy (process {rank})"
    click.echo(f"{who}: {message}", err=True)
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the script ``roadworthy``; ``arguments`` default to the process's own."""
    try:
        code = cli.main(args=arguments, prog_name="roadworthy", standalone_mode=False)
    except RoadworthyError as error:
        fail(f"error: {error}", error.exit_code)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "roadworthy"
        fail(f"error: {error.format_message()} (see {where} --help)", error.exit_code)
    except click.ClickException as error:
        fail(f"error: {error.format_message()}", error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted; finished files are kept", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)
