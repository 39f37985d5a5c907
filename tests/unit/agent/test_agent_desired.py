"""The desired state: durable before it counts, refused when it cannot be right, bad items sorted out one by one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gestalt.agent.desired import DesiredStore, SessionDoubt
from gestalt.agent.disk import Disk
from gestalt.agent.intake import take_in
from gestalt.errors import GestaltError
from gestalt.model import DesiredInstance, HttpService, NodeState, PortBinding, Route, Server, TcpService
from gestalt.proto.v1 import agent_pb2
from gestalt.spec.schema import AppSpec
from gestalt.spec.template import template_hash
from gestalt.wire import to_wire

SPEC = AppSpec(path="/unit/test/agent/web", image="web:1")
HASH = template_hash(SPEC)
ONE, TWO = (DesiredInstance(f"web-0000aa-{serial}", SPEC.path, 1, HASH, (PortBinding("web", 80, 3000 + serial),)) for serial in (1, 2))
ROUTE = Route(
    f"{SPEC.path}:web", SPEC.path, "web", HttpService(("shop.example.org",), "/"), TcpService(8080), (Server(ONE.id, "127.0.0.1", 3001),)
)
PEER = "0f0c1a52-6a30-4a51-9a52-4d8e1f0a7b11"


def state(*instances: DesiredInstance, epoch: int = 1, revision: int = 1) -> agent_pb2.NodeState:
    value = NodeState(epoch, revision, {HASH: SPEC}, {item.id: item for item in instances}, {ROUTE.key: ROUTE})
    return to_wire(value, agent_pb2.NodeState)


def delta(base: int, revision: int, *instances: DesiredInstance, drop: tuple[str, ...] = (), epoch: int = 1) -> agent_pb2.NodeDelta:
    put = to_wire(NodeState(0, 0, {}, {item.id: item for item in instances}), agent_pb2.NodeState)
    return agent_pb2.NodeDelta(epoch=epoch, base=base, revision=revision, put=put, drop_instances=drop)


class FullDisk(Disk):
    """Refuses every write, from when it is full."""

    full = False

    async def write(self, path: Path, data: bytes) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        await super().write(path, data)


@pytest.fixture
async def disk() -> AsyncIterator[FullDisk]:
    disk = FullDisk()
    yield disk
    await disk.close()


@pytest.fixture
async def store(tmp_path: Path, disk: FullDisk) -> DesiredStore:
    store = DesiredStore(tmp_path, disk)
    store.load()
    await store.welcome(1)
    return store


async def test_is_there_again_after_a_restart_but_not_complete(store: DesiredStore, tmp_path: Path, disk: FullDisk) -> None:
    await store.full(state(ONE))
    told = await store.delta(delta(1, 2, TWO))
    assert told.complete
    again = DesiredStore(tmp_path, disk)
    left = again.load()
    assert (left.state, left.complete, again.epoch) == (told.state, False, 1)
    assert set(left.state.instances) == {ONE.id, TWO.id}


async def test_delta_puts_and_drops(store: DesiredStore) -> None:
    await store.full(state(ONE))
    told = await store.delta(delta(1, 5, TWO, drop=(ONE.id,)))
    assert (set(told.state.instances), told.state.revision, told.state.templates) == ({TWO.id}, 5, {HASH: SPEC})
    assert told.state.routes == {ROUTE.key: ROUTE}


async def test_what_is_to_be_prepared_is_told_whole_each_time(store: DesiredStore) -> None:
    put = to_wire(NodeState(0, 0, prepare={HASH: 3}), agent_pb2.NodeState)
    await store.full(state(ONE))
    told = await store.delta(agent_pb2.NodeDelta(epoch=1, base=1, revision=2, put=put))
    assert told.state.prepare == {HASH: 3}
    assert (await store.delta(delta(2, 3, TWO))).state.prepare == {}


@pytest.mark.parametrize("change", [delta(2, 3, TWO), delta(0, 2, TWO), delta(1, 1, TWO), delta(1, 0, TWO), delta(1, 2, TWO, epoch=2)])
async def test_a_change_that_does_not_continue_is_a_doubt(store: DesiredStore, change: agent_pb2.NodeDelta) -> None:
    before = await store.full(state(ONE))
    with pytest.raises(SessionDoubt):
        await store.delta(change)
    assert store.current == before


async def test_a_change_before_the_first_full_state_is_a_doubt(store: DesiredStore) -> None:
    with pytest.raises(SessionDoubt):
        await store.delta(delta(0, 1, ONE))


async def test_a_new_epoch_is_durable_first_and_makes_the_state_incomplete(store: DesiredStore, tmp_path: Path) -> None:
    await store.full(state(ONE))
    told = await store.welcome(4)
    assert (tmp_path / "epoch").read_text() == "4\n"
    assert not told.complete
    assert set(told.state.instances) == {ONE.id}, "what was told goes on"
    for message in (state(TWO, epoch=1), state(TWO, epoch=5)):
        with pytest.raises(SessionDoubt):
            await store.full(message)
    with pytest.raises(SessionDoubt):
        await store.welcome(3)
    assert (await store.full(state(TWO, epoch=4))).complete


async def test_what_cannot_be_made_durable_does_not_count(store: DesiredStore, disk: FullDisk) -> None:
    before = await store.full(state(ONE))
    disk.full = True
    for call in (store.full(state(TWO, revision=2)), store.delta(delta(1, 2, TWO)), store.welcome(2)):
        with pytest.raises(OSError, match="No space"):
            await call
    assert (store.current, store.epoch) == (before, 1)
    disk.full = False
    assert set((await store.delta(delta(1, 2, TWO))).state.instances) == {ONE.id, TWO.id}


async def test_damaged_files(tmp_path: Path, disk: FullDisk) -> None:
    (tmp_path / "desired.pb").write_bytes(b"\xff\xff\xff")
    assert DesiredStore(tmp_path, disk).load().state.instances == {}
    (tmp_path / "epoch").write_text("many")
    with pytest.raises(GestaltError, match="epoch"):
        DesiredStore(tmp_path, disk).load()


def test_a_good_state_has_no_problems() -> None:
    intake = take_in(state(ONE, TWO), {})
    assert (intake.refused, intake.problems) == ({}, ())
    assert intake.state.instances == {ONE.id: ONE, TWO.id: TWO}


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("id", "web-0000aa-3", "calls itself"),
        ("app", "../../etc", "app path"),
        ("app", "/a/b;rm -rf /", "app path"),
        ("template", "0" * 16, "missing"),
        ("template", "../x", "missing"),
    ],
)
def test_bad_instances_are_refused_alone(field: str, value: str, word: str) -> None:
    message = state(ONE, TWO)
    setattr(message.instances[ONE.id], field, value)
    intake = take_in(message, {})
    assert word in intake.refused[ONE.id]
    assert set(intake.state.instances) == {TWO.id}


@pytest.mark.parametrize(
    "name", ["", "web", "../../etc/passwd", "web-0000aa-1/..", "web-0000aa-01", "WEB-0000aa-1", "a" * 80 + "-0000aa-1", "web-0000aa-1\n"]
)
def test_bad_ids_are_refused(name: str) -> None:
    message = state(TWO)
    message.instances[name].CopyFrom(to_wire(ONE, agent_pb2.DesiredInstance))
    message.instances[name].id = name
    intake = take_in(message, {})
    assert set(intake.refused) == {name}
    assert len(intake.problems) == 1
    assert set(intake.state.instances) == {TWO.id}


@pytest.mark.parametrize(
    ("field", "value"), [("host_port", 0), ("host_port", 70000), ("container_port", -1), ("protocol", "icmp"), ("name", "a b")]
)
def test_bad_ports_are_refused(field: str, value: object) -> None:
    message = state(ONE)
    setattr(message.instances[ONE.id].ports[0], field, value)
    assert ONE.id in take_in(message, {}).refused


def test_a_bad_template_refuses_its_instances_and_says_why() -> None:
    message = state(ONE)
    message.templates[HASH].resources.cpu = -1
    intake = take_in(message, {})
    assert "template" in intake.refused[ONE.id]
    assert intake.state.templates == {}


@pytest.mark.parametrize(
    ("host", "prefix", "address", "port"),
    [
        ("bad host", "/", "127.0.0.1", 3001),
        ("a\n  server evil 1.2.3.4:80", "/", "127.0.0.1", 3001),
        ("a", "/ with blanks", "127.0.0.1", 3001),
        ("a", "no-slash", "127.0.0.1", 3001),
        ("a", "/", "localhost", 3001),
        ("a", "/", "127.0.0.1 weight 0", 3001),
        ("a", "/", "127.0.0.1", 0),
    ],
)
def test_bad_routes_are_left_out(host: str, prefix: str, address: str, port: int) -> None:
    message = state(ONE)
    route = message.routes[ROUTE.key]
    route.http.hosts[:] = [host]
    route.http.path_prefix = prefix
    route.servers[0].address = address
    route.servers[0].port = port
    intake = take_in(message, {})
    assert intake.state.routes == {}
    assert len(intake.problems) == 1
    assert set(intake.state.instances) == {ONE.id}


async def test_routes_that_a_recovering_leader_does_not_know_stay_until_it_has_recovered(
    store: DesiredStore, tmp_path: Path, disk: FullDisk
) -> None:
    await store.full(state(ONE))
    await store.welcome(2)
    told = await store.full(agent_pb2.NodeState(epoch=2, revision=1, recovering=True))
    assert (set(told.state.routes), set(told.state.instances), told.state.recovering) == ({ROUTE.key}, set(), True)
    again = DesiredStore(tmp_path, disk)
    assert set(again.load().state.routes) == {ROUTE.key}, "a restart of the agent does not forget it"
    await again.welcome(3)
    assert set((await again.full(agent_pb2.NodeState(epoch=3, revision=1, recovering=True))).state.routes) == {ROUTE.key}
    last = await again.delta(agent_pb2.NodeDelta(epoch=3, base=1, revision=2))
    assert (last.state.routes, last.state.recovering) == ({}, False)


def test_a_route_or_a_peer_that_did_not_change_is_not_read_again() -> None:
    message = state(ONE)
    message.peers[PEER].name, message.peers[PEER].address = "web-1", "10.0.0.2"
    first, again = take_in(message, {}).state, take_in(message, {}).state
    assert again.routes[ROUTE.key] is first.routes[ROUTE.key]
    assert again.peers[PEER] is first.peers[PEER]
    message.peers[PEER].address = "10.0.0.3"
    assert take_in(message, {}).state.peers[PEER].address == "10.0.0.3"
