"""One node's own containers: found by name, started, stopped and removed; anything else is left alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from gestalt.clock import monotonic
from gestalt.config import AgentSettings
from gestalt.plugin.runtime import AttemptKey, DriverUnavailable, Launch, LaunchRefused

from .docker_engine import Engine
from .docker_events import EngineEvents
from .docker_options import container_document, container_name, owner_labels
from .docker_refusal import clean, refusal
from .docker_stream import ApiRefused

log = logging.getLogger(__name__)

T = TypeVar("T")

_POLL = 1.0
_SHORT_POLL = 0.05
_CONFLICT = 409

Container = dict[str, Any]
"""What the Engine's inspect says."""


async def answered(call: Awaitable[T]) -> T:
    """Await a call that the Engine has no reason to refuse: a refusal is a fault of the Engine.

    Raises:
        DriverUnavailable: it refused all the same, or did not answer.
    """
    try:
        return await call
    except ApiRefused as refused:
        raise DriverUnavailable(f"Docker answers, but not well: {clean(refused.message)}") from refused


class OwnContainers:
    """The containers that carry this cluster's and this node's labels."""

    def __init__(self, engine: Engine, events: EngineEvents, settings: AgentSettings) -> None:
        self._engine = engine
        self._events = events
        self._settings = settings
        self._owner = owner_labels(settings)
        self._limit = settings.docker.limit

    async def find(self, key: AttemptKey) -> Container | None:
        container = await answered(self._engine.container(container_name(self._settings, key)))
        return container if container and self._is_own(container) else None

    async def create(self, launch: Launch, parent: str = "") -> Container | str:
        """Create the attempt's container and return its id; when there is one of that name, return what is known of it.

        Raises:
            LaunchRefused: the Engine refuses the description, or someone else has a container of that name.
        """
        name = container_name(self._settings, launch.key)
        deadline = monotonic() + self._limit
        while True:
            try:
                return await self._engine.create(name, container_document(self._settings, launch, parent))
            except ApiRefused as refused:
                if refused.status != _CONFLICT or name not in refused.message:
                    raise refusal(refused.message) from refused
            existing = await answered(self._engine.container(name))
            if existing is not None and existing["State"]["Status"] != "removing":
                if self._is_own(existing):
                    return existing
                raise LaunchRefused(f"a container that is not Gestalt's own is called {name}; `docker rename` it or remove it")
            if monotonic() > deadline:
                raise DriverUnavailable(f"Docker says that a container {name} exists, but does not show it within {self._limit:g} s")
            await asyncio.sleep(_SHORT_POLL)  # an earlier call is still making it, or someone is removing it

    async def start(self, container: str) -> None:
        """Start it; one that the Engine refuses to start is removed.

        Raises:
            LaunchRefused: it can never start so.
        """
        try:
            await self._engine.start(container)
        except ApiRefused as refused:
            error = refusal(refused.message)
            if isinstance(error, LaunchRefused):
                await self._discard(container)
            raise error from refused

    async def stop(self, key: AttemptKey, signal: str, grace: float) -> None:
        """See `RuntimeDriver.stop`."""
        container = await self.find(key)
        if container is None or not container["State"]["Running"]:
            return
        with self._events.changes(key) as changed:
            await self._kill(container["Id"], signal)
            if await self._ends(container["Id"], changed, grace):
                return
            await self._kill(container["Id"], "SIGKILL")
            if not await self._ends(container["Id"], changed, self._limit):
                raise DriverUnavailable(
                    f"{key.instance} has not ended within {self._limit:g} s after SIGKILL; a dead mount or disk can hold a process"
                )

    async def remove(self, key: AttemptKey) -> Container | None:
        """See `RuntimeDriver.remove`; return what was known of the container, if there was one."""
        deadline, removed = monotonic() + self._limit, None
        while container := await self.find(key):
            removed = container
            try:
                await self._engine.remove(container["Id"])
            except ApiRefused as refused:
                if refused.status != _CONFLICT or monotonic() > deadline:
                    raise DriverUnavailable(f"Docker could not remove {key.instance}: {clean(refused.message)}") from refused
                await asyncio.sleep(_SHORT_POLL)  # someone else removes it at this moment
        return removed

    async def has_ended(self, container: str) -> bool:
        document = await answered(self._engine.container(container))
        return document is None or not document["State"]["Running"]

    async def _discard(self, container: str) -> None:
        """Remove a container that could not be started; should that fail, `list` goes on showing it as created."""
        try:
            await self._engine.remove(container)
        except (ApiRefused, DriverUnavailable) as error:
            log.warning("container %s could be neither started nor removed: %s", container, error)

    async def _kill(self, container: str, signal: str) -> None:
        try:
            await self._engine.kill(container, signal)
        except ApiRefused as refused:  # it has ended, or its image knows no such signal: the wait that follows tells
            log.info("%s for container %s was refused: %s", signal, container, refused.message)

    async def _ends(self, container: str, changed: asyncio.Event, within: float) -> bool:
        """Wait for the end; the event makes it quick, the poll makes it sure."""
        deadline = monotonic() + within
        while True:
            changed.clear()
            if await self.has_ended(container):
                return True
            left = deadline - monotonic()
            if left <= 0:
                return False
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), min(left, _POLL))

    def _is_own(self, container: Mapping[str, Any]) -> bool:
        return self._owner.items() <= (container["Config"].get("Labels") or {}).items()
