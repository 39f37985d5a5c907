"""Reading and making the znodes of a store. What it says on errors of ZooKeeper, it says as `StoreError`s."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from gestalt.errors import Kind
from gestalt.zk.acl import Perm, acl_for
from gestalt.zk.client import Check, Create, Set, Stat, Zk, ZkError, ZkRefused
from gestalt.zk.paths import Paths

from .base import StoreCorrupt, StoreError, WrongCluster
from .formats import check_format, newest
from .zookeeper_contents import Contents
from .zookeeper_format import Base, Documents, Entry, decode_base, decode_entry, decode_number, encode_base, replay

_READS = 64  # in flight at a time
_TRIES = 10


def translation(error: ZkError) -> StoreError:
    """Return what ZooKeeper did not do as the store's own error."""
    if not isinstance(error, ZkRefused):
        return StoreError(f"ZooKeeper cannot be used now: {error}", hint="is it up, and reachable from here?")
    if error.reason == "expired":
        return StoreError("the session with ZooKeeper is over")
    hint = "check zookeeper.identity and its secret" if error.reason == "denied" else ""
    return StoreError(f"ZooKeeper refused {error}", kind=Kind.REFUSED, hint=hint)


@contextmanager
def translated() -> Iterator[None]:
    """Raise what ZooKeeper did not do as a `StoreError`."""
    try:
        yield
    except ZkError as error:
        raise translation(error) from error


@dataclass(frozen=True, slots=True)
class Epoch:
    """The present epoch; `version`: of its znode, which fences a leader's writes."""

    number: int
    version: int


@dataclass(frozen=True, slots=True)
class Head:
    """The number of the last commit; `version`: of its znode, which keeps commits in order."""

    number: int
    version: int


class Layout:
    """The paths below the store's znode."""

    def __init__(self, paths: Paths) -> None:
        self.head = f"{paths.store}/head"
        self.base = f"{paths.store}/base"
        self.log = f"{paths.store}/log"
        self.segments = f"{paths.store}/segments"

    def entry(self, number: int) -> str:
        return f"{self.log}/{number:012}"

    def segment(self, name: str) -> str:
        return f"{self.segments}/{name}"


class Znodes:
    """The znodes of one store, for reading. Methods raise `ZkError`s and `StoreCorrupt`."""

    def __init__(self, zk: Zk, paths: Paths) -> None:
        self._zk = zk
        self._paths = paths
        self._layout = Layout(paths)

    async def epoch(self) -> Epoch:
        value, stat = await self._required(self._paths.epoch)
        return Epoch(decode_number(value, "the epoch"), stat.version)

    async def head(self) -> Head:
        value, stat = await self._required(self._layout.head)
        return Head(decode_number(value, "the number of the last commit"), stat.version)

    async def latest(self) -> Head:
        """Return the head, with every commit that anybody was told of."""
        await self._zk.sync(self._layout.head)
        return await self.head()

    async def contents(self) -> Contents:
        """Return everything, as of one commit.

        Entries and segments never change once they are written, so what the head and the base name is consistent; only a fold may have
        removed some of it meanwhile.
        """
        missing = ""
        for _ in range(_TRIES):
            await self._zk.sync(self._layout.head)
            value, stat = await self._required(self._layout.base)
            contents = await self._contents_on(decode_base(value), stat)
            if isinstance(contents, Contents):
                return contents
            missing = contents
        raise StoreCorrupt(f"{missing} is missing in ZooKeeper")

    async def _contents_on(self, base: Base, stat: Stat) -> Contents | str:
        """Return the contents, or the path of what was missing."""
        head = await self.head()
        paths = [self._layout.entry(number) for number in range(base.commit + 1, head.number + 1)]
        if isinstance(values := await self._all(paths), str):
            return values
        entries = [decode_entry(value) for value in values]
        names = [*base.segments, *(segment for entry in entries for segment in entry.segments)]
        if isinstance(values := await self._all([self._layout.segment(segment.name) for segment in names]), str):
            return values
        segments = {segment.name: value for segment, value in zip(names, values, strict=True)}
        contents = Contents(head.number, head.version, base, stat.version, await _replayed(base, entries, segments))
        for entry in entries:
            contents.append(entry)
        contents.measure()
        return contents

    async def _all(self, paths: Sequence[str]) -> list[bytes] | str:
        """Return the values of znodes, or the path of one that is missing."""
        values = []
        for start in range(0, len(paths), _READS):
            some = paths[start : start + _READS]
            for path, found in zip(some, await asyncio.gather(*(self._zk.get(path) for path in some)), strict=True):
                if found is None:
                    return path
                values.append(found[0])
        return values

    async def _required(self, path: str) -> tuple[bytes, Stat]:
        found = await self._zk.get(path)
        if found is None:
            raise StoreCorrupt(f"{path} is missing in ZooKeeper: was it wiped?")
        return found


