"""The whole desired state in memory, and drafts: changes that become true only when they are durable."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import to_json

from gestalt.errors import GestaltError, Kind
from gestalt.spec.part import STORED
from gestalt.spec.schema import AppSpec

from .labelled import Labelled
from .notices import Notices
from .packing import from_columns, to_columns
from .pieces import Roster, piece_key
from .records import (
    Answer,
    App,
    Audit,
    Coordinator,
    Event,
    Grant,
    Node,
    Placed,
    Placements,
    Run,
    Switches,
    Task,
    Token,
    Unpacked,
    Version,
    fixed_ports,
    instance_id,
)
from .reservations import Reservations
from .store.base import Delete, Document, Put
from .store.formats import later_fields

Record = App | Version | Placements | Task | Node | Answer | Audit | Token | Coordinator | Switches | Grant | Run

KINDS: dict[str, type[Any]] = {
    "app": App,
    "version": Version,
    "placements": Placements,
    "task": Task,
    "node": Node,
    "answer": Answer,
    "audit": Audit,
    "token": Token,
    "coordinator": Coordinator,
    "switches": Switches,
    "grant": Grant,
    "run": Run,
}


@dataclass(frozen=True, slots=True)
class Moves:
    """What a commit does to instances: which go, which come, which are changed. One that ended goes and comes, under the same id."""

    gone: list[tuple[App, Placed]]
    come: list[tuple[App, Placed]]
    changed: list[tuple[App, Placed]]


_NAMES = {kind: name for name, kind in KINDS.items()}
_TABLES = {"placements": "placements", "switches": "switches_by_key"}
SWITCHES = "cluster"
"""The key of the one document of switches."""


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(Unpacked if name == "placements" else KINDS[name])


def encode(record: Record, format_number: int | None = None) -> bytes:
    """Return a record as JSON, without what a store of an older format must not hold. None: the newest format."""
    if isinstance(record, Placements):
        return _packed(record.app, record.instances)
    kind: Any = type(record)
    later = later_fields(kind, format_number) if format_number is not None else frozenset[str]()
    return _adapter(_NAMES[kind]).dump_json(record, exclude=set(later) or None)


def _packed(path: str, instances: Sequence[Placed]) -> bytes:
    return to_json({"app": path, "count": len(instances), "columns": to_columns(instances)})


def decode(document: Document) -> Record:
    """Return the record of a stored document.

    Raises:
        ValueError: it is none.
    """
    if document.kind == "placements" and (packed := json.loads(document.value)).keys() == {"app", "count", "columns"}:
        return Placements(packed["app"], from_columns(Placed, packed["columns"], packed["count"]))
    record: Record | Unpacked = _adapter(document.kind).validate_json(document.value, context=STORED)
    return Placements(record.app, record.instances) if isinstance(record, Unpacked) else record


@lru_cache(maxsize=16_384)
def version_key(path: str, number: int) -> str:
    return f"{path}@{number:08d}"


def run_key(path: str, run: str) -> str:
    return f"{path}@{run}"


def audit_key(epoch: int, sequence: int) -> str:
    return f"{epoch:08d}.{sequence:012d}"


@dataclass(slots=True)
class State:
    """All records by kind and key. Only `apply` changes it, and only after the store has committed."""

    apps: dict[str, App] = field(default_factory=dict)
    versions: dict[str, Version] = field(default_factory=dict)
    placements: dict[str, Placements] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    audits: dict[str, Audit] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)
    coordinators: dict[str, Coordinator] = field(default_factory=dict)
    grants: dict[str, Grant] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    switches_by_key: dict[str, Switches] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    """App path by instance id, derived from the placements."""
    residents: dict[str, dict[str, Placed]] = field(default_factory=dict)
    """What is placed on each node, by instance id, also derived."""
    reservations: Reservations = field(default_factory=Reservations)
    """What that asks for, also derived."""
    apart: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The apps that share no node with some others, which are named; also derived."""
    labelled: Labelled = field(default_factory=Labelled)
    """The labels of all apps, by their wanted versions; also derived."""
    touched: Notices = field(default_factory=Notices, compare=False)
    """The nodes whose records changed."""
    whole: set[str] = field(default_factory=set, compare=False)
    """The apps whose placements the store has in one document still, as it had all before there were pieces."""
    runs_by_app: dict[str, dict[str, Run]] = field(default_factory=dict)
    """The runs of each job by id, oldest first, also derived."""

    def table(self, kind: str) -> dict[str, Any]:
        """Return the table of a document kind."""
        table: dict[str, Any] = getattr(self, _TABLES.get(kind, kind + "s"))
        return table

    @property
    def switches(self) -> Switches:
        return self.switches_by_key.get(SWITCHES) or Switches()

    def load(self, documents: tuple[Document, ...]) -> None:
        """Take over everything that the store holds, in order of the keys."""
        for _ in self.loading(documents):
            pass

    def loading(self, documents: tuple[Document, ...]) -> Iterator[None]:
        """The same in steps, each of a document or of what is derived from an app. The state is as before until the last one.

        Who takes them may do something else between two, or leave it at that.
        """
        read = State()
        for kind in KINDS.keys() - {"placements"}:
            read.table(kind).update(self.table(kind))
        for document in sorted(documents, key=lambda item: (item.kind, item.key)):
            _read(read, document.key, decode(document))
            yield
        yield from _derive(read)
        for kind in KINDS:
            (mine := self.table(kind)).clear()  # others hold on to it
            mine.update(read.table(kind))
        self.owners, self.residents, self.reservations, self.runs_by_app = read.owners, read.residents, read.reservations, read.runs_by_app
        self.apart, self.labelled, self.whole = read.apart, read.labelled, read.whole
        self.touched.update(self.nodes)

    def _note_apart(self, paths: Iterable[str]) -> None:
        for path in paths:
            self.apart.pop(path, None)
            app = self.apps.get(path)
            version = self.versions.get(version_key(path, app.version)) if app is not None else None
            if version is not None and version.spec.placement.apart_from:
                self.apart[path] = version.spec.placement.apart_from
            self.labelled.put(path, version.spec.labels if version is not None else {})

    def _settle(self, app: App, placed: Placed) -> None:
        """Have an instance in what is derived."""
        instance = instance_id(app, placed.serial)
        self.owners[instance] = app.path
        self.residents.setdefault(placed.node, {})[instance] = placed
        if not placed.ended:
            self.reservations.add(placed.node, self.version(app.path, placed.version).spec, placed.ports)

    def _unsettle(self, app: App, placed: Placed) -> None:
        instance = instance_id(app, placed.serial)
        del self.owners[instance]
        here = self.residents[placed.node]
        del here[instance]
        if not here:
            del self.residents[placed.node]
        if not placed.ended:
            self.reservations.remove(placed.node, self.version(app.path, placed.version).spec, placed.ports)

    def apply(self, draft: Draft) -> None:
        """Make a committed draft true, and note in it what it does to instances."""
        unreserve(draft)
        paths = {key for kind, key in draft.records if kind in ("app", "placements")}
        draft.moves = [self._moves(draft, path) for path in paths]
        draft.gives_room = any(moves.gone for moves in draft.moves) or any(
            _gives_way(self.apps.get(path), draft.app(path)) for path in paths
        )
        self._keep_room(paths, self.reservations.remove)
        for moves in draft.moves:
            for app, placed in moves.gone:
                self._unsettle(app, placed)
            for app, placed in moves.changed:
                self.residents[placed.node][instance_id(app, placed.serial)] = placed
        for (kind, key), record in draft.records.items():
            _take_in(self, kind, key, record)
        self._keep_room(paths, self.reservations.add)
        self._note_apart(paths)
        for moves in draft.moves:
            for app, placed in moves.come:
                self._settle(app, placed)

    def _keep_room(self, paths: Iterable[str], note: Callable[[str, AppSpec, tuple[int, ...]], None]) -> None:
        """Reserve the room that is kept for what has stopped, or give it free: whatever `note` does."""
        for path in paths:
            if (app := self.apps.get(path)) is not None and app.kept_room:
                spec = self.version(path, app.version).spec
                for node in app.kept_room:
                    note(node, spec, fixed_ports(spec))

    def _index(self, key: str, record: Record | None) -> None:
        """Keep a run among those of its app."""
        path, _, identity = key.rpartition("@")
        if isinstance(record, Run):
            self.runs_by_app.setdefault(path, {})[identity] = record
        elif (there := self.runs_by_app.get(path)) is not None:
            there.pop(identity, None)
            if not there:
                del self.runs_by_app[path]

    def _moves(self, draft: Draft, path: str) -> Moves:
        """Return what a draft does to the instances of an app. Where one is, it is for ever."""
        before, after = self.apps.get(path), draft.app(path)
        there, then = self.placed(path).instances if before else Roster(), draft.placed(path).instances if after else Roster()
        is_same = before is not None and after is not None and before.uid == after.uid
        gone, come = there.differing(then) if is_same else (there, then)  # most stay as they are
        old = {(before.uid, placed.serial, placed.ended): (before, placed) for placed in gone} if before else {}
        new = {(after.uid, placed.serial, placed.ended): (after, placed) for placed in come} if after else {}
        return Moves(
            [item for key, item in old.items() if key not in new],
            [item for key, item in new.items() if key not in old],
            [new[key] for key in old if key in new],
        )

    def version(self, path: str, number: int) -> Version:
        return self.versions[version_key(path, number)]

    def versions_of(self, path: str) -> list[Version]:
        """Return the versions of an app, oldest first."""
        last = self.apps[path].last_version
        keys = (version_key(path, number) for number in range(1, last + 1))
        return [self.versions[key] for key in keys if key in self.versions]

    def app(self, path: str) -> App:
        """Return an app.

        Raises:
            GestaltError: there is none of this path.
        """
        app = self.apps.get(path)
        if app is None:
            raise GestaltError(Kind.NOT_FOUND, f"there is no app {path}", hint="`gestaltctl ps` lists what there is")
        return app

    def placed(self, path: str) -> Placements:
        return self.placements.get(path) or Placements(path)

    def runs_of(self, path: str) -> tuple[Run, ...]:
        """Return the runs of a job, oldest first."""
        return tuple(self.runs_by_app.get(path, {}).values())

    def placed_on(self, node: str) -> Mapping[str, Placed]:
        """Return what is placed on a node, by instance id."""
        return self.residents.get(node, {})

    def apps_on(self, node: str) -> set[str]:
        """Return the paths of the apps that have instances on a node."""
        return {self.owners[instance] for instance in self.placed_on(node)}

    def nodes_of(self, paths: Iterable[str]) -> set[str]:
        """Return the nodes that have instances of these apps."""
        return {placed.node for path in paths for placed in self.placed(path).instances}

    def below(self, prefix: str) -> Iterator[App]:
        """Yield the app of this path, or all apps below it, sorted by path."""
        stem = prefix.rstrip("/")
        for path in sorted(self.apps):
            if path == stem or path.startswith(stem + "/"):
                yield self.apps[path]


