"""Folding the log of a store into its base: new segments first, then one small write that makes them count, then the removal of the old."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from itertools import groupby

from gestalt.zk.client import Check, Create, Delete, Set, Zk, ZkRefused

from .zookeeper_contents import Fold
from .zookeeper_format import Base, Segment, encode_base, pack
from .zookeeper_znodes import Layout

_DELETES = 200  # in one transaction


class Folder:
    """Writes segments under one epoch. Each write is fenced; whatever is cut short leaves only what `sweep` removes later."""

    def __init__(self, zk: Zk, layout: Layout, fence: Check, epoch: int) -> None:
        self._zk = zk
        self._layout = layout
        self._fence = fence
        self._epoch = epoch

    async def write(self, records: bytes) -> Segment:
        """Write one segment; it does not count yet.

        Raises:
            ZkError: it may lie there, and does no harm.
        """
        segment = Segment(f"{self._epoch:010}-{secrets.token_hex(8)}", len(records))
        await self._zk.multi([self._fence, Create(self._layout.segment(segment.name), records)])
        return segment

    async def fold(self, fold: Fold, version: int) -> Base:
        """Write the base anew, which has this version now.

        Raises:
            ZkError: the old base may be the present one.
        """
        segments = list(fold.kept)
        for exists, pieces in groupby(fold.pieces(), key=lambda piece: isinstance(piece, Segment)):
            if exists:
                segments += [piece for piece in pieces if isinstance(piece, Segment)]
            else:
                segments += [await self.write(records) for records in pack(piece for piece in pieces if isinstance(piece, bytes))]
        base = Base(fold.commit, tuple(segments))
        await self._zk.multi([self._fence, Set(self._layout.base, encode_base(base), version)])
        return base

    async def sweep(self, base: Base, fold: Fold) -> None:
        """Remove what the fold made superfluous, and what earlier leaders have left. What the log names was written under this epoch.

        Raises:
            ZkError: some of it is still there.
        """
        folded = [name for name in await self._zk.children(self._layout.log) if int(name) <= base.commit]
        await self._delete(f"{self._layout.log}/{name}" for name in folded)
        used = {segment.name for segment in base.segments}
        old = {segment.name for segment in fold.old}
        there = await self._zk.children(self._layout.segments)
        gone = [name for name in there if name not in used and (name in old or int(name.split("-")[0]) < self._epoch)]
        await self._delete(map(self._layout.segment, gone))

    async def _delete(self, paths: Iterable[str]) -> None:
        waiting = list(paths)
        for start in range(0, len(waiting), _DELETES):
            try:
                await self._zk.multi([self._fence, *(Delete(path) for path in waiting[start : start + _DELETES])])
            except ZkRefused as refusal:
                if refusal.reason != "missing" or refusal.index == 0:
                    raise
