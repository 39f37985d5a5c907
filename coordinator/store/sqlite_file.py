"""The blocking half of the SQLite store: one database file, one connection, used from one thread.

What makes a commit durable: WAL with `synchronous=FULL`, so each commit ends with an fsync of the log. The connection holds
SQLite's own lock for life (`locking_mode=EXCLUSIVE`), which also keeps the index of the log in memory: there is no shared-memory
file that could fail to grow after a commit is on the disk. The log is never removed while the file is open.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from gestalt.files import sync_folder

from .base import (
    Change,
    Committed,
    Conflict,
    Document,
    OutcomeUnknown,
    Put,
    Restored,
    Snapshot,
    StaleEpoch,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreLocked,
    Superseded,
    Unsettled,
    WrongCluster,
)
from .formats import check_format, newest
from .lock import LockFile

APPLICATION_ID = 0x47737430
_LOG_PAGES = 1000  # checkpoint after 4 MB of log: a commit now and then pays a few milliseconds, and recovery stays short

_SCHEMA = """
CREATE TABLE head (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    cluster_id TEXT NOT NULL,
    history_id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    number INTEGER NOT NULL,
    barrier INTEGER NOT NULL
) STRICT;
CREATE TABLE document (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    revision INTEGER NOT NULL,
    value BLOB NOT NULL,
    UNIQUE (kind, key)
) STRICT;
"""
_PUT = """
INSERT INTO document (kind, key, revision, value) VALUES (?, ?, ?, ?)
ON CONFLICT (kind, key) DO UPDATE SET revision = excluded.revision, value = excluded.value
"""

Request = tuple[Sequence[Change], int]
"""The changes of one commit and the epoch under which it is made."""

T = TypeVar("T")


class SqliteFile:
    """One store on disk. Not thread-safe: every method is called from the same thread."""

    def __init__(self, path: Path, cluster_id: str, *, synchronous: str = "FULL") -> None:
        self._path = path
        self._cluster_id = cluster_id
        self._synchronous = synchronous
        self._lock = LockFile(path.with_name(f"{path.name}.lock"))
        self._connection: sqlite3.Connection | None = None
        self._unsettled = False

    def open(self) -> None:
        """As `MetaStore.open`."""
        if self._connection is not None:
            raise StoreError(f"{self._path} is open already")
        try:
            self._prepare_files()
            self._connect()
        except BaseException as error:  # whatever it is, the lock is let go
            self.close()
            if isinstance(error, sqlite3.Error | OSError):
                raise _translated(error, self._path) from error
            raise

    def close(self) -> None:
        """As `MetaStore.close`."""
        connection, self._connection = self._connection, None
        try:
            if connection is not None:
                connection.close()
        finally:
            self._lock.release()

    def take_office(self) -> int:
        """As `MetaStore.take_office`."""

        def raise_epoch(connection: sqlite3.Connection) -> int:
            row = connection.execute("UPDATE head SET epoch = epoch + 1 RETURNING epoch").fetchone()
            return int(row[0])

        return self._transaction(raise_epoch)

    def raise_format(self, number: int, epoch: int) -> bool:
        """As `MetaStore.raise_format`."""

        def work(connection: sqlite3.Connection) -> bool:
            (current,) = connection.execute("SELECT epoch FROM head").fetchone()
            if current != epoch:
                raise StaleEpoch(epoch, current)
            is_lower = _format_of(connection) < number
            if is_lower:
                connection.execute(f"PRAGMA user_version = {int(number)}")
            return is_lower

        return self._transaction(work)

    def load(self) -> Snapshot:
        """As `MetaStore.load`."""
        try:
            # One thread, one connection, the file locked: nothing can commit between these two reads.
            rows = self._db.execute("SELECT kind, key, value, revision FROM document ORDER BY kind, key")
            documents = tuple(Document(*row) for row in rows)
            number, epoch, cluster_id, history_id = self._db.execute("SELECT number, epoch, cluster_id, history_id FROM head").fetchone()
            return Snapshot(documents, number, epoch, cluster_id, history_id, _format_of(self._db))
        except sqlite3.Error as error:
            raise _translated(error, self._path) from error

    def commit_all(self, requests: Sequence[Request]) -> list[Committed | StoreError]:
        """Carry out several commits with one fsync; each is accepted or refused by itself, in order.

        What happens to the file as a whole (no space, an I/O error) is tried again one by one, so that a large commit does not
        refuse its small neighbours.
        """
        outcomes: list[Committed | StoreError] = []
        try:
            self._transaction(lambda connection: outcomes.extend(_apply_all(connection, requests)))
        except OutcomeUnknown as error:
            return [OutcomeUnknown(error.message, done.number) if isinstance(done, Committed) else done for done in outcomes]
        except StoreError as error:
            if len(requests) == 1:
                return [error]
            return [self.commit_all([request])[0] for request in requests]
        return outcomes

    def last_commit(self) -> int:
        """As `MetaStore.last_commit`.

        After an unknown outcome it first commits a change that means nothing. That goes to the place in the log where the
        doubtful commit lies, so that no recovery can ever find it: it is settled as not having taken place.
        """
        if self._unsettled:
            self._settle()
        try:
            return self._number(self._db)
        except sqlite3.Error as error:
            raise _translated(error, self._path) from error

    def restore(self, documents: Sequence[Document], *, commit: int, epoch: int, expected: int) -> Restored:
        """As `MetaStore.restore`, in one transaction."""

        def replace(connection: sqlite3.Connection) -> Restored:
            number, current = connection.execute("SELECT number, epoch FROM head").fetchone()
            if number != expected:
                raise Superseded(expected, number)
            restored = Restored(max(commit, number) + 1, max(epoch, current) + 1, uuid.uuid4().hex)
            connection.execute("DELETE FROM document")
            connection.executemany(_PUT, ((each.kind, each.key, each.revision, each.value) for each in documents))
            connection.execute(
                "UPDATE head SET number = ?, epoch = ?, history_id = ?", (restored.commit, restored.epoch, restored.history_id)
            )
            return restored

        return self._transaction(replace)

    def _settle(self) -> None:
        self._unsettled = False
        try:
            self._transaction(lambda connection: connection.execute("UPDATE head SET barrier = barrier + 1"))
        except StoreError as error:
            self._unsettled = True
            raise OutcomeUnknown(f"still unknown: {error.message}", 0) from error

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(f"{self._path} is not open")
        return self._connection

    def _prepare_files(self) -> None:
        folder = self._path.parent
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True)
            sync_folder(folder.parent)
        self._lock.acquire()
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)  # SQLite gives its log the same mode
        finally:
            os.close(descriptor)
        sync_folder(folder)

    def _connect(self) -> None:
        self._connection = connection = sqlite3.connect(self._path, timeout=0.5, isolation_level=None)
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        self._check_identity(connection)
        if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise StoreError(f"{self._path} cannot be put into WAL mode")
        problems = [row[0] for row in connection.execute("PRAGMA quick_check")]
        if problems != ["ok"]:
            raise StoreCorrupt(f"{self._path} is damaged: {problems[0]}")
        self._unsettled = False
        if not self._is_made(connection):
            self._transaction(self._make)
            sync_folder(self._path.parent)
        (cluster_id,) = connection.execute("SELECT cluster_id FROM head").fetchone()
        if cluster_id != self._cluster_id:
            raise WrongCluster(f"{self._path} belongs to cluster {cluster_id}, not {self._cluster_id}")

    def _check_identity(self, connection: sqlite3.Connection) -> None:
        if not self._is_made(connection):
            return
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise StoreCorrupt(f"{self._path} is a database, but not a store of Gestalt")
        check_format(_format_of(connection), str(self._path))

    @staticmethod
    def _is_made(connection: sqlite3.Connection) -> bool:
        return bool(connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0])

    def _make(self, connection: sqlite3.Connection) -> None:
        for statement in _SCHEMA.split(";"):
            connection.execute(statement)
        connection.execute("INSERT INTO head VALUES (1, ?, ?, 0, 0, 0)", (self._cluster_id, uuid.uuid4().hex))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {newest()}")

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do the work in one transaction. What it raises undoes all of it; only the COMMIT itself can leave a doubt."""
        if self._unsettled:
            raise Unsettled("the outcome of an earlier commit is not known yet")
        connection = self._db
        try:
            connection.execute("BEGIN IMMEDIATE")
            result = work(connection)
        except BaseException as error:  # whatever the work raises, nothing of it stays
            _roll_back(connection)
            if isinstance(error, sqlite3.Error):
                raise _translated(error, self._path) from error
            raise
        self._end(connection)
        return result

    def _end(self, connection: sqlite3.Connection) -> None:
        number = self._number(connection)  # while it can still be read
        try:
            connection.execute("COMMIT")
        except (sqlite3.Error, MemoryError) as error:
            _roll_back(connection)
            if isinstance(error, sqlite3.Error) and _code(error) == sqlite3.SQLITE_FULL:
                # The frame that ends a commit is written last, so none of it counts.
                raise _translated(error, self._path) from error
            self._unsettled = True
            raise OutcomeUnknown(f"{self._path}: {error}", number) from error

    @staticmethod
    def _number(connection: sqlite3.Connection) -> int:
        return int(connection.execute("SELECT number FROM head").fetchone()[0])