def _read(state: State, key: str, record: Record) -> None:
    """Have in a state what a document says; of placements it is a part, and the parts come in their order."""
    if isinstance(record, Placements):
        state.placements[record.app] = Placements(record.app, state.placed(record.app).instances + record.instances)
        if key == record.app:
            state.whole.add(key)
    else:
        state.table(_NAMES[type(record)])[key] = record


def _take_in(state: State, kind: str, key: str, record: Record | None) -> None:
    """Have in a state what a commit says of a document."""
    if record is None:
        state.table(kind).pop(key, None)
    else:
        state.table(kind)[key] = record
    match kind:
        case "node":
            state.touched.add(key)
        case "placements":
            state.whole.discard(key)
        case "run":
            state._index(key, record)


def _derive(state: State) -> Iterator[None]:
    """Work out, for the first time, all that is derived from the records: an app at each step."""
    state.answers = dict(sorted(state.answers.items(), key=lambda item: item[1].at))  # the oldest are trimmed first
    for run in sorted(state.runs.values(), key=lambda item: item.created_at):
        state.runs_by_app.setdefault(run.app, {})[run.id] = run
    for path, app in state.apps.items():
        for placed in state.placed(path).instances:
            state._settle(app, placed)
        state._keep_room((path,), state.reservations.add)
        state._note_apart((path,))
        yield


