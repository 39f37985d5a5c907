"""What tests of the store in ZooKeeper share: stores on one root, through a proxy that cuts or a client that is cut short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from gestalt.config import ZooKeeperSettings
from gestalt.coordinator.store.zookeeper import ZookeeperStore
from gestalt.zk.client import Op, Stat, Zk, ZkUnavailable, ZkUnknown
from gestalt.zk.paths import Paths
from tests.real.zookeeper_lab import Cutter, Ensemble, cutter, new_root

from .backends import CLUSTER


class CutShort:
    """A client that stops writing after so many transactions, as if its process were killed there; or loses just one of them.

    The loss is told as soon as `is_told` is set.
    """

    def __init__(self, zk: Zk, writes: int) -> None:
        self._zk = zk
        self.left = writes
        self.loses_one = False
        self.is_told = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._zk, name)

    async def multi(self, ops: Sequence[Op]) -> list[str | Stat | None]:
        self.left -= 1
        if self.left == -1 and self.loses_one:
            await self.is_told.wait()
            raise ZkUnknown("lost")
        if self.left < 0 and not self.loses_one:
            raise ZkUnavailable("cut short")
        return await self._zk.multi(ops)


class Rig:
    """One root, a client for looking and meddling, and stores on the root."""

    def __init__(self, ensemble: Ensemble, zk: Zk, proxy: Cutter, stack: AsyncExitStack) -> None:
        self.ensemble = ensemble
        self.root = new_root()
        self.paths = Paths(self.root)
        self.zk = zk
        self.proxy = proxy
        self._stack = stack

    async def _connect(self, host: str, session: float) -> Zk:
        return await Zk.connect(ZooKeeperSettings(hosts=(host,), root=self.root), session=session, name="store")

    async def store(self, *, cut: bool = False, session: float = 5.0, **options: Any) -> ZookeeperStore:
        """Return an open store with a session of its own; `cut`: through the proxy."""
        host = self.proxy.host if cut else self.ensemble.hosts[0]
        store = ZookeeperStore(lambda: self._connect(host, session), self.paths, CLUSTER, **options)
        await store.open()
        self._stack.push_async_callback(store.close)
        return store

    async def store_cut_short(self, writes: int) -> tuple[ZookeeperStore, CutShort]:
        """Return an open store that stops writing after so many transactions."""
        short = CutShort(await self._connect(self.ensemble.hosts[0], 5.0), writes)
        self._stack.push_async_callback(short.close)

        async def connection() -> Any:
            return short

        store = ZookeeperStore(connection, self.paths, CLUSTER)
        await store.open()
        self._stack.push_async_callback(store.close)
        return store, short


@asynccontextmanager
async def rig_on(ensemble: Ensemble) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(cutter(ensemble.ports[0]))
        zk = await Zk.connect(ensemble.settings(), session=10, name="rig")
        stack.push_async_callback(zk.close)
        yield Rig(ensemble, zk, proxy, stack)
