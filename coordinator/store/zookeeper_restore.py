"""Replacing everything in a store in ZooKeeper: the new segments first, then one small transaction that makes them count."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from gestalt.zk.client import Check, Op, Set, Zk, ZkRefused
from gestalt.zk.paths import Paths

from .base import Document, Put, Restored, StoreCorrupt, Superseded
from .zookeeper_contents import Fold
from .zookeeper_fold import Folder
from .zookeeper_format import Base, Segment, encode_base, pack, record_of
from .zookeeper_znodes import Epoch, Head, Layout, Znodes


@dataclass(frozen=True, slots=True)
class Standing:
    """What a restore found, and what must still be so when it counts."""

    epoch: Epoch
    head: Head
    base_version: int
    identity: bytes
    identity_version: int


class Replacement:
    """One restore. Whatever is cut short leaves only segments that nothing names, which the next leader's fold sweeps up."""

    def __init__(self, zk: Zk, paths: Paths) -> None:
        self._zk = zk
        self._paths = paths
        self._layout = Layout(paths)

    async def look(self, expected: int) -> Standing:
        """Return what there is.

        Raises:
            Superseded: it is not at the expected commit.
            StoreCorrupt, ZkError: it cannot be read.
        """
        znodes = Znodes(self._zk, self._paths)
        head, epoch = await znodes.latest(), await znodes.epoch()
        if head.number != expected:
            raise Superseded(expected, head.number)
        base, identity = await self._zk.get(self._layout.base), await self._zk.get(self._paths.cluster)
        if base is None or identity is None:
            raise StoreCorrupt(f"{self._paths.root} in ZooKeeper has lost what it is made of: was it wiped?")
        return Standing(epoch, head, base[1].version, identity[0], identity[1].version)

    async def carry_out(self, documents: Sequence[Document], there: Standing, *, commit: int, epoch: int) -> Restored:
        """Write everything, then make it count.

        Raises:
            Superseded: somebody has written or taken office since.
            ZkUnknown: it may count. Other `ZkError`s: it does not.
        """
        restored = Restored(max(commit, there.head.number) + 1, max(epoch, there.epoch.number) + 1, uuid.uuid4().hex)
        try:
            base = Base(restored.commit, await self._write(documents, there.epoch))
            await self._zk.multi(self._ops(restored, base, there))
        except ZkRefused as refusal:
            if refusal.reason != "version":
                raise
            raise Superseded(there.head.number, (await Znodes(self._zk, self._paths).latest()).number) from refusal
        return restored

    async def _write(self, documents: Sequence[Document], epoch: Epoch) -> tuple[Segment, ...]:
        folder = Folder(self._zk, self._layout, Check(self._paths.epoch, epoch.version), epoch.number)
        records = (record_of(Put(each.kind, each.key, each.value), each.revision) for each in documents)
        return tuple([await folder.write(piece) for piece in pack(records)])

    def _ops(self, restored: Restored, base: Base, there: Standing) -> list[Op]:
        identity = json.loads(there.identity) | {"history_id": restored.history_id, "restored": True}
        return [
            Set(self._paths.epoch, str(restored.epoch).encode(), there.epoch.version),
            Set(self._layout.head, str(restored.commit).encode(), there.head.version),
            Set(self._layout.base, encode_base(base), there.base_version),
            Set(self._paths.cluster, json.dumps(identity, sort_keys=True).encode(), there.identity_version),
        ]

    async def sweep(self, restored: Restored, there: Standing) -> None:
        """Remove what the old state has left.

        Raises:
            ZkError: some of it is still there; the next leader's fold removes it.
        """
        contents = await Znodes(self._zk, self._paths).contents()
        fence = Check(self._paths.epoch, there.epoch.version + 1)
        folder = Folder(self._zk, self._layout, fence, restored.epoch)
        await folder.sweep(contents.base, Fold(contents.base.commit, contents.base, (), None))
