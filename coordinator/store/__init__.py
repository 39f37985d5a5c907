"""Durable state of the coordinator: `MetaStore` and its implementations."""

from __future__ import annotations

from gestalt.config import CoordinatorSettings

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
    Snapshot,
    StaleEpoch,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreLocked,
    TooLarge,
    Unsettled,
    WrongCluster,
    WrongFormat,
)
from .sqlite import SqliteStore

__all__ = [
    "DOCUMENT_LIMIT",
    "Change",
    "Committed",
    "Conflict",
    "Delete",
    "Document",
    "MetaStore",
    "OutcomeUnknown",
    "Put",
    "Snapshot",
    "StaleEpoch",
    "StoreCorrupt",
    "StoreError",
    "StoreFull",
    "StoreLocked",
    "TooLarge",
    "Unsettled",
    "WrongCluster",
    "WrongFormat",
    "store_for",
]


def store_for(settings: CoordinatorSettings) -> MetaStore:
    """Return the store that the settings choose, not opened yet."""
    return SqliteStore(settings.store.path, settings.cluster_id)
