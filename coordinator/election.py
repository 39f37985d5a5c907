"""Who is next: each coordinator's candidacy is an ephemeral znode with a number, and the lowest leads.

A candidate watches the one before it and no other, so that the end of a leader wakes one of the others, not all. One session holds one
candidacy and at most one office. Any doubt about it ends the session, and a new one begins at the end of the line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from gestalt.clock import monotonic
from gestalt.zk.client import Stat, Watch, Zk
from gestalt.zk.paths import Paths

from .office import SHARE

log = logging.getLogger(__name__)

_LOOK_AGAIN = 1.0
"""Seconds after which somebody who waits for a leader looks whether ZooKeeper can still be reached."""

Seen = tuple[bytes, Stat] | None


class CandidacyLost(Exception):
    """Our own znode is gone: the session ended, or somebody removed it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a candidacy says of its coordinator. `address`: where others reach it; `format`: the newest of the store that it understands."""

    name: str
    address: str
    version: str
    format: int = 1

    def encode(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def decode(cls, value: bytes) -> Candidate:
        """Return what was written, maybe by another version of Gestalt; what is missing or not understood is empty."""
        try:
            fields = json.loads(value)
        except ValueError:
            fields = {}
        found = [fields.get(name) for name in ("name", "address", "version")] if isinstance(fields, dict) else []
        name, address, version = (item if isinstance(item, str) else "" for item in found or ("", "", ""))
        newest = fields.get("format") if isinstance(fields, dict) else None
        return cls(name, address, version, newest if isinstance(newest, int) else 1)


def before(names: Iterable[str], own: str) -> str:
    """Return the candidacy right before our own, by number; empty when ours is the first.

    Raises:
        CandidacyLost: our own is not among them.
    """
    line = sorted(names, key=_number)
    if own not in line:
        raise CandidacyLost("our candidacy is gone from ZooKeeper")
    place = line.index(own)
    return line[place - 1] if place else ""


def _number(name: str) -> tuple[int, str]:
    """Return what candidacies are sorted by; a stranger among them, which has no number, is the last."""
    digits = name.rpartition("-")[2]
    return (int(digits), name) if digits.isdecimal() else (2**63, name)


def session_in(value: bytes) -> float:
    """Return the length of the leader's session, in seconds, as its znode tells it; 0 when it does not."""
    try:
        return float(json.loads(value)["session"])
    except (ValueError, TypeError, KeyError):
        return 0.0