async def _replayed(base: Base, entries: Sequence[Entry], segments: dict[str, bytes]) -> Documents:
    documents: Documents = {}
    pieces = [segments[segment.name] for segment in base.segments]
    for entry in entries:
        pieces += [entry.records, *(segments[segment.name] for segment in entry.segments)]
    for number, piece in enumerate(pieces):
        replay(piece, documents)
        if number % 32 == 0:
            await asyncio.sleep(0)  # let others run: there may be many megabytes
    return documents


@dataclass(frozen=True, slots=True)
class Identity:
    """What a store says of itself, besides whose it is."""

    history_id: str
    format: int


async def ensure_store(zk: Zk, paths: Paths, cluster_id: str, *, must_exist: bool) -> Identity:
    """Check whose store lies there and return what it says of itself; make an empty one where there is none.

    Raises:
        StoreCorrupt, WrongCluster, WrongFormat: it must not be used.
        ZkError: ZooKeeper did not do it.
    """
    found = await zk.get(paths.cluster)
    if found is None:
        if must_exist and not await zk.exists(paths.root):
            raise StoreCorrupt(f"there is no {paths.root} in ZooKeeper: it was wiped, or it is another ZooKeeper than this cluster's")
        await zk.ensure(paths.root)
        await _make(zk, paths, cluster_id)
        await zk.sync(paths.cluster)
        found = await zk.get(paths.cluster)
    if found is None:
        raise StoreCorrupt(f"{paths.root} in ZooKeeper holds parts of a store, but not whose it is")
    try:
        fields = json.loads(found[0])
        owner, history, written = str(fields["cluster_id"]), str(fields["history_id"]), int(fields["format"])
    except (ValueError, TypeError, KeyError) as error:
        raise StoreCorrupt(f"{paths.cluster} in ZooKeeper is not readable") from error
    if owner != cluster_id:
        raise WrongCluster(f"{paths.root} in ZooKeeper belongs to cluster {owner}, not {cluster_id}")
    check_format(written, "the store in ZooKeeper")
    return Identity(history, written)


async def raise_format(zk: Zk, paths: Paths, number: int, fence: Check) -> bool:
    """Write a format into the store's own document, unless it is as high already; return whether it was not.

    Raises:
        ZkError: of index 0, when the fence has fallen.
    """
    found = await zk.get(paths.cluster)
    if found is None:
        raise StoreCorrupt(f"{paths.cluster} is missing in ZooKeeper: was it wiped?")
    fields = json.loads(found[0])
    if int(fields["format"]) >= number:
        return False
    await zk.multi([fence, Set(paths.cluster, json.dumps(fields | {"format": number}, sort_keys=True).encode(), found[1].version)])
    return True


async def _make(zk: Zk, paths: Paths, cluster_id: str) -> None:
    """Make an empty store in one transaction, unless somebody else just did."""
    layout = Layout(paths)
    identity = {"cluster_id": cluster_id, "history_id": uuid.uuid4().hex, "format": newest()}
    shown = zk.default_acl + acl_for("world:anyone", perms=Perm.READ)  # fences check the epoch
    try:
        await zk.multi(
            [
                Create(paths.cluster, json.dumps(identity, sort_keys=True).encode()),
                Create(paths.epoch, b"0", acl=shown),
                Create(paths.store),
                Create(layout.head, b"0"),
                Create(layout.base, encode_base(Base(0, ()))),
                Create(layout.log),
                Create(layout.segments),
            ]
        )
    except ZkRefused as refusal:
        if refusal.reason != "exists":
            raise
