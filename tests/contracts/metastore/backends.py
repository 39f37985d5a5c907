"""The implementations of `MetaStore` that the contract suite runs against. A new one is one more entry here."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from gestalt.config import ZooKeeperSettings
from gestalt.coordinator.store import MetaStore
from gestalt.coordinator.store.sqlite import SqliteStore
from gestalt.coordinator.store.zookeeper import ZookeeperStore
from gestalt.zk.client import Zk
from gestalt.zk.paths import Paths

ZOOKEEPER = "GESTALT_TEST_ZOOKEEPER"
"""The environment variable that says where the tests' ZooKeeper is; processes that a test starts inherit it."""

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


def zookeeper(folder: Path, cluster_id: str) -> MetaStore:
    """Return a store below a root of the folder's own."""
    root = f"/test-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"
    settings = ZooKeeperSettings(hosts=(os.environ[ZOOKEEPER],), root=root)
    return ZookeeperStore(lambda: Zk.connect(settings, session=10, name="test"), Paths(root), cluster_id)


ON_DISK: dict[str, Make] = {"sqlite": sqlite}
"""Those whose files lie on a disk of this machine, so that its power can be cut."""

BACKENDS: dict[str, Make] = {**ON_DISK, "zookeeper": zookeeper}
LIARS: dict[str, Make] = {"sqlite-without-sync": sqlite_without_sync, "sqlite-with-late-sync": sqlite_with_late_sync}
