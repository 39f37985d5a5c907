"""Watches connections end: one look at the load balancer serves all who wait, and nobody looks while nobody waits."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from gestalt.plugin.loadbalancer import LoadBalancerDriver
from gestalt.plugin.runtime import DriverUnavailable

from .ongoing import Ongoing

log = logging.getLogger(__name__)

_POLL = 0.05


class DrainWatch:
    """Tells when instances have no connections left."""

    def __init__(self, driver: LoadBalancerDriver) -> None:
        self._driver = driver
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self._task = Ongoing("drain-watch", self._run)

    async def idle(self, instance: str, deadline_seconds: float) -> bool:
        """Wait until the instance has no connections, seen after this call; False when the time is over."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(instance, []).append(future)
        self._task.begin()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(deadline_seconds, 0.0)):
                await future
        return future.done() and not future.cancelled()

    async def close(self) -> None:
        """Stop looking; who waits is told at its deadline. Idempotent."""
        await self._task.end()

    async def _run(self) -> None:
        while asked := self._still_waiting():
            try:
                load = await self._driver.load()
            except DriverUnavailable as error:
                log.debug("the load is not known now: %s", error)
            else:
                for instance, futures in asked.items():
                    if instance not in load or load[instance].connections == 0:
                        _release(futures)
            if self._still_waiting():
                await asyncio.sleep(_POLL)

    def _still_waiting(self) -> dict[str, list[asyncio.Future[None]]]:
        """Forget who is done; return a copy, so that a look counts only for those who asked before it."""
        alive = {instance: [item for item in futures if not item.done()] for instance, futures in self._waiting.items()}
        self._waiting = {instance: futures for instance, futures in alive.items() if futures}
        return {instance: list(futures) for instance, futures in self._waiting.items()}


def _release(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
