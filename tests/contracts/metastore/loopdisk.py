"""Small real file systems on loop devices: to fill them, to break them, to cut their power.

Everything lies below one folder that its process holds locked; what a killed run left behind is found by its name and the free lock,
and removed. Loop devices are made by `mount -o loop` alone, so they go with their mount.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Self

from gestalt import shell
from gestalt.clock import monotonic

_PREFIX = "gestalt-loopdisk-"
_FICLONE = 0x40049409
_LIMIT = 30.0
_MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-J", "size=4"),
    "ext2": ("mkfs.ext2", "-q", "-F", "-m", "0", "-e", "continue"),
    "xfs": ("mkfs.xfs", "-q", "-f", "-m", "reflink=1"),
}


async def _run(*argv: str) -> None:
    done = await shell.run(argv, limit=_LIMIT)
    assert done.ok, f"{' '.join(argv)}: {done.complaint()}"


class LoopDisks:
    """The file systems of one test. An async context; its end unmounts and removes them all."""

    def __init__(self) -> None:
        self.folder = Path()
        self._lock = -1
        self._mounted: list[Path] = []

    async def __aenter__(self) -> Self:
        await _remove_leftovers()
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._lock = _lock(self.folder)
        assert self._lock >= 0
        return self

    async def __aexit__(self, *_: object) -> None:
        for point in reversed(self._mounted[:]):
            await self.unmount(point)
        shutil.rmtree(self.folder)
        os.close(self._lock)

    async def make(self, image: Path, kind: str, size: int) -> None:
        """Make a file system in a sparse file."""
        with image.open("wb") as file:
            file.truncate(size)
        await _run(*_MAKE[kind], str(image))

    async def mount(self, image: Path, name: str) -> Path:
        """Mount an image; its journal is replayed. Returns the mount point."""
        return await self._mount(name, "-o", "loop", str(image))

    async def mount_memory(self, name: str, size: int) -> Path:
        """Mount a tmpfs of this size."""
        return await self._mount(name, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")

    async def unmount(self, point: Path) -> None:
        """Unmount. A loop device lets go of its file a moment after its own mount went, which keeps the disk below busy until then."""
        deadline = monotonic() + _LIMIT
        while not (done := await shell.run(("umount", str(point)), limit=_LIMIT)).ok:
            assert "busy" in done.complaint(), done.complaint()
            assert monotonic() < deadline, f"{point} stays busy: {done.complaint()}"
            await asyncio.sleep(0.05)
        self._mounted.remove(point)

    async def _mount(self, name: str, *arguments: str) -> Path:
        point = self.folder / name
        point.mkdir(exist_ok=True)
        await _run("mount", *arguments, str(point))
        self._mounted.append(point)
        return point


def clone(source: Path, target: Path) -> None:
    """Copy a file as it is at one single moment, also while it is being written: a reflink, within one xfs."""
    with source.open("rb") as old, target.open("wb") as new:
        fcntl.ioctl(new, _FICLONE, old.fileno())


def _lock(folder: Path) -> int:
    """Return the descriptor of the held lock; -1 if another process has it."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return -1
    return descriptor


async def _remove_leftovers() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        lock = _lock(folder)
        if lock < 0:
            continue
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
        for point in reversed([mount for mount in mounts if mount.startswith(f"{folder}/")]):
            await _run("umount", "-l", point)
        shutil.rmtree(folder)
        os.close(lock)
