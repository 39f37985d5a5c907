"""What ends by the wall clock, or because nothing is left to do: the drains of nodes, and their maintenance.

In a cluster whoever keeps an eye on the nodes sees to it; in an appliance, whose only node may be in maintenance as well, `run` does.
"""

from __future__ import annotations

import asyncio
import logging

from gestalt import clock
from gestalt.errors import GestaltError

from . import drain, maintenance
from .ledger import Ledger

log = logging.getLogger(__name__)

TICK = 0.5
"""Seconds between looks at what time alone changes."""


async def run(ledger: Ledger) -> None:
    """Note for ever what is over."""
    while True:
        try:
            await note(ledger)
        except GestaltError as error:
            log.error("what is over is not written yet: %s", error)
        await asyncio.sleep(TICK)


async def note(ledger: Ledger) -> None:
    """Write what is over by now.

    Raises:
        GestaltError: it could not be written; it is over all the same, the next call tries again.
    """
    if drain.overdue(ledger.state, clock.wall()):
        async with ledger.draft("leader", "drain-deadline") as draft:
            drain.force(draft, drain.overdue(ledger.state, clock.wall()))
    if maintenance.over(ledger.state, clock.wall()):
        async with ledger.draft("leader", "maintenance-over") as draft:
            maintenance.conclude(draft, maintenance.over(ledger.state, clock.wall()), clock.wall().isoformat())
    if drain.done(ledger.state):
        async with ledger.draft("leader", "drained") as draft:
            drain.conclude(draft, drain.done(ledger.state), clock.wall().isoformat())
