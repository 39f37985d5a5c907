"""The coordinator as a daemon: in an appliance it leads all its life, in a cluster by turns."""

from __future__ import annotations

import asyncio
import logging

from gestalt.config import CoordinatorSettings
from gestalt.daemon import Life, Service

from .leader import SERVICES, Leader, Seat
from .office import Office
from .reception import Reception
from .store import store_for

log = logging.getLogger(__name__)


class CoordinatorService(Service[CoordinatorSettings]):
    """The coordinator of an appliance: it takes office, or does not start."""

    def __init__(self, settings: CoordinatorSettings, life: Life) -> None:
        self._settings = settings
        self._life = life
        self._office = Office.for_life()
        where = f"{settings.store.kind} {settings.store.path}"
        self.leader = Leader(settings, Seat(store_for(settings), self._office, where), life.die)
        self._reception: Reception | None = None
        self._watch: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self) -> None:
        """Take office and listen.

        Raises:
            GestaltError: the store or the address cannot be used.
        """
        self._office.on_end(lambda: self._life.die(self._office.reason))
        await self.leader.ledger.begin()
        await self.leader.prepare()
        self._reception = Reception(self._settings, SERVICES, self.leader.begin())
        self.port = await self._reception.open()
        self._watch = asyncio.create_task(self._life.tell_alive(self._office.holds), name="signs of life")

    @property
    def settings(self) -> CoordinatorSettings:
        return self._settings

    async def reload(self, settings: CoordinatorSettings) -> None:
        self._settings = settings
        self.leader.renew(settings)

    async def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        if self._reception is not None:
            await self._reception.close(grace=1.0)
        await self.leader.stop()


async def build(settings: CoordinatorSettings, life: Life) -> Service[CoordinatorSettings]:
    """Return a coordinator that works.

    Raises:
        GestaltError: the store or the address cannot be used.
    """
    if settings.mode == "appliance":
        appliance = CoordinatorService(settings, life)
        await appliance.start()
        return appliance
    from .cluster import ClusterService  # ZooKeeper's client: an appliance needs none

    member = ClusterService(settings, life)
    await member.start()
    return member
