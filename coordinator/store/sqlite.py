"""The store in one SQLite file: the embedded default, no other server needed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from .base import Change, Committed, Document, MetaStore, Restored, Snapshot, StoreError, check_changes, check_documents
from .sqlite_file import SqliteFile

_BATCH = 64  # commits that share one fsync

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Waiting:
    changes: tuple[Change, ...]
    epoch: int
    outcome: asyncio.Future[Committed]


class SqliteStore(MetaStore):
    """Durable state in one file, held under an exclusive lock. All blocking work is done in one thread of its own.

    Commits that are called while another one is being written wait in a queue, and are then written together with one fsync.
    """

    def __init__(self, path: Path, cluster_id: str, *, _synchronous: str = "FULL") -> None:
        """Prepare a store; `open` does the work. `_synchronous` is for the tests that show what FULL is good for."""
        self._file = SqliteFile(path, cluster_id, synchronous=_synchronous)
        self._path = path
        self._thread: ThreadPoolExecutor | None = None
        self._waiting: deque[_Waiting] = deque()
        self._idle = asyncio.Event()
        self._idle.set()

    async def open(self) -> None:
        if self._thread is not None:
            raise StoreError(f"{self._path} is open already")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gestalt-store")
        try:
            await self._call(self._file.open)
        except BaseException:  # who is cancelled, too, leaves no thread behind
            await self.close()
            raise

    async def close(self) -> None:
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        await self._idle.wait()
        try:
            await asyncio.get_running_loop().run_in_executor(thread, self._file.close)
        finally:
            thread.shutdown(wait=False)

    async def take_office(self) -> int:
        return await self._call(self._file.take_office)

    async def raise_format(self, number: int, epoch: int) -> bool:
        return await self._call(self._file.raise_format, number, epoch)

    async def load(self) -> Snapshot:
        return await self._call(self._file.load)

    async def commit(self, changes: Sequence[Change], epoch: int) -> Committed:
        check_changes(changes)
        if self._thread is None:
            raise StoreError(f"{self._path} is not open")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(tuple(changes), epoch, loop.create_future())
        self._waiting.append(waiting)
        if self._idle.is_set():
            self._idle.clear()
            loop.call_soon(self._write, loop, self._thread)  # not at once: whoever commits in this turn of the loop comes along
        return await waiting.outcome

    async def last_commit(self) -> int:
        return await self._call(self._file.last_commit)

    async def restore(self, documents: Sequence[Document], *, commit: int, epoch: int, expected: int) -> Restored:
        check_documents(documents, commit)
        await self._idle.wait()
        return await self._call(self._file.restore, tuple(documents), commit=commit, epoch=epoch, expected=expected)

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._thread is None:
            raise StoreError(f"{self._path} is not open")
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **kwargs))

    def _write(self, loop: asyncio.AbstractEventLoop, thread: ThreadPoolExecutor) -> None:
        """Write the next batch; its end writes the one after it, until nobody waits."""
        if not self._waiting:
            self._idle.set()
            return
        batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
        written = loop.run_in_executor(thread, self._file.commit_all, [(waiting.changes, waiting.epoch) for waiting in batch])

        def answer(written: asyncio.Future[list[Committed | StoreError]]) -> None:
            error = written.exception()
            outcomes = written.result() if error is None else [error] * len(batch)
            for waiting, outcome in zip(batch, outcomes, strict=True):
                _answer(waiting.outcome, outcome)
            loop.call_soon(self._write, loop, thread)

        written.add_done_callback(answer)


def _answer(future: asyncio.Future[Committed], outcome: Committed | BaseException) -> None:
    if future.done():  # its caller was cancelled
        return
    if isinstance(outcome, Committed):
        future.set_result(outcome)
    else:
        future.set_exception(outcome)
