"""Ends what is exclusive when its lease is over and the fence has not done it: because it hangs, or is gone.

It knows the end of the lease from what the fence said last, and where the processes are. That is kept in a file below /run as well, so that
an agent that starts while there is no fence knows it, too.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from gestalt.clock import boot_id, boottime
from gestalt.files import write_atomic

from .confinement import kill_all
from .fence_state import LeaseState, parse_lease_state
from .ongoing import Ongoing

log = logging.getLogger(__name__)

LINK_LIMIT = 2.0
"""Seconds that a fence which lives has, after the agent's start, to say how its lease stands now."""

HEARING = 0.5
"""The same after this agent stood still itself: the fence may have renewed the lease meanwhile, and has said so."""

NAPS = 1.0
AGAIN = 0.25


def over(lease: LeaseState, heard: float, since: float) -> Mapping[str, float]:
    """Return when the agent ends each thing that is held, in seconds since boot, should the fence not have done it.

    The fence has half of the time for killing to itself.

    Args:
        lease: as the fence told it last.
        heard: since when it says of what was revoked that it was.
        since: before which nothing is due, as the fence could not be asked yet.
    """
    return {name: max(heard if what.revoked else lease.until, since) + lease.kill / 2 for name, what in lease.held.items()}


class Guard:
    """The manager of that. `lease` is what was heard last."""

    name = "guard"

    def __init__(self, run_dir: Path) -> None:
        self._file = run_dir / "lease.json"
        self._boot = boot_id()
        self._since = boottime() + LINK_LIMIT
        self._heard = boottime()
        self._rested = boottime()
        self._hears = 0.0
        self._is_excused = False
        self._woken = asyncio.Event()
        self._task = Ongoing("guard", self._run)
        self.lease = self._load()
        self._kept = self.lease
        self._ended: set[str] = set()

    def take(self, lease: LeaseState) -> None:
        """The fence says how its lease stands."""
        if _revoked(lease) != _revoked(self.lease):
            self._heard = boottime()
        self.lease, self._since, self._is_excused = lease, 0.0, False
        self._woken.set()

    async def ensure(self) -> None:
        """Have it watched. Idempotent."""
        self._task.begin()

    async def close(self) -> None:
        """Watch no more; the fence does, and the next agent."""
        await self._task.end()

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            try:
                pause = await self._step()
            except Exception:  # whatever it is, what is due has to end
                log.exception("the guard of the lease failed")
                pause = AGAIN
            self._rested = boottime()
            try:
                async with asyncio.timeout(pause):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def _step(self) -> float:
        """End what is due; return how long to rest."""
        now = boottime()
        if now - self._rested > NAPS + HEARING and not self._is_excused:
            self._hears, self._is_excused = now + HEARING, True  # once, until it has heard the fence
        times = {name: max(when, self._hears) for name, when in over(self.lease, self._heard, self._since).items()}
        if due := [name for name, when in times.items() if when <= now]:
            await self._end(due)
            return AGAIN
        await self._keep()
        return min(NAPS, *(when - now for when in times.values())) if times else NAPS

    async def _end(self, names: Sequence[str]) -> None:
        lease = self.lease
        if set(names) - self._ended:
            log.critical("the lease is over, and the fence did not end %s", ", ".join(names))
        self._ended = set(names)
        deadline = max(lease.until + lease.kill, boottime() + lease.kill / 2)
        if not await kill_all([path for name in names for path in lease.held[name].cgroups], deadline):
            log.critical("%s could not be ended", ", ".join(names))

    async def _keep(self) -> None:
        """Have it on disk, as far as it is worth it: the file is below /run, and of this boot."""
        self._ended, lease = set(), self.lease
        if lease != self._kept and (lease.held or (self._kept and self._kept.held)):
            document = {"boot": self._boot, "lease": lease.document()}
            await asyncio.to_thread(write_atomic, self._file, json.dumps(document), mode=0o600)
        self._kept = lease

    def _load(self) -> LeaseState:
        try:
            document = json.loads(self._file.read_bytes())
            return parse_lease_state(document["lease"]) if document["boot"] == self._boot else LeaseState()
        except FileNotFoundError:
            return LeaseState()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.error("%s does not tell what is held: %s", self._file, error)
            return LeaseState()


def _revoked(lease: LeaseState) -> set[str]:
    return {name for name, what in lease.held.items() if what.revoked}
