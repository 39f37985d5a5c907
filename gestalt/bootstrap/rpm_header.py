"""What a package says of itself in its header, read without rpm: a workstation need not have it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

_LEAD = 96
_LEAD_MAGIC = b"\xed\xab\xee\xdb"
_MAGIC = b"\x8e\xad\xe8\x01"
_ENTRY = struct.Struct(">IIII")
_NAME, _VERSION, _RELEASE, _ARCHITECTURE, _REQUIRES = 1000, 1001, 1002, 1022, 1049
_MOST = 64 * 1024**2
"""Bytes; of ours, headers have some hundred thousand."""


@dataclass(frozen=True, slots=True)
class RpmHeader:
    """The part of it that we look at. `requires`: names without versions."""

    name: str
    version: str
    release: str
    architecture: str
    requires: tuple[str, ...]


def read_header(file: BinaryIO) -> RpmHeader:
    """Return the header of a package that a file begins with.

    Raises:
        ValueError: it is none, or not whole.
    """
    if not file.read(_LEAD).startswith(_LEAD_MAGIC):
        raise ValueError("it does not begin as one")
    signature = _section(file)
    file.read(-len(signature.store) % 8)
    header = _section(file)
    single = [header.strings(tag)[:1] for tag in (_NAME, _VERSION, _RELEASE, _ARCHITECTURE)]
    if not all(single):
        raise ValueError("its header has no name, version or architecture")
    name, version, release, architecture = (found[0] for found in single)
    return RpmHeader(name, version, release, architecture, header.strings(_REQUIRES))


@dataclass(frozen=True, slots=True)
class _Section:
    """Entries by tag: offset and count of the strings in the store."""

    entries: dict[int, tuple[int, int]]
    store: bytes

    def strings(self, tag: int) -> tuple[str, ...]:
        offset, count = self.entries.get(tag, (0, 0))
        return tuple(part.decode(errors="replace") for part in self.store[offset:].split(b"\0", count)[:count])


def _section(file: BinaryIO) -> _Section:
    start = file.read(16)
    if len(start) != 16 or not start.startswith(_MAGIC):
        raise ValueError("its header is damaged")
    count, size = struct.unpack(">II", start[8:])
    if count * _ENTRY.size + size > _MOST:
        raise ValueError("its header is too large")
    index, store = file.read(count * _ENTRY.size), file.read(size)
    if len(index) != count * _ENTRY.size or len(store) != size:
        raise ValueError("it is not whole")
    return _Section({tag: (offset, number) for tag, _, offset, number in _ENTRY.iter_unpack(index)}, store)
