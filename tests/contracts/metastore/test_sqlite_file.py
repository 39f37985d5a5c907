"""What only the SQLite store promises: its file, its lock, and what it refuses to open."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest

from gestalt.coordinator.store import MetaStore, Put, StoreCorrupt, StoreError, StoreLocked, WrongFormat
from gestalt.coordinator.store.sqlite import SqliteStore

from .backends import CLUSTER
from .child import Writer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "coordinator" / "state.db"


async def made(path: Path, documents: int = 1) -> MetaStore:
    """Return a closed store that holds something."""
    store = SqliteStore(path, CLUSTER)
    await store.open()
    epoch = await store.take_office()
    await store.commit([Put("k", str(n), os.urandom(3000)) for n in range(documents)], epoch)
    await store.close()
    return store


async def test_nobody_else_may_read_the_files(path: Path) -> None:
    umask = os.umask(0)
    try:
        store = SqliteStore(path, CLUSTER)
        await store.open()
        await store.take_office()
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        assert modes == {"state.db": 0o600, "state.db-wal": 0o600, "state.db.lock": 0o600}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        await store.close()
    finally:
        os.umask(umask)


async def test_file_that_was_made_readable_is_closed_again(path: Path) -> None:
    store = await made(path)
    path.chmod(0o644)
    await store.open()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await store.close()


async def test_second_handle_is_refused_and_told_who_holds_it(path: Path) -> None:
    first, second = SqliteStore(path, CLUSTER), SqliteStore(path, CLUSTER)
    await first.open()
    with pytest.raises(StoreLocked, match=rf"state\.db is held by process {os.getpid()}$") as refusal:
        await second.open()
    assert refusal.value.holder == str(os.getpid())
    await first.close()
    await second.open()
    await second.close()


async def test_other_process_is_refused_until_the_holder_dies(tmp_path: Path) -> None:
    writer = await Writer.start("sqlite", tmp_path, 0)
    try:
        await writer.hear(1)
        store = SqliteStore(tmp_path / "state.db", CLUSTER)
        with pytest.raises(StoreLocked) as refusal:
            await store.open()
        assert refusal.value.holder == str(writer.pid)
    finally:
        await writer.kill()
    await store.open()
    await store.close()


async def test_other_program_is_kept_out(path: Path) -> None:
    store = await made(path)
    await store.open()
    with sqlite3.connect(path, timeout=0) as outsider, pytest.raises(sqlite3.OperationalError, match="locked"):
        outsider.execute("SELECT * FROM document")
    outsider.close()
    await store.close()
    with sqlite3.connect(path) as outsider:
        outsider.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreLocked, match="another program"):
            await store.open()
    outsider.close()


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to look like something\n" * 20, os.urandom(8192)])
async def test_file_that_is_no_database_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt):
        await SqliteStore(path, CLUSTER).open()
    assert path.read_bytes() == content


async def test_database_of_someone_else_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE head (cluster_id)")
    other.close()
    content = path.read_bytes()
    with pytest.raises(StoreCorrupt, match="not a store of Gestalt"):
        await SqliteStore(path, CLUSTER).open()
    assert path.read_bytes() == content


async def test_format_of_a_later_version_is_refused_and_left_alone(path: Path) -> None:
    store = await made(path)
    with sqlite3.connect(path) as later:
        later.execute("PRAGMA user_version = 99")
    later.close()
    content = path.read_bytes()
    with pytest.raises(WrongFormat, match="format 99"):
        await store.open()
    assert path.read_bytes() == content


async def test_damaged_page_is_found_at_open(path: Path) -> None:
    store = await made(path, documents=200)
    pages = path.stat().st_size // 4096
    with path.open("r+b") as file:
        for page in range(2, pages, 5):
            file.seek(page * 4096)
            file.write(os.urandom(512))
    with pytest.raises(StoreCorrupt, match="damaged"):
        await store.open()


async def test_truncated_file_is_found_at_open(path: Path) -> None:
    store = await made(path, documents=200)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(StoreCorrupt, match="damaged"):
        await store.open()


async def test_refused_open_lets_go_of_the_lock(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"rubbish" * 1000)
    for _ in range(2):
        with pytest.raises(StoreCorrupt):
            await SqliteStore(path, CLUSTER).open()
    path.unlink()
    await (await made(path)).open()


async def test_creation_that_was_interrupted_is_completed(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    await made(path)


async def test_path_that_is_a_folder_is_told(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(StoreError, match=r"state\.db"):
        await SqliteStore(path, CLUSTER).open()
