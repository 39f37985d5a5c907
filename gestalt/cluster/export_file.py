"""The file that holds the whole state of a cluster, as of one commit: what `gestaltctl cluster export` writes and `import` reads.

Lines of JSON: a header, then each document, then the number of documents and the SHA-256 of everything before that line. So a file that
was cut off or changed anywhere is found out before anything of it is used. A value is text where it can be, base64 where it cannot.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gestalt.errors import GestaltError, Kind

KIND = "gestalt-export"
VERSION = 1
"""Of the file. Files of a higher one are refused: they may hold what we would lose."""

PIECE = 64 * 1024
"""Bytes after which the writer hands out a piece."""

_DAMAGED_HINT = "take another copy of it, or an older export"


@dataclass(frozen=True, slots=True)
class Header:
    """What was exported. `epoch` and `commit` are of the moment, `version` is the Gestalt that wrote it, `at` RFC 3339.

    `store_format`: of the store, which says which fields its documents may have.
    """

    cluster_id: str
    history_id: str
    epoch: int
    commit: int
    version: str
    at: str
    documents: int
    store_format: int


@dataclass(frozen=True, slots=True)
class Item:
    """One document of the state."""

    kind: str
    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Export:
    """A whole file, in order and complete. `sha256`: hex, of everything before its last line."""

    header: Header
    items: tuple[Item, ...]
    sha256: str


def write_pieces(header: Header, items: Iterable[Item]) -> Iterator[bytes]:
    """Return the file in pieces."""
    digest, waiting, size = hashlib.sha256(), list[bytes](), 0
    lines = (_line(asdict(item) | _value(item.value)) for item in items)
    for line in (_line({"kind": KIND, "format": VERSION, **asdict(header)}), *lines):
        digest.update(line)
        waiting.append(line)
        size += len(line)
        if size >= PIECE:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join((*waiting, _line({"end": header.documents, "sha256": digest.hexdigest()})))


def read_export(path: Path) -> Export:
    """Return what a file holds, all of it checked.

    Raises:
        GestaltError: NOT_FOUND or REFUSED, when it cannot be read; INVALID, when it is no export, damaged, or of a newer version.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        kind = Kind.NOT_FOUND if isinstance(error, FileNotFoundError) else Kind.REFUSED
        raise GestaltError(kind, f"{path} cannot be read: {error.strerror}", hint="gestaltctl cluster export FILE makes one") from error
    return parse_export(content, str(path))


def parse_export(content: bytes, name: str) -> Export:
    """Return what a file holds; `name`: what to call it.

    Raises:
        GestaltError: INVALID, as `read_export`.
    """
    if not content.startswith(b"{"):
        raise _bad(f"{name} is no export of a cluster", "gestaltctl cluster export FILE makes one")
    header = _header(_parsed(content.partition(b"\n")[0], name, 1), name)
    body, _, last = content.removesuffix(b"\n").rpartition(b"\n")
    digest = hashlib.sha256(body + b"\n").hexdigest()
    try:
        end = json.loads(last)
        told, count = end["sha256"], end["end"]
    except (ValueError, TypeError, KeyError):
        raise _bad(f"{name} is cut off: its last line is missing") from None
    if not content.endswith(b"\n") or told != digest:
        raise _bad(f"{name} was changed or damaged: its checksum is {digest[:12]}…, not {str(told)[:12]}…")
    lines = body.split(b"\n")[1:]
    items = tuple(_item(_parsed(line, name, number), name, number) for number, line in enumerate(lines, 2))
    if not len(items) == count == header.documents:
        raise _bad(f"{name} has {len(items)} documents, not {header.documents}")
    return Export(header, items, digest)


def _value(value: bytes) -> dict[str, str]:
    try:
        return {"value": value.decode()}
    except UnicodeDecodeError:
        return {"value": base64.b64encode(value).decode(), "encoding": "base64"}


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _parsed(line: bytes, name: str, number: int) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise _bad(f"{name} is damaged in line {number}")
    return fields


def _header(fields: dict[str, Any], name: str) -> Header:
    if fields.pop("kind", "") != KIND:
        raise _bad(f"{name} is no export of a cluster", "gestaltctl cluster export FILE makes one")
    if (found := fields.pop("format", None)) != VERSION:
        raise _bad(f"{name} has format {found}; this version of Gestalt reads format {VERSION}", "use the version that wrote it")
    try:
        header = Header(**fields)
    except TypeError:
        raise _bad(f"the header of {name} is damaged") from None
    if not all(isinstance(value, type(getattr(_SAMPLE, field))) for field, value in asdict(header).items()):
        raise _bad(f"the header of {name} is damaged")
    return header


_SAMPLE = Header("", "", 0, 0, "", "", 0, 0)


def _item(fields: dict[str, Any], name: str, number: int) -> Item:
    try:
        text = fields["value"]
        value = base64.b64decode(text, validate=True) if fields.get("encoding") == "base64" else text.encode()
        return Item(str(fields["kind"]), str(fields["key"]), value, int(fields["revision"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _bad(f"{name} is damaged in line {number}") from None


def _bad(message: str, hint: str = _DAMAGED_HINT) -> GestaltError:
    return GestaltError(Kind.INVALID, message, hint=hint)