class Candidacy:
    """Our place in the line, in one session of ZooKeeper. It lasts as long as the session, or until it is withdrawn."""

    def __init__(self, zk: Zk, paths: Paths, candidate: Candidate) -> None:
        self._zk = zk
        self._paths = paths
        self._candidate = candidate
        self._watch: Watch | None = None
        self._gone = asyncio.Event()
        self.path = ""

    async def enter(self) -> None:
        """Take the last place in the line.

        Raises:
            ZkError: it is not known whether we have one: end the session.
        """
        await self._zk.ensure(self._paths.election)
        self.path = await self._zk.create(f"{self._paths.election}/c-", self._candidate.encode(), ephemeral=True, sequence=True)
        self._watch = self._zk.watch(self.path, self._seen)
        log.info("candidate for leadership: %s", self.path)

    def _seen(self, seen: Seen) -> None:
        if seen is None:
            self._gone.set()

    async def first(self) -> None:
        """Return when nobody is before us.

        Raises:
            CandidacyLost: our own is gone.
            ZkError: ZooKeeper cannot be asked now; asking again is right while the session lives.
        """
        while True:
            names = await self._zk.children(self._paths.election)
            rival = before(names, self.path.rpartition("/")[2])
            if not rival:
                return
            await self._end_of(f"{self._paths.election}/{rival}")

    async def _end_of(self, rival: str) -> None:
        ended = asyncio.Event()
        watch = self._zk.watch(rival, lambda seen: ended.set() if seen is None else None)
        waiting = [asyncio.ensure_future(event.wait()) for event in (ended, self._gone)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch.close()
            for each in waiting:
                each.cancel()
        if self._gone.is_set():
            raise CandidacyLost("our candidacy is gone from ZooKeeper")


class Roster:
    """Who stands for leadership, for the leader to show."""

    def __init__(self, zk: Zk, paths: Paths) -> None:
        self._zk = zk
        self._paths = paths
        self._known: dict[str, Candidate] = {}
        self._names: list[str] = []
        self._watches: dict[str, Watch] = {}
        self._line = zk.watch_children(paths.election, self._changed)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        return tuple(self._known[name] for name in self._names if name in self._known)

    def _changed(self, names: list[str]) -> None:
        self._names = sorted(names, key=_number)
        for name in self._watches.keys() - set(names):
            self._watches.pop(name).close()
            self._known.pop(name, None)
        for name in set(names) - self._watches.keys():
            self._watches[name] = self._zk.watch(f"{self._paths.election}/{name}", self._reader(name))

    def _reader(self, name: str) -> Callable[[Seen], None]:
        def read(seen: Seen) -> None:
            if seen is not None:
                self._known[name] = Candidate.decode(seen[0])

        return read

    def close(self) -> None:
        self._line.close()
        for watch in self._watches.values():
            watch.close()


class LeaderSight:
    """What a coordinator that does not lead knows of the leader. It lives as long as it renews, so its name does not outlast it.

    `patience`: seconds without a renewal after which nobody leads, as far as we know, unless the leader tells of its own session, which
    ZooKeeper may have granted another length; without ZooKeeper, after which we say so. `own`: our own address, which is never the answer
    while we stand by. `handicap`: why we may not lead ourselves, a sentence; empty when we may.
    """

    def __init__(self, patience: float) -> None:
        self.patience = self._patience_with_leader = patience
        self._address = ""
        self._heard = 0.0
        self._told = 0
        self._news = asyncio.Event()
        self._away_since: float | None = None
        self.own = ""
        self.handicap = ""

    def seen(self, seen: Seen) -> None:
        """Take note of the leader's znode."""
        address = Candidate.decode(seen[0]).address if seen is not None else ""
        self._patience_with_leader = session_in(seen[0] if seen is not None else b"") * SHARE or self.patience
        if address != self.own:
            self.tell(address)
        elif self._address != self.own:  # what `tell` said of us counts for more
            self.tell("")

    def tell(self, address: str) -> None:
        """Take note that the coordinator at `address` leads; empty: none does."""
        self._address, self._heard = address, monotonic()
        self._told += bool(address)
        news, self._news = self._news, asyncio.Event()
        news.set()

    def reach(self, *, connected: bool) -> None:
        """Take note of whether ZooKeeper can be reached."""
        if connected:
            self._away_since = None
        elif self._away_since is None:
            self._away_since = monotonic()

    @property
    def away(self) -> float:
        """For how many seconds ZooKeeper has not been reached; 0 when it is."""
        return monotonic() - self._away_since if self._away_since is not None else 0.0

    @property
    def trouble(self) -> str:
        """A sentence when ZooKeeper has been away for longer than a leader lasts; else empty."""
        return f"ZooKeeper has not been reached for {self.away:.0f} s" if self.away > self.patience else ""

    @property
    def address(self) -> str:
        """Where the leader is; empty when there is none that is known to live."""
        if self._address and monotonic() - self._heard > self._patience_with_leader:
            self.tell("")
        return self._address

    async def wait(self, limit: float, *, afresh: bool = False) -> str:
        """Return where the leader is, as soon as it is known; empty when it is not within `limit` seconds, or will not be told to us.

        Args:
            limit: seconds.
            afresh: only another leader counts than at first, or one that renews its office while we wait: who asks may have lost it just
                now. It has to do so twice, for the first time may be news from before. At the limit whoever is known counts.
        """
        before, end = (self.address, self._told + 2) if afresh else ("", 0), monotonic() + limit
        while not (found := self._unlike(*before)) and not self.trouble and (left := end - monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, _LOOK_AGAIN)):
                    await self._news.wait()
        return found or self.address

    def _unlike(self, before: str, told: int) -> str:
        """Return who leads, if it is another than before, or was told of so many times."""
        address = self.address
        return address if address != before or self._told >= told else ""
