"""The one place that writes files which must never be seen half-written."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a file is to be: the ids of a user and a group. -1: as it comes."""

    user: int = -1
    group: int = -1


WRITER = Owner()
"""Whoever writes it."""


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o644, owner: Owner = WRITER) -> None:
    """Replace `path` durably: temporary file, fsync, rename, fsync of the folder.

    After a crash at any point the file holds either the old or the new content, whole, with the owner and the mode that belong to it.

    Raises:
        OSError: nothing changed at `path`.
    """
    content = data.encode() if isinstance(data, str) else data
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            if owner != WRITER:  # a daemon may be forbidden to ask for it at all
                os.fchown(file.fileno(), owner.user, owner.group)
            os.fchmod(file.fileno(), mode)
            _write_durably(file, content)
        os.replace(temporary, path)
    except BaseException:  # whatever it is, no half of a file is left behind
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def hand_over(path: Path, owner: Owner) -> None:
    """Give a file that may be there to its owner. Idempotent.

    Links, and files of several names, are left alone: what they lead to is not ours to give away.

    Raises:
        OSError: it cannot be given away.
    """
    if owner == WRITER:
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return
        raise
    try:
        there = os.fstat(descriptor)
        if stat.S_ISREG(there.st_mode) and there.st_nlink == 1 and (there.st_uid, there.st_gid) != (owner.user, owner.group):
            os.fchown(descriptor, owner.user, owner.group)
    finally:
        os.close(descriptor)


def ensure_private_folder(folder: Path, owner: Owner = WRITER) -> None:
    """Have a folder that is shut to others. With an owner of files in it, that one gets in, too, and may replace what is its own.

    Raises:
        OSError: it cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if owner != WRITER:
        os.chown(folder, -1, owner.group)
        folder.chmod(0o1770)


def rewrite(path: Path, data: bytes) -> None:
    """Give a file that is not ours new content, durably: it keeps its mode, its owner and its labels (SELinux); links are followed.

    It is replaced whole, as by `write_atomic`; only where something is mounted on it, as in containers, it is written in place.

    Raises:
        OSError: the old content is still there, unless it was to be written in place.
    """
    target = path.resolve(strict=True)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            _dress(file.fileno(), target)
            _write_durably(file, data)
        os.replace(temporary, target)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        if error.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        with target.open("r+b") as file:
            _write_durably(file, data)
    except BaseException:  # whatever it is, no half of a file is left behind
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def _dress(descriptor: int, like: Path) -> None:
    """Give a new file the owner, the mode and the labels of another one."""
    there = like.stat()
    os.fchown(descriptor, there.st_uid, there.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(there.st_mode))
    for name in os.listxattr(like):
        with suppress(OSError):  # what only the kernel may set, it sets by itself
            os.setxattr(descriptor, name, os.getxattr(like, name))


def _write_durably(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.truncate()
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
