"""Which user a daemon is run by, as its unit says; whose its files are therefore."""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path

from gestalt.files import WRITER, Owner

_FOLDERS = (Path("/etc/systemd/system"), Path("/usr/lib/systemd/system"))
"""Of units, that which counts first."""

_USER = re.compile(r"^User=(\S+)$", re.MULTILINE)


def owner_of_unit(name: str, folders: tuple[Path, ...] = _FOLDERS) -> Owner:
    """Return the user by whom systemd runs a daemon of this machine; WRITER, where there is no such unit or user, or it is root's.

    Whoever is not root gets WRITER, too: nothing could be given to others. A unit that is masked, by a link to /dev/null, says nothing.
    """
    unit = next((file for folder in folders if (file := folder / f"{name}.service").is_file()), None)
    found = _USER.search(unit.read_text(encoding="utf-8")) if unit is not None and os.geteuid() == 0 else None
    if found is None:
        return WRITER
    try:
        entry = pwd.getpwnam(found[1])
    except KeyError:  # systemd says so, when it is to start the unit
        return WRITER
    return Owner(entry.pw_uid, entry.pw_gid)


def become(owner: Owner) -> str:
    """Give up root for a user, for good; return the user's name, or its number. Nothing is done for WRITER, whose name is empty."""
    if owner == WRITER:
        return ""
    os.setgroups([owner.group])
    os.setgid(owner.group)
    os.setuid(owner.user)
    try:
        return pwd.getpwuid(owner.user).pw_name
    except KeyError:  # whoever owns a folder need not have a name
        return str(owner.user)