def _gives_way(before: App | None, after: App | None) -> bool:
    """Tell whether an app may stand in the way of less than before: its instances apart."""
    if before is None or after is None:
        return before is not None
    return (before.version, before.kept_room, before.paused) != (after.version, after.kept_room, after.paused)


@dataclass(slots=True)
class Draft:
    """Changes on top of a state: reads see them at once, nobody else does until they are committed and applied.

    `moves`: once it is applied, what it did to instances, app by app. `gives_room`: and whether
    anything may now be where it could not be before. `reserved`: what `reserve` has reserved for it.
    """

    base: State
    records: dict[tuple[str, str], Record | None] = field(default_factory=dict)
    events: list[Callable[[int, int, str], Event]] = field(default_factory=list)
    moves: list[Moves] = field(default_factory=list)
    gives_room: bool = False
    reserved: list[tuple[str, AppSpec, tuple[int, ...]]] = field(default_factory=list)

    def _get(self, kind: str, key: str) -> Any:
        if (kind, key) in self.records:
            return self.records[kind, key]
        return self.base.table(kind).get(key)

    def app(self, path: str) -> App | None:
        found: App | None = self._get("app", path)
        return found

    def apps(self) -> Iterator[App]:
        """Yield all apps as they will be."""
        changed = {key: record for (kind, key), record in self.records.items() if kind == "app"}
        yield from (app for path, app in self.base.apps.items() if path not in changed)
        yield from (record for record in changed.values() if isinstance(record, App))

    def version(self, path: str, number: int) -> Version | None:
        found: Version | None = self._get("version", version_key(path, number))
        return found

    def placed(self, path: str) -> Placements:
        return self._get("placements", path) or Placements(path)

    def task(self, task: str) -> Task | None:
        found: Task | None = self._get("task", task)
        return found

    def put_app(self, app: App) -> App:
        """Put the app with its revision raised, once a draft."""
        before = self.base.apps.get(app.path)
        raised = replace(app, revision=(before.revision if before else 0) + 1)
        if before is None or replace(before, revision=0) != replace(app, revision=0):
            self.records["app", app.path] = raised
        return raised

    def put_version(self, version: Version) -> None:
        self.records["version", version_key(version.app, version.number)] = version

    def put_placements(self, placements: Placements) -> None:
        self.records["placements", placements.app] = placements

    def put_task(self, task: Task) -> None:
        self.records["task", task.id] = task

    def put_node(self, node: Node) -> None:
        self.records["node", node.id] = node

    def node(self, node: str) -> Node | None:
        found: Node | None = self._get("node", node)
        return found

    def coordinator(self, name: str) -> Coordinator | None:
        found: Coordinator | None = self._get("coordinator", name)
        return found

    def grant(self, name: str) -> Grant | None:
        found: Grant | None = self._get("grant", name)
        return found

    def put(self, record: Token | Coordinator | Switches | Answer | Grant | Run) -> None:
        """Put a record that is known by fields of its own."""
        match record:
            case Token(id=key) | Answer(request=key) | Coordinator(name=key) | Grant(name=key):
                self.records[_NAMES[type(record)], key] = record
            case Switches():
                self.records["switches", SWITCHES] = record
            case Run():
                self.records["run", run_key(record.app, record.id)] = record

    def put_audit(self, key: str, audit: Audit) -> None:
        self.records["audit", key] = audit

    def delete(self, kind: str, key: str) -> None:
        if key in self.base.table(kind):
            self.records[kind, key] = None
        else:
            self.records.pop((kind, key), None)

    def tell(self, kind: str, subject: str, message: str, app: str = "") -> None:
        """Have an event written with this commit."""
        self.events.append(lambda epoch, sequence, at: Event(epoch, sequence, kind, subject, message, at, app))

    def changes(self, format_number: int | None = None) -> list[Put | Delete]:
        """Return what a store of this format has to do; None: of the newest."""
        changes = list[Put | Delete]()
        for (kind, key), record in self.records.items():
            if kind == "placements":
                after, is_whole = record.instances if isinstance(record, Placements) else Roster(), key in self.base.whole
                changes += [Delete(kind, key)] if is_whole else []
                changes += _pieces(key, Roster() if is_whole else self.base.placed(key).instances, after)
            else:
                changes.append(Delete(kind, key) if record is None else Put(kind, key, encode(record, format_number)))
        return changes

    def __bool__(self) -> bool:
        return bool(self.records)


