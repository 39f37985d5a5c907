"""The agent's own files: written durably, in order, by one small thread, so that the loop never waits for a disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from gestalt.files import rewrite, sync_folder, write_atomic

T = TypeVar("T")


class Disk:
    """Writes happen one after the other, in the order of the calls, even when a caller was cancelled meanwhile."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gestalt-disk")

    async def write(self, path: Path, data: bytes) -> None:
        """Replace the file durably; after a crash it holds the old or the new content, whole.

        Raises:
            OSError: the old content is still there.
        """
        await self._do(lambda: write_atomic(path, data, mode=0o600))

    async def edit(self, path: Path, change: Callable[[bytes], bytes]) -> bool:
        """Have a file that is not ours hold what `change` makes of its content; return whether that was anything new.

        Raises:
            OSError: it cannot be read or written.
        """

        def rewritten() -> bool:
            before = path.read_bytes()
            after = change(before)
            if after != before:
                rewrite(path, after)
            return after != before

        return await self._do(rewritten)

    async def remove(self, path: Path) -> None:
        """Remove the file durably; one that is not there is fine."""

        def unlink() -> None:
            path.unlink(missing_ok=True)
            sync_folder(path.parent)

        await self._do(unlink)

    async def close(self) -> None:
        """Wait for what is under way."""
        await asyncio.to_thread(self._thread.shutdown)

    async def _do(self, work: Callable[[], T]) -> T:
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work))
