"""Grants and leases in ZooKeeper, as one node's fence reads and writes them (see `gestalt.zk.grants`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gestalt.zk.client import Check, Op, Set, Stat, Watch, Zk
from gestalt.zk.grants import GrantMark, LeaseMark, parse_grant
from gestalt.zk.ops import ZkError, ZkRefused, ZkUnavailable
from gestalt.zk.paths import Paths

from .servers import Servers


class GrantLost(ZkError):
    """A grant is not any more as it was read: a coordinator has written it anew, or removed it."""

    def __init__(self, grant: str) -> None:
        super().__init__(f"the grant {grant} is not ours any more")
        self.grant = grant


@dataclass(frozen=True, slots=True)
class Found:
    """A grant as it was read, after the epoch at version `epoch`. `mark`: None where there is none that says anything."""

    epoch: int
    mark: GrantMark | None
    version: int = 0
    modified: int = 0


class Grants:
    """`changed` is called with a watched grant and the zxid of its last change, None when it is gone; first with what is there now."""

    def __init__(self, servers: Servers, paths: Paths, node: str, changed: Callable[[str, int | None], None]) -> None:
        self._servers = servers
        self._paths = paths
        self._node = node
        self._changed = changed
        self._watches: dict[str, tuple[Zk, Watch]] = {}

    async def read(self, grant: str) -> Found:
        """Return the grant as all servers have it.

        Raises:
            ZkUnavailable, ZkRefused: it cannot be read.
        """
        zk, path = self._servers.zk(), self._paths.grant(grant)
        await zk.sync(path)
        epoch, found = await zk.get(self._paths.epoch), await zk.get(path)
        if epoch is None:
            raise ZkUnavailable("ZooKeeper knows of no leader's epoch")
        if found is None:
            return Found(epoch[1].version, None)
        return Found(epoch[1].version, parse_grant(found[0]), found[1].version, found[1].modified)

    async def write(self, mark: LeaseMark, grants: Mapping[str, int], epoch: int | None) -> None:
        """Write the node's lease, if it is a member as `mark.incarnation`, and the grants and the epoch are at these versions.

        Raises:
            GrantLost: one of the grants is not.
            ZkUnavailable: nothing was sent.
            ZkUnknown, ZkRefused: it counts for nothing.
        """
        member = self._servers.member
        if not self._servers.looked or member is None or self._servers.incarnation != mark.incarnation:
            raise ZkUnavailable(f"this node is no member as incarnation {mark.incarnation}, as far as is known")
        paths = {self._paths.grant(name): name for name in grants}
        ops: list[Op] = [Check(self._paths.member(self._node), member.version)]
        ops += [Check(path, grants[name]) for path, name in paths.items()]
        if epoch is not None:
            ops.append(Check(self._paths.epoch, epoch))
        ops.append(Set(self._paths.lease(self._node), mark.encode()))
        try:
            await self._servers.zk().multi(ops)
        except ZkRefused as refusal:
            if refusal.path in paths:
                raise GrantLost(paths[refusal.path]) from refusal
            if refusal.path != self._paths.epoch:
                self._servers.is_in_doubt()
            raise

    def watch(self, grants: Mapping[str, int]) -> None:
        """Have these watched, in the present session, and no others."""
        zk = self._servers.current
        for name, (owner, watch) in list(self._watches.items()):
            if name not in grants or owner is not zk:
                watch.close()
                del self._watches[name]
        for name in grants.keys() - self._watches.keys() if zk is not None else ():
            assert zk is not None
            self._watches[name] = zk, zk.watch(self._paths.grant(name), self._told(name))

    def _told(self, name: str) -> Callable[[tuple[bytes, Stat] | None], None]:
        return lambda found: self._changed(name, found[1].modified if found else None)
