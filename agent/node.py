"""Puts the agent together: which managers there are, in which order, and who tells whom."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Protocol

from gestalt.clock import boot_id
from gestalt.config import AgentSettings
from gestalt.daemon import Life
from gestalt.model import Route
from gestalt.plugin.registry import find_driver
from gestalt.plugin.runtime import RuntimeDriver
from gestalt.rpc_server import RpcServer

from .board import Board
from .bulk import Bulk
from .desired import Desired, DesiredStore
from .disk import Disk
from .engine import DriverKeeper, Engine, Manager
from .facts import FactsKeeper
from .instances import LAUNCHES_AT_ONCE, Instances
from .local import Surroundings, Traffic
from .no_proxy import NoProxy
from .records import RecordStore
from .session import Session

log = logging.getLogger(__name__)

CHECK_COMMANDS_AT_ONCE = 4


class Proxy(Traffic, Manager, Protocol):
    """The load balancer of the node."""

    async def set_routes(self, routes: Iterable[Route]) -> None:
        """Route these services; returns when the load balancer does, or a problem is told."""


class DiskKeeper:
    """Lets the disk finish when everything else is let go."""

    name = "disk"

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    async def ensure(self) -> None:
        """Nothing to keep."""

    async def close(self) -> None:
        await self._disk.close()


class HealthServer:
    """The standard gRPC health service, on loopback."""

    name = "health"

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._server: RpcServer | None = None

    async def ensure(self) -> None:
        if self._server is None:
            self._server = await RpcServer.start(f"127.0.0.1:{self._settings.health_port}", self._settings.tls, lambda _: ())

    async def close(self) -> None:
        if self._server is not None:
            await self._server.stop()


async def start_agent(settings: AgentSettings, life: Life) -> Engine:
    """Start the agent with the drivers that its settings name.

    Raises:
        GestaltError: a driver is not installed, or the data folder cannot be used.
    """
    drivers: Mapping[str, RuntimeDriver] = {name: find_driver("runtime", name).create(settings) for name in settings.runtimes}
    return await start_engine(settings, life, drivers, create_proxy(settings))


def create_proxy(settings: AgentSettings) -> Proxy:
    return NoProxy()


async def start_engine(settings: AgentSettings, life: Life, drivers: Mapping[str, RuntimeDriver], proxy: Proxy) -> Engine:
    """Start the agent with these drivers; what the last life left behind is adopted before the coordinator is asked."""
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
    disk, board = Disk(), Board()
    desired = DesiredStore(settings.data_dir, disk)
    records = RecordStore(settings.data_dir / "instances", disk, boot_id())
    around = Surroundings(
        settings, drivers, records, board, proxy, asyncio.Semaphore(LAUNCHES_AT_ONCE), asyncio.Semaphore(CHECK_COMMANDS_AT_ONCE)
    )
    instances = Instances(around)

    async def apply(state: Desired) -> None:
        routing = asyncio.ensure_future(proxy.set_routes(state.state.routes.values()))
        await asyncio.sleep(0)  # the load balancer hears of new servers first, and is changed while containers start
        instances.set_desired(state)
        await routing

    session = Session(settings, desired, board, apply, Bulk(instances.locate))
    managers: list[Manager] = [
        DiskKeeper(disk),
        *(DriverKeeper(name, driver) for name, driver in drivers.items()),
        proxy,
        instances,
        FactsKeeper(settings, drivers, board),
        session,
        HealthServer(settings),
    ]
    engine = Engine(settings, managers, board, life, (instances.summary, session.summary))
    left = desired.load()
    instances.adopt(records.load(), left)
    await proxy.set_routes(left.state.routes.values())
    await engine.start()
    return engine