def _pieces(path: str, before: Roster, after: Roster) -> Iterator[Put | Delete]:
    """Yield what a store has to do for the placements of an app."""
    for number, piece in before.changed(after).items():
        key = piece_key(path, number)
        yield Put("placements", key, _packed(path, piece)) if piece else Delete("placements", key)


def reserve(draft: Draft, path: str) -> None:
    """Reserve now what a draft places anew for an app: who is decided about next in the same draft finds it taken."""
    if (app := draft.base.apps.get(path)) is None or ("placements", path) not in draft.records:
        return
    for item in draft.placed(path).instances.since(app.next_serial):
        version = draft.version(path, item.version)
        assert version is not None, "an instance is of a version that there is"
        draft.reserved.append((item.node, version.spec, item.ports))
        draft.base.reservations.add(*draft.reserved[-1])


def unreserve(draft: Draft) -> None:
    """Take back what `reserve` did: the draft is applied now, or given up. Idempotent."""
    while draft.reserved:
        draft.base.reservations.remove(*draft.reserved.pop())


def runs_in(draft: Draft, path: str) -> tuple[Run, ...]:
    """Return the runs of a job as they will be, oldest first."""
    changed = {key: record for (kind, key), record in draft.records.items() if kind == "run" and key.rpartition("@")[0] == path}
    found = {run_key(path, run.id): run for run in draft.base.runs_of(path)}
    return tuple(record for record in {**found, **changed}.values() if isinstance(record, Run))
