"""What a store holds, as the file of an export, and back."""

from __future__ import annotations

from collections.abc import Iterator

from gestalt import __version__, clock
from gestalt.cluster.export_file import Export, Header, Item, write_pieces

from .store.base import Document, Snapshot


def export_pieces(snapshot: Snapshot) -> Iterator[bytes]:
    """Return the file of a state, in pieces."""
    header = Header(
        cluster_id=snapshot.cluster_id,
        history_id=snapshot.history_id,
        epoch=snapshot.epoch,
        commit=snapshot.commit,
        version=__version__,
        at=clock.wall().isoformat(timespec="seconds"),
        documents=len(snapshot.documents),
        store_format=snapshot.format,
    )
    return write_pieces(header, (Item(each.kind, each.key, each.value, each.revision) for each in snapshot.documents))


def documents_of(export: Export) -> tuple[Document, ...]:
    """Return the documents of a file."""
    return tuple(Document(item.kind, item.key, item.value, item.revision) for item in export.items)
