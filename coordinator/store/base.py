"""Durable state: the one interface to it, the values that cross it, and how it refuses.

A store is a set of documents, each known by kind and key, plus a head: the number of the last commit, the epoch of
the present leadership and the ids that tell one history from another. The leader reads everything once, keeps it in
memory, and from then on only commits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gestalt.errors import GestaltError, Kind
from gestalt.units import show_size

DOCUMENT_LIMIT = 512 * 1024
"""Bytes that the value of one document may have."""

NAME_LIMIT = 1024
"""Bytes that a kind or a key may have, in UTF-8."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document. `revision` is the number of the commit that wrote it last, so it only grows, also over a delete."""

    kind: str
    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Put:
    """Write a document. `expected`: the revision it must have now; 0: it must not exist; None: whatever is there."""

    kind: str
    key: str
    value: bytes
    expected: int | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a document; removing an absent one is fine. `expected` as in `Put`."""

    kind: str
    key: str
    expected: int | None = None


Change = Put | Delete


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything, as it was after commit number `commit`. Documents are in the order of kind and key."""

    documents: tuple[Document, ...]
    commit: int
    epoch: int
    cluster_id: str
    history_id: str
    format: int


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit that is durable. `number` is also the revision of every document that it wrote."""

    number: int


@dataclass(frozen=True, slots=True)
class Restored:
    """A restore that is durable: the number and the epoch of the store from then on, and the id of the history that begins with it."""

    commit: int
    epoch: int
    history_id: str


class StoreError(GestaltError):
    """Something that the store refused or could not do. Unless a subclass says otherwise, nothing changed."""

    def __init__(self, message: str, *, kind: Kind = Kind.UNAVAILABLE, hint: str = "") -> None:
        super().__init__(kind, message, hint=hint)


class StaleEpoch(StoreError):
    """Another leadership holds the store. Retrying is useless: step down."""

    def __init__(self, given: int, current: int) -> None:
        super().__init__(f"epoch {given} does not hold the store, which is at epoch {current}", hint="ask the present leader")
        self.given = given
        self.current = current


class Conflict(StoreError):
    """A document is not at the expected revision. `found` is 0 if it does not exist. The whole commit is refused."""

    def __init__(self, document_kind: str, key: str, expected: int, found: int) -> None:
        message = f"{document_kind} {key!r} is at revision {found}, not {expected}"
        super().__init__(message, kind=Kind.CONFLICT, hint="read it again and repeat the change")
        self.document_kind = document_kind
        self.key = key
        self.expected = expected
        self.found = found


class Superseded(StoreError):
    """Somebody has written since the caller looked. Nothing changed."""

    def __init__(self, expected: int, found: int) -> None:
        found_out = f"is at commit {found} now, not {expected}" if found != expected else "has been taken over by a leader"
        super().__init__(f"the store {found_out}", kind=Kind.CONFLICT, hint="somebody else uses it: stop that first")
        self.expected = expected
        self.found = found


class TooLarge(StoreError):
    """A document is larger than any store takes. Checked before anything is written."""

    def __init__(self, document: str, size: int, limit: int = DOCUMENT_LIMIT) -> None:
        super().__init__(f"{document} has {show_size(size)}; at most {show_size(limit)} are stored", kind=Kind.INVALID)
        self.document = document
        self.size = size
        self.limit = limit


class StoreFull(StoreError):
    """No space left. Nothing changed; commits succeed again as soon as there is space, with no restart."""


class StoreLocked(StoreError):
    """Another process holds the store. `holder` says who, as far as it is known."""

    def __init__(self, message: str, holder: str) -> None:
        super().__init__(message, kind=Kind.REFUSED, hint="stop the other process first")
        self.holder = holder


class StoreCorrupt(StoreError):
    """What lies there is damaged, or is not a store. Never repaired in silence."""

    def __init__(self, message: str) -> None:
        super().__init__(message, kind=Kind.FAILED, hint="restore a backup; keep the damaged files for analysis")


class WrongFormat(StoreError):
    """The store was written by a version of Gestalt that this one does not understand."""


class WrongCluster(StoreError):
    """The store belongs to another cluster."""


class OutcomeUnknown(StoreError):
    """The commit with this number was begun, and whether it became durable is not known.

    The first answer of `last_commit` from then on settles it, and every other commit that was unknown at that time: those with
    `number <= last_commit()` took place, the others never will. Until then every write is refused as `Unsettled`.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message, hint="the outcome is read back before anything else is accepted")
        self.number = number


class Unsettled(StoreError):
    """An earlier outcome is unknown and nobody has called `last_commit` since. Nothing changed."""


