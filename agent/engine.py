"""The agent as a whole: managers that each keep one thing right, gone through in order, again and again.

Between two rounds events do the work; a round finds what events missed. A manager that fails is reported and tried again
in the next round; it does not stop the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from gestalt.clock import monotonic
from gestalt.config import AgentSettings
from gestalt.daemon import Life, Service
from gestalt.errors import GestaltError
from gestalt.plugin.runtime import DriverUnavailable, RuntimeDriver

from .board import Board

log = logging.getLogger(__name__)

CYCLE_MAX = 30.0
TURN_MAX = 1800.0
"""Seconds. A manager whose turn takes longer will not come back: even many images are removed in less, each call with its own limit."""


class Manager(Protocol):
    """Keeps one thing right. `ensure` is idempotent, does no more than is needed, and raises what people should know of."""

    name: str

    async def ensure(self) -> None: ...

    async def close(self) -> None:
        """Let go. What was started for applications goes on running."""


class Taker(Protocol):
    """Takes over new settings while the agent runs."""

    async def renew(self, settings: AgentSettings) -> None: ...


class DriverKeeper:
    """Keeps one runtime driver started."""

    def __init__(self, name: str, driver: RuntimeDriver) -> None:
        self.name = f"driver {name}"
        self._driver = driver
        self._started = False

    async def ensure(self) -> None:
        if not self._started:
            await self._driver.start()
            self._started = True

    async def close(self) -> None:
        await self._driver.close()


class Engine(Service[AgentSettings]):
    """Goes through the managers: started in order, let go in reverse."""

    def __init__(
        self,
        settings: AgentSettings,
        managers: Sequence[Manager],
        board: Board,
        life: Life,
        *,
        summaries: Sequence[Callable[[], str]] = (),
        takers: Sequence[Taker] = (),
    ) -> None:
        self._settings = settings
        self._managers = tuple(managers)
        self._board = board
        self._life = life
        self._summaries = tuple(summaries)
        self._takers = tuple(takers)
        self._sentence = ""
        self._renewed = asyncio.Event()
        self._turned = monotonic()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Go through all managers once, then keep doing so."""
        await self.cycle()
        alive = self._life.tell_alive(lambda: monotonic() - self._turned < TURN_MAX)
        self._tasks = [asyncio.create_task(self._run(), name="engine"), asyncio.create_task(alive, name="signs of life")]

    async def cycle(self) -> None:
        """Give every manager its turn, and say in one sentence how things are."""
        failed = [manager.name for manager in self._managers if not await self._ensure(manager)]
        parts = [*(summary() for summary in self._summaries), f"failed: {', '.join(failed)}" if failed else ""]
        sentence = "; ".join(part for part in parts if part)
        log.log(logging.DEBUG if sentence == self._sentence else logging.INFO, "%s", sentence)
        self._sentence = sentence

    async def reload(self, settings: AgentSettings) -> None:
        """Take over what can change while we run, and make a round."""
        self._settings = settings
        for taker in self._takers:
            await taker.renew(settings)
        self._renewed.set()

    async def stop(self) -> None:
        """Let go of everything. Instances and the load balancer go on running."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for manager in reversed(self._managers):
            try:
                await manager.close()
            except Exception:  # the others are to be let go, too
                log.exception("%s could not be let go", manager.name)

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(self._settings.resync, CYCLE_MAX)):
                    await self._renewed.wait()
            self._renewed.clear()
            await self.cycle()

    async def _ensure(self, manager: Manager) -> bool:
        problem = ""
        try:
            await manager.ensure()
        except (DriverUnavailable, GestaltError, OSError) as error:
            problem = f"{manager.name}: {error}"
            log.warning("%s", problem)
        except Exception as error:  # one manager's fault must not stop the others
            log.exception("%s failed", manager.name)
            problem = f"{manager.name} failed ({type(error).__name__}), see the log of the agent"
        self._board.set_problems(f"manager {manager.name}", (problem,) if problem else ())
        self._turned = monotonic()
        return not problem
