"""Durable state of the coordinator: `MetaStore` and its implementations."""

from __future__ import annotations

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
    WrongCluster,
    WrongFormat,
)

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
    "WrongCluster",
    "WrongFormat",
]
