"""Joins the routes that the coordinator wants with what is seen here, and has the load balancer match.

What is observed on this node wins over the coordinator's flags, which are older: nothing that was seen here is lost. Instances of
other nodes, and own ones of which nothing is known yet, keep the coordinator's flags: unknown is not unhealthy.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Self

from gestalt.clock import monotonic
from gestalt.config import AgentSettings
from gestalt.model import Route, Server
from gestalt.plugin.loadbalancer import LoadBalancerDriver
from gestalt.plugin.registry import find_driver
from gestalt.plugin.runtime import DriverUnavailable, LaunchRefused

from .draining import DrainWatch
from .proxy_disabled import NoLoadBalancer

log = logging.getLogger(__name__)

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 5.0
_STABLE = 10.0
_UNFINISHED_PAUSE = 2.0


@dataclass(frozen=True, slots=True)
class LocalServer:
    """What this agent saw of an instance of its own. Draining: it finishes the requests that it has."""

    ready: bool
    draining: bool = False


def effective_routes(
    routes: Mapping[str, Route],
    local: Mapping[str, LocalServer],
    stopping: Collection[str] = (),
    hosts: Mapping[str, str] | None = None,
) -> tuple[Route, ...]:
    """Return the routes with the state that each server is to have now, by key.

    Args:
        routes: the coordinator's, by key.
        local: observations of this node, by instance.
        stopping: instances that are to stop (`DesiredInstance.stop`): they are drained.
        hosts: where own instances are published, if not at the node's address, by instance.
    """
    places = hosts or {}

    def located(server: Server) -> Server:
        return replace(server, address=places.get(server.instance, server.address))

    return tuple(
        replace(route, servers=tuple(_effective(located(server), local.get(server.instance), stopping) for server in route.servers))
        for _, route in sorted(routes.items())
    )


def _effective(server: Server, seen: LocalServer | None, stopping: Collection[str]) -> Server:
    drain = server.drain or server.instance in stopping or (seen is not None and seen.draining)
    ready = server.ready if seen is None else seen.ready
    lost = server.lost and seen is None
    return replace(server, ready=ready and not drain and not lost, drain=drain, lost=lost)


class ProxyManager:
    """The one task that owns the load balancer. Inputs only wake it; many at once cost one change.

    Nothing is changed before the first `set_routes`: what an agent before this one had put in place goes on.
    """

    def __init__(self, driver: LoadBalancerDriver, *, resync: float = 30.0) -> None:
        self.driver = driver
        self.resync = resync
        self._routes: Mapping[str, Route] | None = None
        self._local: dict[str, LocalServer] = {}
        self._hosts: dict[str, str] = {}
        self._stopping: frozenset[str] = frozenset()
        self._wanted = 0
        self._applied = 0
        self._wake = asyncio.Event()
        self._progress = asyncio.Condition()
        self._draining = DrainWatch(driver)
        self._failures = 0
        self._deaths = 0
        self._last_death = float("-inf")
        self._problem = ""
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def create(cls, settings: AgentSettings) -> Self:
        """Return a manager with the driver that the settings name; with one that does nothing if the proxy is disabled."""
        kind = find_driver("loadbalancer", settings.loadbalancer) if settings.proxy.enabled else NoLoadBalancer
        return cls(kind.create(settings), resync=settings.resync)

    @property
    def problems(self) -> tuple[str, ...]:
        """What an operator should know, a sentence each."""
        return ((self._problem,) if self._problem else ()) + tuple(self.driver.problems())

    async def start(self) -> None:
        """Adopt or start the load balancer, and begin; one that cannot be started is tried again.

        An instance that an adopted one gives requests goes on getting them until something is seen of it.
        """
        try:
            await self.driver.start(self._died)
            serving = [name for name, load in (await self.driver.load()).items() if load.serving]
            log.debug("found the load balancer with requests for %s; known here: %s", serving, self._local)
            self._local = {name: LocalServer(ready=True) for name in serving} | self._local
        except (DriverUnavailable, OSError) as error:
            self._note(str(error))
        self._task = asyncio.create_task(self._run(), name="proxy")

    async def close(self) -> None:
        """Let go of the load balancer, which goes on. Idempotent."""
        await self._rest()
        await self.driver.close()

    async def end(self) -> None:
        """End the load balancer for good (appliance down, node leave)."""
        await self._rest()
        await self.driver.stop()
        await self.driver.close()

    def set_routes(self, routes: Mapping[str, Route], stopping: Collection[str] = ()) -> None:
        """Take the coordinator's routes, and the own instances that are to stop."""
        if self._routes is None or dict(routes) != self._routes or frozenset(stopping) != self._stopping:
            self._routes, self._stopping = dict(routes), frozenset(stopping)
            self._changed()

    def set_local(self, instance: str, ready: bool, draining: bool = False) -> None:
        """Take what was seen of one own instance."""
        if self._local.get(instance) != (seen := LocalServer(ready, draining)):
            self._local[instance] = seen
            self._changed()

    def set_host(self, instance: str, host: str) -> None:
        """Take where an own instance is published; empty: at the node's address."""
        if self._hosts.get(instance, "") != host:
            self._hosts = {name: place for name, place in (self._hosts | {instance: host}).items() if place}
            self._changed()

    def set_all_local(self, local: Mapping[str, LocalServer]) -> None:
        """Take what was seen of all own instances; others are forgotten."""
        if dict(local) != self._local:
            self._local = dict(local)
            self._changed()

    def forget(self, instance: str) -> None:
        """Drop what was seen of an instance that is gone."""
        self._hosts.pop(instance, None)
        if self._local.pop(instance, None) is not None:
            self._changed()

    async def wait_applied(self, deadline_seconds: float) -> bool:
        """Wait until everything set so far is in effect; False when the time is over."""
        wanted = self._wanted
        try:
            async with asyncio.timeout(deadline_seconds), self._progress:
                await self._progress.wait_for(lambda: self._applied >= wanted)
        except TimeoutError:
            return False
        return True

    async def wait_drained(self, instance: str, deadline_seconds: float) -> bool:
        """Wait until a draining instance has no connections through this node; False when the time is over.

        The caller has set it draining before; this waits for that to be in effect first.
        """
        end = monotonic() + deadline_seconds
        return await self.wait_applied(deadline_seconds) and await self._draining.idle(instance, end - monotonic())

    def _changed(self) -> None:
        self._wanted += 1
        self._wake.set()

    def _died(self) -> None:
        """Remember the death; the first one is answered at once, more in a row with growing pauses."""
        now = monotonic()
        self._deaths = 1 if now - self._last_death > _STABLE else self._deaths + 1
        self._last_death = now
        self._failures = max(self._failures, self._deaths - 1)
        self._changed()

    async def _rest(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        await self._draining.close()

    async def _run(self) -> None:
        while True:
            pause = await self._cycle()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def _cycle(self) -> float:
        """Bring the load balancer one step nearer; return how long to rest unless something happens."""
        if self._failures:
            await asyncio.sleep(min(_FIRST_PAUSE * 2 ** (self._failures - 1), _LONGEST_PAUSE))
        self._wake.clear()
        if self._routes is None:
            return self.resync
        wanted = self._wanted
        try:
            await self.driver.apply(effective_routes(self._routes, self._local, self._stopping, self._hosts))
        except (DriverUnavailable, OSError) as error:
            return self._put_off(str(error))
        except LaunchRefused as error:
            self._note(str(error))
        except Exception:  # a fault of the driver must not end the only one who looks after the load balancer
            log.exception("the load balancer's driver failed")
            return self._put_off("the driver of the load balancer failed, see the log of the agent")
        else:
            self._note("")
        self._failures = 0
        async with self._progress:
            self._applied = wanted
            self._progress.notify_all()
        return min(_UNFINISHED_PAUSE, self.resync) if self.driver.unfinished() else self.resync

    def _put_off(self, sentence: str) -> float:
        """Try again, after a pause that grows."""
        self._note(sentence)
        self._failures += 1
        return 0.0

    def _note(self, problem: str) -> None:
        """Take note of how it went; empty: well."""
        if problem and problem != self._problem:
            log.error("proxy: %s", problem)
        elif self._problem and not problem:
            log.info("proxy: it works again")
        self._problem = problem
