"""Follows the Engine's events for ever, and wakes whoever waits for a change. Events never do the work."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from gestalt.clock import monotonic
from gestalt.plugin.runtime import AttemptKey, DriverUnavailable

from .docker_engine import Engine
from .docker_options import LABEL_CLUSTER, LABEL_NODE
from .docker_status import key_of
from .docker_stream import ApiRefused, Request

log = logging.getLogger(__name__)

Wake = Callable[[AttemptKey | None], None]

_FILTERS = {
    "type": ["container", "image"],
    "event": ["create", "start", "die", "oom", "destroy", "pause", "unpause", "health_status", "delete", "untag"],
}
_FIRST_DELAY = 0.1
_LAST_DELAY = 3.0
_STEADY = 5.0


class EngineEvents:
    """One connection to the Engine, taken up again with jittered back-off whenever it is lost.

    `wake(key)` is called in the loop for each change of a container of this node, `wake(None)` after every connect: whatever happened in
    between is unknown. `images_changed` is called for image events and on every connect.
    """

    def __init__(self, engine: Engine, owner: Mapping[str, str], images_changed: Callable[[], None]) -> None:
        self._engine = engine
        self._cluster, self._node = owner[LABEL_CLUSTER], owner[LABEL_NODE]
        self._images_changed = images_changed
        self._subscribers: list[Wake] = []
        self._waiting: dict[AttemptKey, set[asyncio.Event]] = {}
        self._task: asyncio.Task[None] | None = None
        self._lost = False

    def subscribe(self, wake: Wake) -> None:
        self._subscribers.append(wake)

    @contextmanager
    def changes(self, key: AttemptKey) -> Iterator[asyncio.Event]:
        """Give an event that is set whenever the attempt may have changed."""
        event = asyncio.Event()
        waiting = self._waiting.setdefault(key, set())
        waiting.add(event)
        try:
            yield event
        finally:
            waiting.discard(event)
            if not waiting:
                self._waiting.pop(key, None)

    def start(self) -> None:
        self._task = asyncio.create_task(self._follow_for_ever(), name="docker events")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _follow_for_ever(self) -> None:
        delay = _FIRST_DELAY
        while True:
            began = monotonic()
            try:
                await self._follow()
                reason = "it closed the stream"
            except (DriverUnavailable, ApiRefused) as error:
                reason = str(error)
            except Exception:  # a mistake of ours costs one connection, not the events for ever
                log.exception("while following the events of Docker")
                reason = "see above"
            if monotonic() - began > _STEADY:
                delay = _FIRST_DELAY
            if not self._lost:
                log.warning("lost the events of Docker, will reconnect: %s", reason)
                self._lost = True
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311
            delay = min(delay * 2, _LAST_DELAY)

    async def _follow(self) -> None:
        stream = await self._engine.stream(Request("GET", "/events", {"filters": json.dumps(_FILTERS)}))
        try:
            if self._lost:
                log.info("following the events of Docker again")
                self._engine.forget()
            self._lost = False
            self._images_changed()
            self._wake(None)
            async for line in stream.lines():
                self._handle(json.loads(line))
        finally:
            await stream.close()

    def _handle(self, event: Mapping[str, Any]) -> None:
        labels = (event.get("Actor") or {}).get("Attributes") or {}
        if event.get("Type") == "image":
            self._images_changed()
        elif labels.get(LABEL_CLUSTER) == self._cluster and labels.get(LABEL_NODE) == self._node:
            self._wake(key_of(labels))

    def _wake(self, key: AttemptKey | None) -> None:
        for waiting in [self._waiting.get(key, ())] if key else self._waiting.values():
            for event in waiting:
                event.set()
        for wake in self._subscribers:
            wake(key)
