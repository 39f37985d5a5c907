"""The file of an export: what goes in comes out, and nothing that was cut off or changed gets in."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from gestalt.cluster.export_file import PIECE, Header, Item, parse_export, read_export, write_pieces
from gestalt.errors import GestaltError, Kind

ITEMS = (
    Item("app", "/shop/a", b'{"path": "/shop/a"}', 3),
    Item("app", "/日本 \n\x00/\u2028", b"\xff\x00raw", 7),
    Item("task", "t", b"", 1),
)
HEADER = Header("c1", "h1", 4, 9, "0.2.0", "2026-01-01T00:00:00+00:00", len(ITEMS), 1)


def test_what_is_written_is_read() -> None:
    export = parse_export(b"".join(write_pieces(HEADER, ITEMS)), "f")
    assert (export.header, export.items) == (HEADER, ITEMS)


def test_large_states_come_in_pieces() -> None:
    items = [Item("app", str(number), b"x" * 2000, 1) for number in range(200)]
    header = Header("c", "h", 1, 1, "v", "t", len(items), 1)
    pieces = list(write_pieces(header, items))
    assert len(pieces) > 5
    assert max(map(len, pieces)) < 2 * PIECE
    assert parse_export(b"".join(pieces), "f").items == tuple(items)


def test_every_truncation_is_noticed() -> None:
    content = b"".join(write_pieces(HEADER, ITEMS))
    for length in range(len(content)):
        with pytest.raises(GestaltError) as refusal:
            parse_export(content[:length], "the file")
        assert refusal.value.kind is Kind.INVALID
        assert "the file" in refusal.value.message


def test_every_changed_byte_is_noticed() -> None:
    content, seeded = b"".join(write_pieces(HEADER, ITEMS)), random.Random(1)
    for place in range(len(content)):
        changed = content[:place] + bytes([content[place] ^ (1 << seeded.randrange(8))]) + content[place + 1 :]
        with pytest.raises(GestaltError) as refusal:
            parse_export(changed, "f")
        assert refusal.value.kind is Kind.INVALID


@pytest.mark.parametrize(("content", "words"), [
    (b"", "no export"),
    (b"path: /shop/a\n", "no export"),
    (b'{"kind": "something"}\n', "no export"),
    (b'{"kind": "gestalt-export", "format": 2, "new": 1}\n', "format 2"),
    (b'{"kind": "gestalt-export", "format": 1}\n', "header"),
])  # fmt: skip
def test_other_files_are_told_apart(content: bytes, words: str) -> None:
    with pytest.raises(GestaltError, match=words):
        parse_export(content, "f")


def test_a_valid_checksum_does_not_make_wrong_documents_right() -> None:
    lines = b"".join(write_pieces(HEADER, ITEMS)).splitlines(keepends=True)
    for body in (lines[:2], [lines[0], b"[]\n", *lines[2:-1]], [lines[0], b'{"kind":"app"}\n', *lines[2:-1]]):
        digest = hashlib.sha256(b"".join(body)).hexdigest()
        with pytest.raises(GestaltError):
            parse_export(b"".join(body) + b'{"end":3,"sha256":"%s"}\n' % digest.encode(), "f")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(GestaltError) as refusal:
        read_export(tmp_path / "none")
    assert refusal.value.kind is Kind.NOT_FOUND
