"""Commands of trust: the publisher's keys and signatures, the vehicle's root."""

from __future__ import annotations

import os
from pathlib import Path

import click
import msgspec

from edge_runtime.errors import InputError
from toolkit.cli.options import FILE, FOLDER, bundle_argument, examples, json_option

PASSPHRASE = "ROADWORTHY_PASSPHRASE"

passphrase_option = click.option(
    "--passphrase-file",
    type=FILE,
    help=f"File whose first line opens the private keys.  [default: ${PASSPHRASE}, else asked]",
)


def read_passphrase(file: Path | None, *, confirm: bool = False) -> str:
    """Return the passphrase from a file, the environment or the terminal, in that order."""
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file} cannot be read ({error}); give the file with the passphrase") from None
        if not lines or not lines[0]:
            raise InputError(f"{file} begins with an empty line; its first line must be the passphrase")
        return lines[0]
    if os.environ.get(PASSPHRASE):
        return os.environ[PASSPHRASE]
    entered: str = click.prompt("Passphrase of the keys", hide_input=True, confirmation_prompt=confirm, err=True)
    return entered


@click.group(
    epilog=examples(
        "roadworthy keys create keys --root-keys 3 --root-threshold 2",
        "roadworthy keys show keys",
        "roadworthy keys rotate keys targets",
    )
)
def keys() -> None:
    """Make and replace the keys that sign bundles (publisher)."""


@keys.command(epilog=examples("roadworthy keys create keys", "roadworthy keys create keys --targets-keys 2"))
@click.argument("folder", type=FOLDER)
@click.option("--root-keys", default=1, show_default=True, help="Keys that may sign a root.")
@click.option("--root-threshold", default=1, show_default=True, help="So many of them must.")
@click.option("--targets-keys", default=1, show_default=True, help="Keys that may sign a bundle.")
@click.option("--targets-threshold", default=1, show_default=True, help="So many of them must.")
@click.option("--days", type=int, help="Days that the root holds.  [default: ten years]")
@passphrase_option
def create(
    folder: Path,
    root_keys: int,
    root_threshold: int,
    targets_keys: int,
    targets_threshold: int,
    days: int | None,
    passphrase_file: Path | None,
) -> None:
    """Make new keys, encrypted, and the root that names them."""
    from export.signing.roots import ROOT_DAYS, Plan, create_keys

    plan = Plan(root_keys, root_threshold, targets_keys, targets_threshold, ROOT_DAYS if days is None else days)
    plan.check()
    root = create_keys(folder, read_passphrase(passphrase_file, confirm=True), plan)
    click.echo(f"{root}: give it to vehicles (`roadworthy trust install`); keep copies of the .pem files apart")


@keys.command(epilog=examples("roadworthy keys rotate keys targets", "roadworthy keys rotate keys root --key 1f2e3d4c"))
@click.argument("folder", type=FOLDER)
@click.argument("role")
@click.option("--key", help="Replace only the key whose id begins so.  [default: all of the role]")
@click.option("--days", type=int, help="Days that the new root holds.  [default: ten years]")
@passphrase_option
def rotate(folder: Path, role: str, key: str | None, days: int | None, passphrase_file: Path | None) -> None:
    """Retire keys of ROLE (root or targets) for new ones; vehicles follow with the next bundle."""
    from export.signing.roots import ROLES, ROOT_DAYS, rotate_keys

    if role not in ROLES:
        raise InputError(f"role {role!r} does not exist; it is one of {', '.join(ROLES)}")
    passphrase = read_passphrase(passphrase_file)
    root = rotate_keys(folder, passphrase, role, key, ROOT_DAYS if days is None else days)
    click.echo(f"{root}: bundles must be signed anew; vehicles that accept one refuse the retired keys from then on")


@keys.command(epilog=examples("roadworthy keys show keys"))
@click.argument("folder", type=FOLDER)
def show(folder: Path) -> None:
    """Name the newest root's keys, and which of them lie here."""
    from export.signing.key_folder import KeyFolder
    from export.signing.roots import ROLES

    key_folder = KeyFolder(folder)
    root = key_folder.root()
    click.echo(
        f"root version {root.version}, expires {root.expires:%Y-%m-%d}; last version {key_folder.last_version()}"
    )
    for role in ROLES:
        click.echo(f"{role}: {root.roles[role].threshold} of {len(root.roles[role].keyids)} keys must sign")
        for keyid in root.roles[role].keyids:
            here = "here" if key_folder.key_path(role, keyid).exists() else "elsewhere"
            click.echo(f"  {keyid[:8]}  {here}")


@click.command(
    epilog=examples(
        "roadworthy sign bundles/natural --keys keys", "roadworthy sign bundles/natural --keys keys --days 90"
    )
)
@bundle_argument
@click.option("--keys", "key_folder", type=FOLDER, required=True, help="Folder of `roadworthy keys create`.")
@click.option("--version", type=int, help="Version of the bundle.  [default: one more than the last]")
@click.option("--days", type=int, help="Days until vehicles refuse it.  [default: 365]")
@passphrase_option
def sign(bundle: Path, key_folder: Path, version: int | None, days: int | None, passphrase_file: Path | None) -> None:
    """Sign every file of a bundle, its manifest included."""
    from export.signing.bundles import BUNDLE_DAYS, sign_bundle

    passphrase = read_passphrase(passphrase_file)
    accepted = sign_bundle(bundle, key_folder, passphrase, version=version, days=BUNDLE_DAYS if days is None else days)
    click.echo(f"{bundle}: {accepted}")


@click.group(epilog=examples("roadworthy trust install root.json", "roadworthy trust show"))
def trust() -> None:
    """Say whose bundles this device accepts (vehicle)."""


@trust.command(
    name="install",
    epilog=examples("roadworthy trust install 1.root.json", "roadworthy trust install 2.root.json 3.root.json"),
)
@click.argument("roots", nargs=-1, required=True, type=FILE)
def install_root(roots: tuple[Path, ...]) -> None:
    """Install the root of trust, or the versions that follow it; from then on only signed bundles open."""
    from edge_runtime.trust import default_store

    store = default_store()
    version = store.install(roots)
    click.echo(f"{store.folder}: root version {version}; bundles that it does not lead to are refused from now on")


@trust.command(name="show", epilog=examples("roadworthy trust show --json"))
@json_option
def show_trust(as_json: bool) -> None:
    """Show the installed root, the highest accepted version and the newest time seen."""
    from edge_runtime.trust import installed_store

    store = installed_store()
    if store is None:
        raise InputError("no root of trust is installed here; `roadworthy trust install` one")
    trusted = store.load()
    known = {
        "folder": str(store.folder),
        "root": max(trusted.roots),
        "highest_version": trusted.highest,
        "newest_time": trusted.newest.isoformat(),
        "went_back": bool(trusted.allowed),
    }
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(known), indent=2))
        return
    for name, value in known.items():
        click.echo(f"{name.replace('_', ' '):16}{value}")
