"""Has everything on the node that instances will need which are to take the place of others, before those stop for them.

The coordinator lists templates; each is prepared by its driver, as before a launch, and its state is told. What is not listed any more is
forgotten, and what was pulled for it stays until the driver's garbage collection takes it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping

from gestalt.clock import monotonic
from gestalt.plugin.runtime import DriverUnavailable, LaunchRefused, RuntimeDriver
from gestalt.proto.v1 import agent_pb2
from gestalt.shell import CommandTimedOut, run
from gestalt.spec.schema import AppSpec

from .board import Board
from .desired import Desired

log = logging.getLogger(__name__)

RETRY_FIRST = 0.5
RETRY_MAX = 10.0
RETRY_REFUSED = 30.0
"""Seconds until what was refused is tried again: an image may have been pushed meanwhile."""
FRESH = 600.0
"""Seconds for which an image that is to be pulled before each start counts as pulled for the start that it was prepared for."""
_LOOK_LIMIT = 5.0


class Preparing:
    """Owns one task for each template that is to be prepared, until it is done or not asked for any more."""

    name = "preparing"

    def __init__(self, drivers: Mapping[str, RuntimeDriver], board: Board) -> None:
        self._drivers = drivers
        self._board = board
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._states: dict[tuple[str, int], agent_pb2.Preparation] = {}
        self._fresh: dict[str, float] = {}

    def set_desired(self, desired: Desired) -> None:
        """Take over what is to be prepared. Returns at once."""
        wanted = set(desired.state.prepare.items())
        for key in self._tasks.keys() - wanted:
            self._tasks.pop(key).cancel()
            del self._states[key]
        for key in wanted - self._tasks.keys():
            self._states[key] = agent_pb2.Preparation(number=key[1])
            spec = desired.state.templates[key[0]]
            self._tasks[key] = asyncio.create_task(self._prepare(key, spec), name=f"prepare {spec.path}")
        self._tell()

    def use(self, template: str) -> bool:
        """Tell, once, whether a start needs no pull because that was done for it: a registry that is gone by now must not prevent it."""
        return monotonic() - self._fresh.pop(template, -math.inf) < FRESH

    async def ensure(self) -> None:
        """Nothing to keep: each task goes on until it is done."""

    async def close(self) -> None:
        """End all of it; pulls that others need go on."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()

    def _tell(self) -> None:
        self._board.prepared.put(agent_pb2.Prepared(templates={key[0]: state for key, state in self._states.items()}))

    def _say(self, key: tuple[str, int], *, done: bool = False, refused: bool = False, reason: str = "") -> None:
        if key in self._states:
            self._states[key] = agent_pb2.Preparation(number=key[1], done=done, refused=refused, reason=reason)
            self._tell()

    async def _prepare(self, key: tuple[str, int], spec: AppSpec) -> None:
        pause = RETRY_FIRST
        while True:
            try:
                await self._try(key, spec)
            except LaunchRefused as error:
                log.warning("%s cannot be prepared: %s", spec.path, error, extra={"app": spec.path})
                self._say(key, refused=True, reason=str(error))
                await asyncio.sleep(RETRY_REFUSED)
            except Exception as error:  # a fault of one driver must not leave the coordinator without an answer
                if not isinstance(error, (DriverUnavailable, OSError, CommandTimedOut)):
                    log.exception("%s cannot be prepared", spec.path, extra={"app": spec.path})
                self._say(key, reason=str(error) or type(error).__name__)
                await asyncio.sleep(pause)
                pause = min(pause * 2, RETRY_MAX)
            else:
                log.info("everything that %s needs is here", spec.path, extra={"app": spec.path})
                if spec.pull.policy == "always":
                    self._fresh[key[0]] = monotonic()
                return self._say(key, done=True)

    async def _try(self, key: tuple[str, int], spec: AppSpec) -> None:
        driver = self._drivers.get(spec.runtime)
        if driver is None:
            raise LaunchRefused(f"the runtime {spec.runtime!r} is not enabled on this node")
        await driver.prepare(spec, lambda sentence: self._say(key, reason=sentence))
        for index, volume in enumerate(spec.volumes):
            if volume.host_path:
                await _look_at(volume.host_path, f"volumes[{index}].host_path")


async def _look_at(path: str, field: str) -> None:
    """See to it that a folder of the node is there, in a process of its own: it may be on a file system that hangs."""
    found = await run(["test", "-e", path], limit=_LOOK_LIMIT)
    if not found.ok:
        raise LaunchRefused(f"there is no {path} on this node ({field}): make it, or have a volume with a name instead")
