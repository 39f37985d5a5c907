"""An office begins with much to read and to work out: others have their turns, nobody sees half of it, and leaving off leaves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from gestalt import clock
from gestalt.coordinator import beginning, slices, state
from gestalt.coordinator.decider import Decider
from gestalt.coordinator.dispatch import Dispatcher, Link
from gestalt.coordinator.events import EventRing
from gestalt.coordinator.ledger import Ledger, Retention
from gestalt.coordinator.nodes import Tracker
from gestalt.coordinator.records import Answer, App, Audit, Event, Node, Placed, Placements, Run, Version, instance_id
from gestalt.coordinator.routing import Routing, Shared
from gestalt.coordinator.state import Draft, Record, State, encode, version_key
from gestalt.coordinator.store.base import Document
from gestalt.proto.v1 import agent_pb2
from gestalt.spec.schema import AppSpec
from tests.unit.coordinator.crowd import Memory
from tests.unit.coordinator.world import AT

APPS, EACH = 30, 4
PATHS = [f"/org/ws/env/app-{number:02}" for number in range(APPS)]
NODES = ("n1", "n2")


@pytest.fixture(autouse=True)
def one_step_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted is turns, not time."""
    monkeypatch.setattr(slices, "SLICE", 0.0)
    monkeypatch.setattr(beginning, "SLICE", 0.0)


def records(path: str) -> dict[tuple[str, str], Record]:
    """Return an app with a service, and some instances on the first node."""
    port = {"name": "http", "container_port": 80, "http": {"path_prefix": path}}
    spec = AppSpec.model_validate({"path": path, "image": "x:1", "ports": [port], "labels": {"tier": "web"}})
    placed = tuple(Placed(serial, 1, NODES[0], (3000 + 100 * int(path[-2:]) + serial,)) for serial in range(1, EACH + 1))
    return {
        ("app", path): App(path, f"{int(path[-2:]):06x}", 1, 1, 1, 1, EACH, AT, next_serial=EACH + 1, held=(NODES[1],)),
        ("version", version_key(path, 1)): Version(path, 1, f"hash-{path}", spec, AT, "tester"),
        ("placements", path): Placements(path, placed),
    }


def documents() -> tuple[Document, ...]:
    """Return what a store holds: the newest answer and the newest run first."""
    found: dict[tuple[str, str], Record] = {("node", name): Node(name, name, address="10.0.0.1") for name in NODES}
    for path in PATHS:
        found |= records(path)
    for key, at in (("a", "2026-01-03"), ("b", "2026-01-02")):
        found["answer", key] = Answer(key, "", "", at)
        found["run", f"{PATHS[0]}@{key}"] = Run(PATHS[0], key, 1, "tester", at)
    events = tuple(Event(1, number, "test", "x", "something", AT) for number in range(3))
    found["audit", "00000001.000000000001"] = Audit("tester", "test", "", AT, events)
    return tuple(Document(kind, key, encode(record), 1) for (kind, key), record in found.items())


class Turns:
    """Counts the turns of the loop, and looks at the state in each."""

    def __init__(self, seen: State) -> None:
        self.count = 0
        self.sights: list[State] = []
        self._seen = seen

    async def run(self) -> None:
        while True:
            self.count += 1
            if not self.sights or self.sights[-1] != self._seen:
                self.sights.append(replace(self._seen, nodes=dict(self._seen.nodes), apps=dict(self._seen.apps)))
            await asyncio.sleep(0)


@pytest.fixture
async def ledger() -> Ledger:
    store = Memory()
    store.documents = {(each.kind, each.key): each for each in documents()}
    found = Ledger(store, EventRing(100), Retention(100, 100, 3600.0))
    await found.begin()
    return found


@pytest.fixture
async def turns(ledger: Ledger) -> AsyncIterator[Turns]:
    found = Turns(ledger.state)
    task = asyncio.create_task(found.run())
    await asyncio.sleep(0)
    yield found
    task.cancel()


def whole() -> State:
    made = State()
    made.load(documents())
    return made


