"""A lock that one process holds for life, by `flock` on a file that names its holder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from .base import StoreLocked


class LockFile:
    """An exclusive lock. The kernel drops it when its holder dies; the file stays, since removing it would race."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, without waiting.

        Raises:
            StoreLocked: someone else has it; says who.
            OSError: the file cannot be made.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            holder = os.pread(descriptor, 64, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise StoreLocked(f"{self._path.with_suffix('')} is held by process {holder or 'unknown'}", holder) from None
        except BaseException:  # whatever it is, an open descriptor would hold the lock
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go of the lock. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
