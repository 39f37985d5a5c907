"""Watches that arm themselves again, whatever becomes of the connection meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from .ops import ZkRefused, ZkUnavailable

log = logging.getLogger(__name__)

Wake = Callable[[object], None]
Look = Callable[[Wake], Awaitable[Any]]
"""Returns what is there now and has `wake` called, in any thread, when it changes.

Raises:
    ZkUnavailable: it cannot be seen now.
    ZkRefused: it may not be seen.
"""

_REARM = 0.1


class Watch:
    """Something that is looked at again after each change, until `close`, or until the session is lost."""

    def __init__(self, task: asyncio.Task[None], forget: Callable[[Watch], None]) -> None:
        self._task = task
        self._forget = forget

    def close(self) -> None:
        """Call back no more. Idempotent."""
        self._task.cancel()
        self._forget(self)


class Watches:
    """All watches of one client. `connected` is set while it is."""

    def __init__(self, name: str, connected: asyncio.Event) -> None:
        self._name = name
        self._connected = connected
        self._watches: set[Watch] = set()
        self._is_over = False

    def start(self, path: str, look: Look, callback: Callable[[Any], None]) -> Watch:
        """Call back with what is there, and after each change; at once closed if the session is over."""
        task = asyncio.get_running_loop().create_task(self._keep(path, look, callback), name=f"zk-watch {path}")
        watch = Watch(task, self._watches.discard)
        self._watches.add(watch)
        if self._is_over:
            watch.close()
        return watch

    def close(self) -> None:
        """End all of them: the session is over. Idempotent."""
        self._is_over = True
        for watch in list(self._watches):
            watch.close()

    async def _keep(self, path: str, look: Look, callback: Callable[[Any], None]) -> None:
        changed, loop = asyncio.Event(), asyncio.get_running_loop()

        def wake(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(changed.set)

        last: object = wake  # equal to nothing that can be seen
        while True:
            await self._connected.wait()
            changed.clear()
            try:
                seen = await look(wake)
            except ZkUnavailable:
                await asyncio.sleep(_REARM)
                continue
            except ZkRefused as refusal:
                log.error("%s: cannot watch %s", self._name, refusal)
                return
            if seen != last:
                last = seen
                tell(self._name, callback, seen)
            await changed.wait()


def tell(name: str, callback: Callable[[Any], None] | None, value: object) -> None:
    """Call back; what the callback raises is logged."""
    try:
        if callback:
            callback(value)
    except Exception:  # theirs, and no reason to stop listening
        log.exception("%s: a callback failed", name)
