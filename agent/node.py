"""Puts the agent together: which managers there are, in which order, and who tells whom."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from gestalt.clock import boot_id
from gestalt.config import AgentSettings
from gestalt.daemon import Life
from gestalt.plugin.registry import find_driver
from gestalt.plugin.runtime import RuntimeDriver
from gestalt.rpc_server import RpcServer

from .board import Board
from .bulk import Bulk
from .coordinators import KnownCoordinators
from .desired import Desired, DesiredStore
from .disk import Disk
from .engine import DriverKeeper, Engine, Manager
from .facts import FactsKeeper
from .fencing import Fencing
from .firewall.refusing import Refusing
from .hosts import Hosts
from .instances import LAUNCHES_AT_ONCE, Instances
from .kernel import check_pidfds
from .local import Surroundings
from .preparing import Preparing
from .proxy import ProxyManager
from .records import RecordStore
from .session import Session
from .usage import UsageKeeper

log = logging.getLogger(__name__)

CHECK_COMMANDS_AT_ONCE = 4
APPLY_LIMIT = 5.0


class ProxyKeeper:
    """Keeps the load balancer started, and tells of its problems."""

    name = "proxy"

    def __init__(self, proxy: ProxyManager, board: Board) -> None:
        self._proxy = proxy
        self._board = board
        self._started = False

    async def ensure(self) -> None:
        if not self._started:
            await self._proxy.start()
            self._started = True
        self.tell()

    def tell(self) -> None:
        """Tell of its problems now."""
        self._board.set_problems(self.name, self._proxy.problems)

    async def renew(self, settings: AgentSettings) -> None:
        """Look at it as often as the settings say now; from the next look on."""
        self._proxy.resync = settings.resync

    async def close(self) -> None:
        await self._proxy.close()


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
        GestaltError: a driver is not installed, the data folder cannot be used, or the kernel lacks what an agent needs.
    """
    check_pidfds()
    drivers: Mapping[str, RuntimeDriver] = {name: find_driver("runtime", name).create(settings) for name in settings.runtimes}
    return await start_engine(settings, life, drivers, ProxyManager.create(settings))


async def start_engine(settings: AgentSettings, life: Life, drivers: Mapping[str, RuntimeDriver], proxy: ProxyManager) -> Engine:
    """Start the agent with these drivers; what the last life left behind is adopted before the coordinator is asked."""
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
    disk, board = Disk(), Board()
    desired = DesiredStore(settings.data_dir, disk)
    records = RecordStore(settings.data_dir / "instances", disk, boot_id())
    fencing = Fencing(settings, board)
    slots = asyncio.Semaphore(LAUNCHES_AT_ONCE), asyncio.Semaphore(CHECK_COMMANDS_AT_ONCE)
    preparing = Preparing(drivers, board)
    around = Surroundings(settings, drivers, records, board, proxy, *slots, fencing.exclusive, fencing.returning(disk), preparing.use)
    instances, proxy_keeper = Instances(around), ProxyKeeper(proxy, board)
    peers = _peers(settings, board, disk)

    async def apply(state: Desired) -> None:
        """The load balancer hears of new servers first, and is changed while containers start."""
        for keeper in peers:
            keeper.set_desired(state)
        route(proxy, state)
        instances.set_desired(state)
        preparing.set_desired(state)
        await proxy.wait_applied(APPLY_LIMIT)
        proxy_keeper.tell()

    known = KnownCoordinators(settings, disk)
    session = Session(settings, desired, board, apply, Bulk(instances.locate), known=known)
    facts = FactsKeeper(settings, drivers, board)
    usage = UsageKeeper(settings, instances.locate, proxy.driver, board)
    managers: list[Manager] = [
        DiskKeeper(disk),
        *fencing.first,
        *peers,
        *(DriverKeeper(name, driver) for name, driver in drivers.items()),
        proxy_keeper,
        instances,
        preparing,
        facts,
        usage,
        session,
        known,
        *fencing.later(instances, session, known),
        HealthServer(settings),
    ]
    summaries = instances.summary, session.summary, *fencing.summaries
    engine = Engine(settings, managers, board, life, summaries=summaries, takers=(proxy_keeper, around, facts, usage))
    left = desired.load()
    for keeper in peers:
        keeper.set_desired(left)
    instances.adopt(records.load(), left)
    preparing.set_desired(left)
    route(proxy, left)
    await engine.start()
    return engine


def _peers(settings: AgentSettings, board: Board, disk: Disk) -> list[Refusing | Hosts]:
    """Return those who care for what the other nodes of a cluster are to this one; an appliance has no others."""
    if settings.fence is None:
        return []
    refusing = Refusing(board, settings.address)
    return [refusing, Hosts(settings.hosts_file, settings.node_id, disk, board)] if settings.hosts_file is not None else [refusing]


def route(proxy: ProxyManager, desired: Desired) -> None:
    """Hand over the routes; what is to stop is drained from the same moment on."""
    proxy.set_routes(desired.state.routes, [item.id for item in desired.state.instances.values() if item.stop])
