"""The health checks of whichever attempt of one instance runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from gestalt.clock import boottime
from gestalt.model import CheckStatus, Health
from gestalt.plugin.check import CheckTarget
from gestalt.plugin.runtime import AttemptKey, RuntimeDriver

from .attempts import exec_runner
from .checks import CheckRunner
from .local import Target
from .observe import CheckReport

_NOTHING = CheckReport()


class CheckWatch:
    """Runs the checks of one attempt at a time. `well_since`: since when it is healthy, in seconds since boot."""

    def __init__(self, instance: str, host: str, exec_slots: asyncio.Semaphore, changed: Callable[[], None]) -> None:
        self._instance = instance
        self._node = self._host = host
        self._exec_slots = exec_slots
        self._changed = changed
        self._runner: CheckRunner | None = None
        self.attempt = 0
        self.report = _NOTHING
        self.well_since: float | None = None

    async def watch(
        self, attempt: int, target: Target, driver: RuntimeDriver, age: float, known: Sequence[CheckStatus], *, host: str = ""
    ) -> None:
        """Run the checks of this attempt, and of no other. Idempotent. `host`: where its ports are, if not at the node's address."""
        host = host or self._node
        if (self.attempt == attempt and self._host == host) or target.spec is None or target.desired is None:
            return
        await self.stop()
        key = AttemptKey(self._instance, attempt)
        ports = {binding.name: binding.host_port for binding in target.desired.ports}
        place = CheckTarget(host, ports, exec_runner(driver, key), lambda: driver.inspect(key))
        self.attempt, self._host = attempt, host
        self._runner = CheckRunner(
            self._instance, target.spec.checks, place, self._report, exec_slots=self._exec_slots, age=age, known=known
        )
        self._runner.start()

    async def stop(self) -> None:
        """Run nothing any more; the report says nothing then. Idempotent."""
        runner, self._runner = self._runner, None
        self.attempt, self.report, self.well_since = 0, _NOTHING, None
        if runner is not None:
            await runner.stop()

    def _report(self, statuses: tuple[CheckStatus, ...], health: Health, ready: bool, restart_reason: str | None) -> None:
        if health is not Health.HEALTHY:
            self.well_since = None
        elif self.well_since is None:
            self.well_since = boottime()
        self.report = CheckReport(statuses, health, ready, restart_reason or "")
        self._changed()