class MetaStore(ABC):
    """Durable state. All methods are coroutines that never block the event loop; they may be called concurrently.

    Life: `open`, then `load` and `last_commit` at any time, `take_office` when elected, `commit` from then on, `close`.
    A store that is not open raises `StoreError`. Any method raises `StoreCorrupt` when it meets damage.
    """

    @abstractmethod
    async def open(self) -> None:
        """Take hold of the store; make an empty one of this cluster where there is none.

        Changes nothing in an existing store. A creation that was interrupted is completed. May be called again after it
        raised, or after `close`.

        Raises:
            StoreLocked: another process holds it.
            StoreCorrupt, WrongFormat, WrongCluster: it must not be used.
            StoreFull: there is no space to create it.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let go of the store, after all commits under way have ended. Idempotent. Needed for tidiness, not for durability."""

    @abstractmethod
    async def take_office(self) -> int:
        """Raise the epoch by one, durably, and return it. From this moment every commit with a lower epoch is refused.

        Raises:
            OutcomeUnknown: it may have been raised. After `last_commit` has answered, taking office once more is right.
            StoreFull, Unsettled: it was not raised.
        """

    @abstractmethod
    async def load(self) -> Snapshot:
        """Return everything, as of one single commit: every commit acknowledged before the call is in it."""

    @abstractmethod
    async def commit(self, changes: Sequence[Change], epoch: int) -> Committed:
        """Carry out all changes, or none. It returns after they are durable: they survive a kill -9 and a power cut.

        Every `expected` is compared with the state *before* this commit; then the changes are applied in order, so the
        last one to a document wins. Commits are numbered from 1 without gaps, in the order in which they were called; no
        changes at all make a commit too. The sum of all documents may exceed `DOCUMENT_LIMIT`.
        If the caller is cancelled, the commit may or may not take place; it is never half done.

        Raises:
            TooLarge: a document exceeds the limit.
            ValueError: a kind or key is empty, longer than `NAME_LIMIT`, or not valid Unicode.
            StaleEpoch: `epoch` is not the present one, or nobody ever took office.
            Conflict: a document is not at its expected revision.
            StoreFull: no space.
            Unsettled: an earlier outcome is unknown.
            OutcomeUnknown: it may have taken place. In all other cases nothing changed.
        """

    @abstractmethod
    async def last_commit(self) -> int:
        """Return the number of the last durable commit; 0 before the first. Settles an unknown outcome for good.

        Raises:
            OutcomeUnknown: it is still not known; ask again.
        """

    @abstractmethod
    async def raise_format(self, number: int, epoch: int) -> bool:
        """Have the store be of this format from now on, durably; return whether it was of a lower one before. Idempotent.

        Raises:
            StaleEpoch: `epoch` is not the present one. Nothing changed.
            StoreError: it may have taken place; the same call, repeated, settles it.
        """

    @abstractmethod
    async def restore(self, documents: Sequence[Document], *, commit: int, epoch: int, expected: int) -> Restored:
        """Replace all documents by these, durably, or change nothing at all: a crash anywhere leaves the old state or the new one.

        A new history begins. Its first number is one above `commit` and the present one, its epoch one above `epoch` and the present one:
        whoever is in office is deposed. Documents keep their revisions, and the store its cluster id.

        Args:
            documents: everything, each once.
            commit: the number of the commit that they were read at; no revision may be above it.
            epoch: the highest that anybody has seen, as far as the caller knows.
            expected: the number of the last commit that the caller has seen in this store.

        Raises:
            TooLarge: a document exceeds the limit.
            ValueError: a name is not valid, a document comes twice, or a revision is not from 1 to `commit`.
            Superseded: somebody has written since.
            StoreFull: no space.
            Unsettled: an earlier outcome is unknown.
            OutcomeUnknown: it may have taken place. In all other cases nothing changed.
        """


def check_documents(documents: Sequence[Document], commit: int) -> None:
    """Refuse what no store restores. Every implementation calls this before it does anything.

    Raises:
        TooLarge, ValueError: as `MetaStore.restore`.
    """
    check_changes(Put(each.kind, each.key, each.value) for each in documents)
    if len({(each.kind, each.key) for each in documents}) != len(documents):
        raise ValueError("a document comes twice")
    if any(not 0 < each.revision <= commit for each in documents):
        raise ValueError(f"a revision is not from 1 to {commit}")


def check_changes(changes: Iterable[Change]) -> None:
    """Refuse what no store takes. Every implementation calls this before it does anything.

    Raises:
        TooLarge: a value exceeds `DOCUMENT_LIMIT`.
        ValueError: a kind or key is empty, too long or not valid Unicode.
    """
    for change in changes:
        for name in (change.kind, change.key):
            if not 0 < len(name.encode()) <= NAME_LIMIT:
                raise ValueError(f"a kind or key must have 1 to {NAME_LIMIT} bytes, not {len(name.encode())}")
        if isinstance(change, Put) and len(change.value) > DOCUMENT_LIMIT:
            raise TooLarge(f"{change.kind} {change.key!r}", len(change.value))