async def test_others_have_a_turn_after_each_step_of_reading_and_see_nothing_of_it_or_all(ledger: Ledger, turns: Turns) -> None:
    nodes, apps = ledger.state.nodes, ledger.state.apps
    await ledger.read()
    assert turns.count >= len(documents()) + APPS
    await asyncio.sleep(0)
    assert [bool(sight.apps or sight.owners or sight.residents) for sight in turns.sights] == [False, True]
    assert turns.sights[-1] == ledger.state == whole()
    assert (nodes, apps) == (whole().nodes, whole().apps), "who was given a table before has it still"
    assert [event.sequence for event in ledger.events.after("0")[0]] == [0, 1, 2]


async def test_reading_that_is_cancelled_leaves_the_state_as_it_was_and_nothing_goes_on(
    ledger: Ledger, turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    monkeypatch.setattr(state, "decode", lambda document, decode=state.decode: (decoded.append(document.key), decode(document))[1])
    before = asyncio.all_tasks()
    reading = asyncio.create_task(ledger.read())
    await until(lambda: len(decoded) == APPS)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    at, count = turns.count, len(decoded)
    await until(lambda: turns.count > at + 20)
    assert reading.cancelled()
    assert count == len(decoded) < len(documents())
    assert asyncio.all_tasks() == before
    assert ledger.state == State()
    await ledger.read()
    assert ledger.state == whole(), "who begins afresh finds everything"


class Leading:
    """A dispatcher over all that is there, and what its agents hear."""

    def __init__(self) -> None:
        self.state = whole()
        self.dispatcher = Dispatcher(self.state, Tracker(lambda: 0.0, self.state.nodes), lambda: 1)

    def connect(self, node: str) -> Link:
        link = Link(node, "10.0.0.1", wants_peers=True)
        self.dispatcher.attach(link)
        return link

    def launch(self, path: str) -> None:
        draft = Draft(self.state)
        for (kind, key), record in records(path).items():
            draft.records[kind, key] = record
        self.state.apply(draft)
        self.dispatcher.committed(draft, {path})

    def routes(self) -> set[str]:
        return {f"{path}:http" for path in self.state.apps}


@pytest.fixture
def leading() -> Leading:
    return Leading()


@pytest.fixture
def routed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The apps whose routes were worked out."""
    found: list[str] = []
    monkeypatch.setattr(Routing, "refresh", lambda self, path, refresh=Routing.refresh: (found.append(path), refresh(self, path))[1])
    return found


async def until(condition: Callable[[], bool], *links: Link) -> None:
    """Wait turn by turn; agents hear nothing meanwhile."""
    async with asyncio.timeout(10):
        while not condition():
            assert all(link.outbox.empty() for link in links), "told before everything is known"
            await asyncio.sleep(0)


def paths_in(message: agent_pb2.CoordinatorMessage) -> set[str]:
    assert message.HasField("full")
    return {item.app for item in message.full.routes.values()}


async def test_an_agent_that_comes_while_routes_are_worked_out_is_told_all_of_them_at_once(leading: Leading, routed: list[str]) -> None:
    first = leading.connect("n1")
    assert leading.dispatcher.link("n1") is None
    await until(lambda: len(routed) == APPS // 2, first)
    second = leading.connect("n2")
    await until(lambda: len(routed) == APPS, first, second)
    for link in (first, second):
        message = await link.outbox.get()
        assert paths_in(message) == set(PATHS)
        assert message.full.peers.keys() == set(NODES)
        assert len(message.full.instances) == (APPS * EACH if link is first else 0)
        assert leading.dispatcher.link(link.node) is link
    third = leading.connect("n2")
    assert paths_in(third.outbox.get_nowait()) == set(PATHS), "once all is known nobody waits"


async def test_what_changes_meanwhile_is_told_too(leading: Leading, routed: list[str]) -> None:
    link = leading.connect("n1")
    await until(lambda: len(routed) == APPS // 2, link)
    newest = "/org/ws/env/app-99"
    leading.launch(newest)
    seen = paths_in(await link.outbox.get())
    assert seen >= set(PATHS)
    while newest not in seen:
        seen |= {item.app for item in (await link.outbox.get()).delta.put.routes.values()}


async def test_nothing_goes_on_when_nobody_waits_and_who_comes_then_is_told_everything(leading: Leading, routed: list[str]) -> None:
    link = leading.connect("n1")
    await until(lambda: len(routed) == 5, link)
    leading.dispatcher.detach(link)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(routed) == 5
    assert link.outbox.empty()
    again = leading.connect("n1")
    assert paths_in(await again.outbox.get()) == set(PATHS)
    assert len(routed) <= APPS + 5, "looked at again are those that the agent may bring something to"


async def test_a_session_that_was_replaced_while_it_waited_is_told_nothing(leading: Leading, routed: list[str]) -> None:
    old = leading.connect("n1")
    await until(lambda: len(routed) == 5, old)
    new = leading.connect("n1")
    leading.dispatcher.detach(old)
    assert paths_in(await new.outbox.get()) == set(PATHS)
    assert old.outbox.empty()
    assert leading.dispatcher.link("n1") is new


async def test_an_app_whose_routes_cannot_be_worked_out_keeps_no_other_from_being_told(
    leading: Leading, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(routing: Routing, path: str, refresh: Callable[[Routing, str], bool] = Routing._refresh) -> bool:
        if path == PATHS[3]:
            raise ValueError(path)
        return refresh(routing, path)

    with monkeypatch.context() as patched:
        patched.setattr(Routing, "_refresh", broken)
        link = leading.connect("n1")
        assert paths_in(await link.outbox.get()) == {*PATHS} - {PATHS[3]}
    leading.dispatcher.refresh_routes([PATHS[3]])
    assert {item.app for item in (await link.outbox.get()).delta.put.routes.values()} == {PATHS[3]}


async def test_an_agent_that_cannot_be_told_loses_its_session_and_the_others_do_not(leading: Leading) -> None:
    def broken(app: App, placed: Placed) -> None:
        raise ValueError(instance_id(app, placed.serial))

    leading.dispatcher.terms = broken  # type: ignore[assignment]
    bad, good = leading.connect("n1"), leading.connect("n2")
    assert paths_in(await good.outbox.get()) == set(PATHS)
    assert bad.closed.is_set()
    assert not good.closed.is_set()


async def test_what_an_agent_tells_while_the_first_look_is_taken_is_not_taken_back() -> None:
    path, store = "/org/ws/env/zz", Memory()
    stopped = App(path, "zzzzzz", 1, 1, 1, 1, 1, AT, next_serial=2, stopped=True)
    version = Version(path, 1, "hash", AppSpec.model_validate({"path": path, "image": "x:1"}), AT, "tester")
    found: dict[tuple[str, str], Record] = {("app", path): stopped, ("version", version_key(path, 1)): version}
    found["placements", path] = Placements(path, (Placed(1, 1, NODES[0], (), stop=True),))
    last = tuple(Document(kind, key, encode(record), 1) for (kind, key), record in found.items())
    store.documents = {(each.kind, each.key): each for each in (*documents(), *last)}
    ledger = Ledger(store, EventRing(100), Retention(100, 100, 3600.0))
    await ledger.take_office()
    tracker = Tracker(clock.monotonic, ledger.state.nodes)
    decider = Decider(ledger, tracker, Dispatcher(ledger.state, tracker, lambda: 1))
    view = tracker.node(NODES[0], NODES[0])
    running = asyncio.create_task(decider.run())
    await asyncio.sleep(0)
    tracker.connected(view)
    tracker.inventory(view, ledger.state.placed_on(NODES[0]), ())
    await until(lambda: not ledger.state.placed(path).instances)
    running.cancel()


async def test_an_app_whose_routes_cannot_be_told_leaves_nobody_waiting_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shared, "make", _cannot)
    tracker = Tracker(clock.monotonic, whole().nodes)
    dispatcher = Dispatcher(whole(), tracker, lambda: 1)
    dispatcher.attach(link := Link(NODES[1], "10.0.0.1"))
    async with asyncio.timeout(10):
        await link.closed.wait()


def _cannot(self: Shared) -> None:
    raise ValueError("not this one")
