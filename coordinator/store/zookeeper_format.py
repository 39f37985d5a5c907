"""How documents lie in ZooKeeper: records, entries of the log, segments and the base. Pure functions over bytes.

Below `store`:

    head                 the number of the last commit, in decimal; each transaction of commits raises its version by one
    log/<number>         one commit: who wrote it, and its records, or the names of the segments that hold them
    segments/<name>      records, written once, counted only when an entry or the base names them
    base                 which segments hold everything up to which commit, in order; JSON

A record is one document as a commit left it: put or deleted. Replaying the segments of the base and then the log gives the documents.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .base import Change, Document, Put, StoreCorrupt

SEGMENT = 384 * 1024
"""Bytes that a segment has at most, unless a single record has more. An entry of the log with more records is written as segments."""

_RECORD = struct.Struct(">BHHIQ")
_ENTRY = struct.Struct(">BQ")
_DELETED, _PUT = 0, 1
_INLINE, _STAGED = 0, 1

Name = tuple[str, str]
Documents = dict[Name, Document]


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment that exists, and how many bytes it has."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Base:
    """What everything up to commit number `commit` lies in; the order counts."""

    commit: int
    segments: tuple[Segment, ...]

    @property
    def size(self) -> int:
        return sum(segment.size for segment in self.segments)


@dataclass(frozen=True, slots=True)
class Entry:
    """A commit in the log: its records, or the segments that hold them."""

    epoch: int
    records: bytes = b""
    segments: tuple[Segment, ...] = ()

    @property
    def size(self) -> int:
        return len(self.records) + sum(segment.size for segment in self.segments)


def record_of(change: Change, revision: int) -> bytes:
    """Return what a change leaves."""
    kind, key = change.kind.encode(), change.key.encode()
    value = change.value if isinstance(change, Put) else b""
    form = _PUT if isinstance(change, Put) else _DELETED
    return b"".join((_RECORD.pack(form, len(kind), len(key), len(value), revision), kind, key, value))


def record_size(document: Document) -> int:
    """Return at most the bytes of a document's record."""
    return _RECORD.size + 4 * (len(document.kind) + len(document.key)) + len(document.value)


def replay(records: bytes, documents: Documents) -> None:
    """Bring documents up to date with records, in order.

    Raises:
        StoreCorrupt: they are damaged.
    """
    place, end = 0, len(records)
    try:
        while place < end:
            form, kind_size, key_size, value_size, revision = _RECORD.unpack_from(records, place)
            kind_at = place + _RECORD.size
            key_at = kind_at + kind_size
            value_at = key_at + key_size
            place = value_at + value_size
            if form not in (_PUT, _DELETED) or place > end:
                raise StoreCorrupt("a record in ZooKeeper is cut off or of an unknown form")
            name = records[kind_at:key_at].decode(), records[key_at:value_at].decode()
            if form == _PUT:
                documents[name] = Document(*name, records[value_at:place], revision)
            else:
                documents.pop(name, None)
    except (struct.error, UnicodeDecodeError) as error:
        raise StoreCorrupt(f"a record in ZooKeeper is damaged: {error}") from error


def pack(records: Iterable[bytes]) -> Iterator[bytes]:
    """Join records, in order, to what makes a segment each."""
    waiting: list[bytes] = []
    size = 0
    for record in records:
        if waiting and size + len(record) > SEGMENT:
            yield b"".join(waiting)
            waiting, size = [], 0
        waiting.append(record)
        size += len(record)
    if waiting:
        yield b"".join(waiting)


def encode_entry(entry: Entry) -> bytes:
    if entry.segments:
        return _ENTRY.pack(_STAGED, entry.epoch) + json.dumps(_listed(entry.segments)).encode()
    return _ENTRY.pack(_INLINE, entry.epoch) + entry.records


def decode_entry(value: bytes) -> Entry:
    try:
        form, epoch = _ENTRY.unpack_from(value)
        rest = value[_ENTRY.size :]
        if form == _INLINE:
            return Entry(epoch, records=rest)
        return Entry(epoch, segments=_segments(json.loads(rest)))
    except (struct.error, ValueError, TypeError) as error:
        raise StoreCorrupt(f"an entry of the log in ZooKeeper is damaged: {error}") from error


def encode_base(base: Base) -> bytes:
    return json.dumps({"commit": base.commit, "segments": _listed(base.segments)}).encode()


def decode_base(value: bytes) -> Base:
    try:
        fields = json.loads(value)
        return Base(int(fields["commit"]), _segments(fields["segments"]))
    except (ValueError, TypeError, KeyError) as error:
        raise StoreCorrupt(f"the base of the store in ZooKeeper is damaged: {error}") from error


def decode_number(value: bytes, what: str) -> int:
    """Return the number in decimal that a znode holds."""
    try:
        return int(value)
    except ValueError as error:
        raise StoreCorrupt(f"{what} in ZooKeeper is not a number") from error


def _listed(segments: Sequence[Segment]) -> list[tuple[str, int]]:
    return [(segment.name, segment.size) for segment in segments]


def _segments(listed: Iterable[tuple[str, int]]) -> tuple[Segment, ...]:
    return tuple(Segment(str(name), int(size)) for name, size in listed)
