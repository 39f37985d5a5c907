"""Commits that go to ZooKeeper together: one transaction writes them all, or none. No I/O.

A transaction costs the leader, the servers and the disk much the same whether it has one commit or fifty. So commits that are called in one
turn of the event loop share one, and while as many transactions are under way as may be, the next one gathers what is called meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from gestalt.zk.client import Check, Create, Op, Set

from .base import Change, Committed, StoreError
from .zookeeper_format import SEGMENT, Entry, encode_entry
from .zookeeper_znodes import Layout

TRANSACTIONS = 4
"""How many groups are under way at a time."""

_ENTRIES = 128


@dataclass(slots=True)
class Call:
    """A commit that stands in line. `sent`: what tells its outcome, once it is sent."""

    changes: Sequence[Change]
    epoch: int
    sent: Awaitable[Committed] | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a group was not carried out, as far as is known: what to raise for the commit with a number, and what was behind it."""

    error: Callable[[int], StoreError]
    cause: BaseException


@dataclass(slots=True)
class Group:
    """The entries of the log that one transaction of an office writes, by number, in order. `is_sent`: it takes no more."""

    fence: Check
    epoch: int
    entries: dict[int, Entry] = field(default_factory=dict)
    size: int = 0
    is_sent: asyncio.Event = field(default_factory=asyncio.Event)

    def has_room(self, entry: Entry) -> bool:
        """Return whether the transaction stays within what ZooKeeper takes if this one is added."""
        return len(self.entries) < _ENTRIES and self.size + len(entry.records) <= SEGMENT

    def add(self, number: int, entry: Entry) -> None:
        """Have the next commit with the others."""
        self.entries[number] = entry
        self.size += len(entry.records)

    def ops(self, layout: Layout, head_version: int) -> list[Op]:
        """Return the transaction, which finds the head at this version and raises it by one."""
        return [
            self.fence,
            *(Create(layout.entry(number), encode_entry(entry)) for number, entry in self.entries.items()),
            Set(layout.head, str(max(self.entries)).encode(), head_version),
        ]
