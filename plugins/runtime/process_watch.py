"""Wake-ups without polling: the end of a process through its pidfd, changes of a folder through inotify."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gestalt.clock import boot_id
from gestalt.plugin.runtime import AttemptKey

from .process_records import Running

log = logging.getLogger(__name__)

_MODIFY, _MOVED_TO, _CREATE, _MOVE_SELF, _DELETE_SELF = 0x2, 0x80, 0x100, 0x800, 0x400
_EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class EndWatch:
    """Tells when processes end, those of an earlier agent too. Belongs to the loop."""

    def __init__(self, ended: Callable[[AttemptKey], None]) -> None:
        self._ended = ended
        self._watched: dict[AttemptKey, tuple[int, asyncio.Event]] = {}

    def watch(self, key: AttemptKey, process: Running) -> None:
        """Have `ended` called when the process ends, soon if it has. Watching it twice is watching it once."""
        if key in self._watched:
            return
        loop = asyncio.get_running_loop()
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            loop.call_soon(self._ended, key)
            return
        if not process.alive(boot_id()):  # only now is the number certain to be that process's
            os.close(descriptor)
            loop.call_soon(self._ended, key)
            return
        self._watched[key] = (descriptor, asyncio.Event())
        loop.add_reader(descriptor, self._fire, key)

    async def wait(self, key: AttemptKey, limit: float) -> bool:
        """Wait for the end; false when the limit passed before it."""
        if key not in self._watched:
            return True
        try:
            async with asyncio.timeout(limit):
                await self._watched[key][1].wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        for key in list(self._watched):
            self._forget(key)

    def _fire(self, key: AttemptKey) -> None:
        self._forget(key)
        self._ended(key)

    def _forget(self, key: AttemptKey) -> None:
        descriptor, event = self._watched.pop(key)
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        event.set()


def send_signal(process: Running, number: int) -> None:
    """Send a signal to that very process; nothing happens when it is gone."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if process.alive(boot_id()):
            signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        log.debug("%d ended meanwhile", process.pid)
    finally:
        os.close(descriptor)


class FolderWatch:
    """Tells when files in folders grow, come or go; one inotify descriptor for all of them. Belongs to the loop."""

    def __init__(self) -> None:
        self._descriptor = -1
        self._events: dict[int, list[asyncio.Event]] = {}

    @contextmanager
    def watching(self, folder: Path) -> Iterator[asyncio.Event]:
        """Give an event that is set at every change, until the end of the block.

        Raises:
            OSError: the folder is gone, or the kernel has no more watches.
        """
        self._open()
        mask = _MODIFY | _MOVED_TO | _CREATE | _MOVE_SELF | _DELETE_SELF
        watch = _libc.inotify_add_watch(self._descriptor, os.fsencode(folder), mask)
        if watch < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
        event = asyncio.Event()
        self._events.setdefault(watch, []).append(event)
        try:
            yield event
        finally:
            self._let_go(watch, event)

    def close(self) -> None:
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        if self._descriptor >= 0:
            return
        self._descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify is not available")
        asyncio.get_running_loop().add_reader(self._descriptor, self._read)

    def _read(self) -> None:
        data = os.read(self._descriptor, 65536)
        offset = 0
        while offset < len(data):
            watch, _, _, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size + length
            for event in self._events.get(watch, ()):
                event.set()

    def _let_go(self, watch: int, event: asyncio.Event) -> None:
        events = self._events[watch]
        events.remove(event)
        if not events:
            del self._events[watch]
            if self._descriptor >= 0:
                _libc.inotify_rm_watch(self._descriptor, watch)
