"""What a store in ZooKeeper holds, as its writer has it in memory. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from .base import Change, Conflict, Document, Put
from .zookeeper_format import Base, Documents, Entry, Segment, record_of, record_size

FOLD_ENTRIES = 500
FOLD_BYTES = 1024 * 1024
"""The log is folded into the base beyond so many entries or bytes: this bounds what a new leader reads one by one."""

MAX_SEGMENTS = 1000
"""The base is written afresh beyond so many segments, which keeps the znode that names them small."""


@dataclass(slots=True)
class Contents:
    """Everything, as of commit `number`. `head_version` and `base_version`: of the znodes that the next write must find unchanged.

    Commits are applied when they are called, before they are answered: if one is not carried out, this is to be thrown away.
    """

    number: int
    head_version: int
    base: Base
    base_version: int
    documents: Documents = field(default_factory=dict)
    tail: list[Entry] = field(default_factory=list)
    live: int = 0
    tail_size: int = 0

    def find_conflict(self, changes: Sequence[Change]) -> Conflict | None:
        """Compare expectations with the state before the commit."""
        for change in changes:
            if change.expected is not None:
                there = self.documents.get((change.kind, change.key))
                found = there.revision if there else 0
                if found != change.expected:
                    return Conflict(change.kind, change.key, change.expected, found)
        return None

    def records(self, changes: Sequence[Change]) -> list[bytes]:
        """Return what the next commit would write."""
        return [record_of(change, self.number + 1) for change in changes]

    def advance(self, changes: Sequence[Change], entry: Entry) -> int:
        """Apply the next commit and return its number."""
        self.number += 1
        for change in changes:
            name = (change.kind, change.key)
            gone = self.documents.pop(name, None)
            self.live -= record_size(gone) if gone else 0
            if isinstance(change, Put):
                self.documents[name] = made = Document(*name, change.value, self.number)
                self.live += record_size(made)
        self.append(entry)
        return self.number

    def sent(self) -> int:
        """Note that a transaction of commits is sent, and return the version of the head that it has to find."""
        self.head_version += 1
        return self.head_version - 1

    def append(self, entry: Entry) -> None:
        """Note that the log has one entry more."""
        self.tail.append(entry)
        self.tail_size += entry.size

    def measure(self) -> None:
        """Count what the documents would take if they were written afresh."""
        self.live = sum(map(record_size, self.documents.values()))

    @property
    def is_fold_due(self) -> bool:
        return len(self.tail) >= FOLD_ENTRIES or self.tail_size >= FOLD_BYTES

    def plan_fold(self) -> Fold:
        """Return how to get the log into the base: by adding what it says, or afresh when over half of it all would be outdated."""
        outdated = self.base.size + self.tail_size - self.live
        if outdated > self.live + FOLD_BYTES or len(self.base.segments) > MAX_SEGMENTS:
            return Fold(self.number, self.base, tuple(self.tail), tuple(self.documents.values()))
        return Fold(self.number, self.base, tuple(self.tail), None)

    def folded(self, base: Base, entries: int) -> None:
        """Note that the first entries of the log are in the base now."""
        self.base = base
        self.base_version += 1
        self.tail_size -= sum(entry.size for entry in self.tail[:entries])
        del self.tail[:entries]


@dataclass(frozen=True, slots=True)
class Fold:
    """One fold of the log into the base, as of commit `commit`. `afresh`: all documents then; None: the entries are added to the base."""

    commit: int
    base: Base
    entries: tuple[Entry, ...]
    afresh: tuple[Document, ...] | None

    @property
    def kept(self) -> tuple[Segment, ...]:
        """The segments of the base that stay."""
        return self.base.segments if self.afresh is None else ()

    @property
    def old(self) -> tuple[Segment, ...]:
        """The segments that counted before."""
        return (*self.base.segments, *(segment for entry in self.entries for segment in entry.segments))

    def pieces(self) -> Iterator[Segment | bytes]:
        """Return what comes after the kept segments, in order: a segment that exists, or records."""
        if self.afresh is not None:
            yield from (record_of(Put(each.kind, each.key, each.value), each.revision) for each in self.afresh)
            return
        for entry in self.entries:
            if entry.segments:
                yield from entry.segments
            elif entry.records:
                yield entry.records
