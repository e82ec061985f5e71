"""``roadworthy serve``: the page of a running vehicle loop."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from edge_runtime.serve.server import DEFAULT_HOST, DEFAULT_PORT, TOKEN_VARIABLE, ServeOptions
from toolkit.cli.options import FILE, FOLDER, examples


@click.command(
    epilog=examples(
        "roadworthy serve",
        "roadworthy serve /run/roadworthy --port 8000",
        "roadworthy serve --host 0.0.0.0 --token-file token.txt --certificate cert.pem --key key.pem",
    )
)
@click.argument("live", required=False, type=FOLDER)
@click.option("--host", default=DEFAULT_HOST, show_default=True, help="Address; any but this machine's needs a token.")
@click.option(
    "--port", default=DEFAULT_PORT, show_default=True, type=click.IntRange(0, 65535), help="0: any that is free."
)
@click.option("--token-file", type=FILE, help=f"File of the token.  [default: ${TOKEN_VARIABLE}, if set]")
@click.option("--certificate", type=FILE, help="PEM certificate, for HTTPS.")
@click.option("--key", type=FILE, help="PEM key of the certificate.")
def serve(
    live: Path | None, host: str, port: int, token_file: Path | None, certificate: Path | None, key: Path | None
) -> None:
    """Show what a running vehicle loop sees: page, /healthz, /readyz and /metrics.

    LIVE is the loop's live folder, by default the one that it uses by default. Loop and server may start in any order.
    """
    from edge_runtime.live import default_live_folder
    from edge_runtime.serve.server import serve as run

    options = ServeOptions(host, port, token_file, certificate, key)
    with contextlib.suppress(KeyboardInterrupt):  # which is how it is meant to end
        run(live or default_live_folder(), options, lambda address: click.echo(f"{address}  (Ctrl-C ends it)"))
