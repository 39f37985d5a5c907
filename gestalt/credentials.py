"""Secrets that systemd hands to a unit: `credential:NAME` in settings stands for the file in which such a one lies."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

PREFIX = "credential:"
_ALL = Path("/run/credentials")
_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,255}")


def secret_path(value: object, unit: str) -> object:
    """Return the path of the file that `credential:NAME` stands for; any other value as it is.

    Within a unit that is given credentials, its own are meant; elsewhere those of `unit`, which are there while it runs, for root.

    Raises:
        ValueError: there is no credential of such a name.
    """
    if not isinstance(value, str) or not value.startswith(PREFIX):
        return value
    name = value.removeprefix(PREFIX)
    if not _NAME.fullmatch(name):
        raise ValueError(f"{value!r} names no credential; allowed: {PREFIX}NAME, of letters, digits and ._- as in LoadCredential=NAME:FILE")
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return Path(folder) / name if folder else _ALL / f"{unit}.service" / name


def is_credential(file: Path | None) -> bool:
    """Whether a file is one that systemd hands to a unit."""
    return file is not None and (file.parent.parent == _ALL or str(file.parent) == os.environ.get("CREDENTIALS_DIRECTORY"))


def named(file: Path) -> str:
    """Return what a file is to be called in a message."""
    return f"the credential {file.name} of {file.parent.name} ({file})" if is_credential(file) else str(file)


def hint_for(file: Path, otherwise: str) -> str:
    """Return what to do about a file that cannot be read: `otherwise`, unless it is a credential."""
    if not is_credential(file):
        return otherwise
    unit = file.parent.name
    return (
        f"`systemctl edit {unit}`: LoadCredential={file.name}:FILE below [Service]; it is there while that unit runs, for it and for root"
    )


def told(values: Iterable[tuple[str, object]]) -> str:
    """Return what is to be said of those settings, by name and value, whose files are credentials; a line each."""
    files = [(name, Path(value)) for name, value in values if isinstance(value, str) and value.startswith("/")]
    return "".join(
        f"given by systemd while {file.parent.name} runs: {name}, by LoadCredential={file.name} in that unit\n"
        for name, file in files
        if is_credential(file)
    )
