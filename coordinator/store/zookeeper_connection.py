"""Whose client of ZooKeeper a store uses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gestalt.zk.client import Zk, ZkState, ZkUnavailable


class Connection:
    """A client that stays its owner's, or how to get one, which is then ours and replaced when its session is over."""

    def __init__(self, source: Zk | Callable[[], Awaitable[Zk]]) -> None:
        self._source = source
        self._zk: Zk | None = None

    async def live(self) -> Zk:
        """Return a client whose session is not over, as far as that is in our hands."""
        if isinstance(self._source, Zk):
            self._zk = self._source
        elif self._zk is None or self._zk.state is ZkState.LOST:
            await self.let_go()
            self._zk = await self._source()
        return self._zk

    def present(self) -> Zk:
        """Return the client that we have."""
        if self._zk is None:
            raise ZkUnavailable("there is no connection to ZooKeeper")
        return self._zk

    async def let_go(self) -> None:
        """End what is ours. Idempotent."""
        zk, self._zk = self._zk, None
        if zk is not None and zk is not self._source:
            await zk.close()
