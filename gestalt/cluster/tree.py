"""The znodes of a cluster that are there before anything runs, and who may use them.

Coordinators may do everything, a node what is below its own znode. Nobody else may do anything but read what fences check: the epoch
and the grants. All of it is idempotent.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from gestalt.errors import GestaltError, Kind
from gestalt.zk.acl import Acl, Perm, acl_for, digest_id
from gestalt.zk.client import Zk, ZkRefused, ZkUnavailable, ZkUnknown
from gestalt.zk.paths import Paths

from .secrets import COORDINATOR_IDENTITY, node_identity, node_secret

_ANYONE_READS = acl_for("world:anyone", perms=Perm.READ)
_BELOW = Perm.READ | Perm.WRITE | Perm.CREATE | Perm.DELETE
_HINT = "is ZooKeeper up, and reachable from here? It tells more by: echo srvr | nc HOST 2181"


@dataclass(frozen=True, slots=True)
class Rights:
    """Who may do what in one cluster. `secret`: that of the coordinators."""

    secret: str

    @property
    def coordinators(self) -> Acl:
        return acl_for(digest_id(COORDINATOR_IDENTITY, self.secret))

    @property
    def shown(self) -> Acl:
        """For what fences have to read."""
        return self.coordinators + _ANYONE_READS

    def node(self, node: str) -> Acl:
        """For a node's own znode."""
        return self.coordinators + acl_for(digest_id(node_identity(node), node_secret(self.secret, node)), perms=_BELOW)


class Tree:
    """The znodes of one cluster, as a coordinator may change them."""

    def __init__(self, zk: Zk, root: str, rights: Rights) -> None:
        self._zk = zk
        self._paths = Paths(root)
        self._rights = rights

    async def make(self, cluster_id: str) -> bool:
        """Have the root and its folders; return whether this call made the root.

        Raises:
            GestaltError: CONFLICT, when the root belongs to something else; UNAVAILABLE, when ZooKeeper does not do it.
        """
        made = await self._root(cluster_id)
        for path, acl in (
            (self._paths.election, self._rights.coordinators),
            (self._paths.nodes, self._rights.shown),
            (self._paths.grants, self._rights.shown),
        ):
            await self._create(path, b"", acl)
        return made

    async def admit(self, node: str) -> None:
        """Have the znode of a node, with rights for its fence.

        Raises:
            GestaltError: UNAVAILABLE, when ZooKeeper does not do it.
        """
        await self._create(self._paths.node(node), b"", self._rights.node(node))

    async def expel(self, node: str) -> None:
        """Have nothing left of a node; its fence can do nothing any more.

        Raises:
            GestaltError: UNAVAILABLE, when ZooKeeper does not do it.
        """
        path = self._paths.node(node)
        try:
            for _ in range(3):  # its fence may be making something just now
                for child in await self._zk.children(path):
                    await _absent(self._zk, f"{path}/{child}")
                if await _absent(self._zk, path):
                    return
        except (ZkUnavailable, ZkUnknown, ZkRefused) as error:
            raise _unavailable(error) from error
        raise GestaltError(Kind.UNAVAILABLE, f"{path} cannot be removed: something is made below it again and again", hint="try again")

    async def known(self) -> list[str]:
        """Return the ids of all nodes that have a znode.

        Raises:
            GestaltError: UNAVAILABLE, when ZooKeeper does not tell.
        """
        try:
            return await self._zk.children(self._paths.nodes)
        except (ZkUnavailable, ZkUnknown, ZkRefused) as error:
            raise _unavailable(error) from error

    async def _root(self, cluster_id: str) -> bool:
        root = self._paths.root
        parent = root.rpartition("/")[0]
        try:
            if parent:
                await self._zk.ensure(parent)
            made = await self._create(root, _owner(cluster_id), self._rights.shown)
            found = await self._zk.get(root)
        except (ZkUnavailable, ZkUnknown) as error:
            raise _unavailable(error) from error
        except ZkRefused as error:
            raise GestaltError(
                Kind.CONFLICT,
                f"ZooKeeper refuses {root}: {error}",
                hint="it may belong to another cluster: choose another --zookeeper-root",
            ) from error
        if found is None or found[0] != _owner(cluster_id):
            raise GestaltError(
                Kind.CONFLICT,
                f"{root} in ZooKeeper belongs to something else than cluster {cluster_id}",
                hint="choose another --zookeeper-root; of the other cluster nothing was changed",
            )
        return made

    async def _create(self, path: str, value: bytes, acl: Acl) -> bool:
        try:
            await self._zk.create(path, value, acl=acl)
        except ZkRefused as error:
            if error.reason == "exists":
                return False
            raise _unavailable(error) from error
        except (ZkUnavailable, ZkUnknown) as error:
            raise _unavailable(error) from error
        return True


async def _absent(zk: Zk, path: str) -> bool:
    """Delete a znode; return whether it is gone, which it is not while something is below it."""
    try:
        await zk.delete(path)
    except ZkRefused as error:
        if error.reason == "not_empty":
            return False
        if error.reason != "missing":
            raise
    return True


def _owner(cluster_id: str) -> bytes:
    """Return what the root of a cluster holds."""
    return json.dumps({"cluster_id": cluster_id}).encode()


def _unavailable(error: Exception) -> GestaltError:
    return GestaltError(Kind.UNAVAILABLE, f"ZooKeeper does not do it: {error}", hint=_HINT)
