"""The implementations of `MetaStore` that the contract suite runs against. A new one is one more entry here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gestalt.coordinator.store import MetaStore
from gestalt.coordinator.store.sqlite import SqliteStore

CLUSTER = "11111111-2222-3333-4444-555555555555"

Make = Callable[[Path, str], MetaStore]
"""Makes a handle, not opened, on the store of a folder (for a store on servers: a name to derive its root from) and a cluster id."""


def sqlite(folder: Path, cluster_id: str) -> MetaStore:
    return SqliteStore(folder / "state.db", cluster_id)


def sqlite_without_sync(folder: Path, cluster_id: str) -> MetaStore:
    """Return a store that lies about durability: shows that the power-cut test can fail."""
    return SqliteStore(folder / "state.db", cluster_id, _synchronous="OFF")


def sqlite_with_late_sync(folder: Path, cluster_id: str) -> MetaStore:
    """Return a store that syncs only when it moves the log into the database: a subtler lie."""
    return SqliteStore(folder / "state.db", cluster_id, _synchronous="NORMAL")


BACKENDS: dict[str, Make] = {"sqlite": sqlite}
LIARS: dict[str, Make] = {"sqlite-without-sync": sqlite_without_sync, "sqlite-with-late-sync": sqlite_with_late_sync}
