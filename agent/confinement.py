"""The cgroups of an attempt, used without the help of its runtime."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gestalt.clock import boottime
from gestalt.plugin.runtime import AttemptKey, AttemptState, DriverUnavailable, LaunchRefused, RuntimeDriver

from .fence.cgroups import kill_cgroup, pids_in

log = logging.getLogger(__name__)

KILL_LIMIT = 2.0
_THREADS = ThreadPoolExecutor(8, thread_name_prefix="gestalt-kill")
"""Of its own: nothing that hangs elsewhere must delay a kill."""


async def is_confined(driver: RuntimeDriver, key: AttemptKey) -> bool:
    """Whether an attempt that was launched has processes in its cgroups, or none anywhere.

    Raises:
        DriverUnavailable: the runtime does not answer.
    """
    cgroups = await driver.cgroups(key)
    if await asyncio.to_thread(_populated, cgroups):
        return True
    status = await driver.inspect(key)
    return status is None or status.state is not AttemptState.RUNNING


async def kill_attempt(driver: RuntimeDriver, key: AttemptKey) -> None:
    """Kill all of a confined attempt; nothing happens to one whose cgroups nobody knows."""
    try:
        cgroups = await driver.cgroups(key)
    except (LaunchRefused, DriverUnavailable) as error:
        log.warning("%s-%d cannot be killed without its runtime: %s", key.instance, key.attempt, error)
        return
    await kill_all(cgroups, boottime() + KILL_LIMIT)


async def kill_all(cgroups: Iterable[str], deadline: float) -> bool:
    """Kill everything in these cgroups, at most until `deadline` (seconds since boot); return whether nothing is left."""
    loop = asyncio.get_running_loop()
    return all(await asyncio.gather(*(loop.run_in_executor(_THREADS, kill_cgroup, Path(item), deadline) for item in cgroups)))


def _populated(cgroups: Iterable[str]) -> bool:
    """Version 1 shows the same processes in each of its hierarchies; those that are not used are empty."""
    return any(pids_in(Path(item)) for item in cgroups)
