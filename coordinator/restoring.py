"""What becomes of an exported state when it is put into a store: pure functions over documents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import ValidationError

from gestalt.cluster.export_file import Header
from gestalt.cluster.init import Founder
from gestalt.errors import GestaltError, Kind

from .records import App, Coordinator, Grant, Node, Switches, Token
from .state import KINDS, SWITCHES, Record, decode, encode
from .store.base import Document, Snapshot

STRIDE = 1000
"""How far numbers are raised that must never be used twice: epochs, serials of instances and generations of grants that were given
between the export and the loss are above those in the file, and nobody knows by how many."""

_NAMED = 3
_CLUSTER_ONLY = (Coordinator, Token, Grant)


@dataclass(frozen=True, slots=True)
class Target:
    """What the state is put into. `founder`: the node of this machine, as `gestaltctl cluster init` left it, if it did here."""

    mode: Literal["appliance", "cluster"]
    founder: Founder | None = None


def fitted(documents: Sequence[Document], header: Header, target: Target) -> tuple[Document, ...]:
    """Return the documents as they are to be restored; those that had to change have the revision after that of the export.

    Raises:
        GestaltError: INVALID, when a document is none that we understand; REFUSED, when the target cannot hold the state.
    """
    records = [(document, _record(document)) for document in documents]
    nodes = [record for _, record in records if isinstance(record, Node)]
    if target.mode == "appliance" and len(nodes) > 1:
        raise GestaltError(
            Kind.REFUSED,
            f"the file has {len(nodes)} nodes, an appliance has exactly one",
            hint="drain and remove the other nodes, then export again",
        )
    source = f"the export of {header.at}"
    kept = [_fitted(document, record, header.commit + 1, target) for document, record in records if document.kind != "switches"]
    switches = next((record for _, record in records if isinstance(record, Switches)), Switches())
    held = encode(replace(switches, recovering=source, doubted=()))
    return (*(document for document in kept if document is not None), Document("switches", SWITCHES, held, header.commit + 1))


def _record(document: Document) -> Record:
    if document.kind not in KINDS:
        raise GestaltError(Kind.INVALID, f"the file holds a {document.kind!r}, of which this version knows nothing", hint="upgrade Gestalt")
    try:
        return decode(document)
    except ValueError as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        problem = f"{document.kind} {document.key!r} in the file is not valid: {said}"
        raise GestaltError(Kind.INVALID, problem, hint="was it written by a newer version of Gestalt?") from error


def _fitted(document: Document, record: Record, revision: int, target: Target) -> Document | None:
    if target.mode == "appliance" and isinstance(record, _CLUSTER_ONLY):
        return None
    after = _raised(record, target)
    return document if after == record else Document(document.kind, document.key, encode(after), revision)


def _raised(record: Record, target: Target) -> Record:
    match record:
        case App():
            return replace(record, next_serial=record.next_serial + STRIDE)
        case Grant():
            return replace(record, generation=record.generation + STRIDE, revoked=True)
        case Node() if target.mode == "appliance":
            return replace(record, incarnation=0, lost=0, confirmed=0)
        case Node() if target.founder is not None and record.id == target.founder.id and not record.address:
            founder = target.founder
            return replace(record, name=founder.name, address=founder.address, roles=founder.roles, labels=founder.labels)
    return record


@dataclass(frozen=True, slots=True)
class Loss:
    """What the store has and the file has not. `apps`, `nodes`: by name; `changed`: documents that differ; `commits`: after the file's."""

    same_history: bool
    commits: int
    apps: tuple[str, ...]
    nodes: tuple[str, ...]
    changed: int

    def __bool__(self) -> bool:
        return not self.same_history or self.commits > 0

    def sentence(self) -> str:
        """Say what would be lost."""
        first = f"{self.commits} commits after those of the file" if self.same_history else "a state of another history"
        parts = [f"the store holds {first}", *_listed("app", self.apps), *_listed("node", self.nodes)]
        if self.changed:
            parts.append(f"{self.changed} documents would be changed or removed")
        return "; ".join(parts)


def loss(present: Snapshot, header: Header, documents: Iterable[Document]) -> Loss:
    """Return what a store would lose if the file were put into it."""
    there = {(each.kind, each.key): each for each in present.documents}
    coming = {(each.kind, each.key): each.value for each in documents}
    gone = {name: each for name, each in there.items() if name not in coming}
    empty = not present.documents and not present.commit
    same = empty or present.history_id == header.history_id
    return Loss(
        same,
        max(present.commit - header.commit, 0) if same else present.commit,
        tuple(sorted(key for kind, key in gone if kind == "app")),
        tuple(sorted(_node_name(each) for (kind, _), each in gone.items() if kind == "node")),
        sum(coming.get(name) != each.value for name, each in there.items()),
    )


def _node_name(document: Document) -> str:
    try:
        record = decode(document)
    except ValidationError:
        return document.key
    return record.name if isinstance(record, Node) else document.key


def _listed(what: str, names: tuple[str, ...]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return [f"{len(names)} {what}{'s' if len(names) > 1 else ''} would be gone: {', '.join(names[:_NAMED])}{more}"]