def _format_of(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _apply_all(connection: sqlite3.Connection, requests: Sequence[Request]) -> list[Committed | StoreError]:
    first, current = connection.execute("SELECT number, epoch FROM head").fetchone()
    number = first
    outcomes: list[Committed | StoreError] = []
    for changes, epoch in requests:
        try:
            _check(connection, changes, epoch, current)
        except StoreError as refusal:
            outcomes.append(refusal)
            continue
        number += 1
        _apply(connection, changes, number)
        outcomes.append(Committed(number))
    if number != first:
        connection.execute("UPDATE head SET number = ?", (number,))
    return outcomes


def _check(connection: sqlite3.Connection, changes: Sequence[Change], epoch: int, current: int) -> None:
    """Refuse before the first write, so that a refusal has nothing to undo."""
    if epoch != current or current == 0:
        raise StaleEpoch(epoch, current)
    for change in changes:
        if change.expected is None:
            continue
        row = connection.execute("SELECT revision FROM document WHERE kind = ? AND key = ?", (change.kind, change.key)).fetchone()
        found = row[0] if row else 0
        if found != change.expected:
            raise Conflict(change.kind, change.key, change.expected, found)


def _apply(connection: sqlite3.Connection, changes: Sequence[Change], number: int) -> None:
    for change in changes:
        if isinstance(change, Put):
            connection.execute(_PUT, (change.kind, change.key, number, change.value))
        else:
            connection.execute("DELETE FROM document WHERE kind = ? AND key = ?", (change.kind, change.key))


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:  # SQLite ends it by itself after some errors
        connection.execute("ROLLBACK")


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary error code."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _translated(error: sqlite3.Error | OSError, path: Path) -> StoreError:
    if isinstance(error, OSError):
        return StoreFull(f"{path}: no space left") if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError(f"{path}: {error}")
    match _code(error):
        case sqlite3.SQLITE_FULL:
            return StoreFull(f"{path}: no space left")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return StoreCorrupt(f"{path} is damaged: {error}")
        case sqlite3.SQLITE_BUSY:
            return StoreLocked(f"{path} is held by another program", "")
        case _:
            return StoreError(f"{path}: {error}")
