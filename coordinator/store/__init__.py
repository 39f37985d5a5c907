"""Durable state of the coordinator: `MetaStore` and its implementations."""

from __future__ import annotations

from gestalt.config import CoordinatorSettings
from gestalt.zk.client import Zk
from gestalt.zk.paths import Paths

from .base import (
    DOCUMENT_LIMIT,
    Change,
    Committed,
    Conflict,
    Delete,
    Document,
    MetaStore,
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
    TooLarge,
    Unsettled,
    WrongCluster,
    WrongFormat,
)
from .sqlite import SqliteStore
from .zookeeper import ZookeeperStore
from .zookeeper_candidacy import Candidacy, NotElected

__all__ = [
    "DOCUMENT_LIMIT",
    "Candidacy",
    "Change",
    "Committed",
    "Conflict",
    "Delete",
    "Document",
    "MetaStore",
    "NotElected",
    "OutcomeUnknown",
    "Put",
    "Restored",
    "Snapshot",
    "StaleEpoch",
    "StoreCorrupt",
    "StoreError",
    "StoreFull",
    "StoreLocked",
    "Superseded",
    "TooLarge",
    "Unsettled",
    "WrongCluster",
    "WrongFormat",
    "ZookeeperStore",
    "store_for",
]


def store_for(settings: CoordinatorSettings) -> MetaStore:
    """Return the store that the settings choose, not opened yet. In ZooKeeper it has a session of its own, and no candidacy."""
    zookeeper = settings.zookeeper
    if settings.store.kind == "sqlite" or zookeeper is None:
        return SqliteStore(settings.store.path, settings.cluster_id)
    session = settings.timing.session
    return ZookeeperStore(lambda: Zk.connect(zookeeper, session=session, name="store"), Paths(zookeeper.root), settings.cluster_id)
