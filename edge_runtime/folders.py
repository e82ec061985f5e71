"""Folders and files that appear whole or not at all: runs, bundles, reports (:func:`new_folder`), exports, figures."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from edge_runtime.errors import InputError, RoadworthyError


@contextlib.contextmanager
def new_folder(
    target: str | os.PathLike[str], *, marker: str, force: bool = False, error: type[RoadworthyError] = InputError
) -> Iterator[Path]:
    """Yield an empty folder beside ``target`` that takes its place once the block has succeeded.

    An existing ``target`` is refused unless ``force``; even then it must be empty or hold the file ``marker``, so that
    a mistyped path never deletes a home folder. Whatever fails, the old folder stays as it was. Raises ``error``.
    """
    target = Path(target)
    check_target(target, marker=marker, force=force, error=error)
    temporary = sibling(target, "new")
    try:
        temporary.mkdir(parents=True)
    except OSError as failure:
        raise error(f"{target} cannot be written: {failure.strerror}; choose another folder") from failure
    try:
        yield temporary
        _swap(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_target(target: Path, *, marker: str, force: bool = False, error: type[RoadworthyError] = InputError) -> None:
    """Raise ``error`` unless :func:`new_folder` may create or replace ``target``: for a check before long work."""
    if not target.exists():
        return
    if not force:
        raise error(f"{target} already exists; choose another folder or pass --force to replace it")
    if not target.is_dir() or (any(target.iterdir()) and not (target / marker).exists()):
        raise error(f"{target} holds no {marker}, so --force does not replace it; remove it yourself or choose another")


@contextlib.contextmanager
def new_file(
    target: str | os.PathLike[str], *, force: bool = False, error: type[RoadworthyError] = InputError
) -> Iterator[Path]:
    """Yield a path beside ``target`` whose file takes its place once the block has succeeded.

    Raises ``error`` for an existing ``target`` without ``force``, and when the file system fails.
    """
    target = Path(target)
    check_new(target, force=force, error=error)
    temporary = sibling(target, "new")
    try:
        yield temporary
        temporary.replace(target)
    except OSError as failure:
        raise error(f"{target} cannot be written: {failure.strerror or failure}; choose another folder") from failure
    finally:
        temporary.unlink(missing_ok=True)


def check_new(target: Path, *, force: bool = False, error: type[RoadworthyError] = InputError) -> None:
    """Raise ``error`` unless :func:`new_file` may create or replace ``target``: for a check before long work."""
    if target.exists() and not force:
        raise error(f"{target} already exists; choose another name or pass --force to replace it")


def sibling(target: Path, suffix: str) -> Path:
    """Return a fresh hidden name beside ``target``, on the same file system so that a rename is atomic."""
    return target.parent / f".{target.name}.{suffix}-{uuid.uuid4().hex[:8]}"


def _swap(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
        return
    old = sibling(target, "old")
    target.rename(old)
    try:
        temporary.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old)
