"""The ZooKeeper client against real servers: transactions, cuts at every place, watches, sessions."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from gestalt.config import ZooKeeperSettings
from gestalt.zk.client import (
    MULTI_LIMIT,
    Check,
    Create,
    Delete,
    Op,
    Set,
    Stat,
    Zk,
    ZkRefused,
    ZkState,
    ZkUnavailable,
    ZkUnknown,
)

from .zookeeper_lab import Cutter, Ensemble, cutter, new_root, until, zookeeper

SESSION = 1.0


class Rig:
    """Clients of one server: one through the cutter, one beside it, and a root that exists."""

    def __init__(self, ensemble: Ensemble, proxy: Cutter, zk: Zk, beside: Zk, states: list[ZkState]) -> None:
        self.ensemble = ensemble
        self.proxy = proxy
        self.zk = zk
        self.beside = beside
        self.states = states
        self.node = ""

    async def back(self) -> None:
        await until("the client is connected again", lambda: self.zk.state is ZkState.CONNECTED)


@pytest.fixture
async def rig(ensemble: Ensemble) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(cutter(ensemble.ports[0]))
        states: list[ZkState] = []
        through = ZooKeeperSettings(hosts=(proxy.host,))
        zk = await Zk.connect(through, session=SESSION, name="cut", on_state=states.append)
        stack.push_async_callback(zk.close)
        beside = await Zk.connect(ensemble.settings(), session=10, name="beside")
        stack.push_async_callback(beside.close)
        rig = Rig(ensemble, proxy, zk, beside, states)
        rig.node = f"{new_root()}/node"
        await beside.ensure(rig.node)
        yield rig


async def test_a_transaction_tells_what_each_operation_made(rig: Rig) -> None:
    made, numbered, stat, checked, deleted = await rig.zk.multi(
        [
            Create(f"{rig.node}/a", b"1"),
            Create(f"{rig.node}/c-", ephemeral=True, sequence=True),
            Set(f"{rig.node}/a", b"2", 0),
            Check(f"{rig.node}/a", 1),
            Delete(f"{rig.node}/a", 1),
        ]
    )
    assert (made, numbered, checked, deleted) == (f"{rig.node}/a", f"{rig.node}/c-0000000001", None, None)
    assert isinstance(stat, Stat)
    assert stat.version == 1
    there = await rig.beside.exists(str(numbered))
    assert there is not None
    assert there.owner == rig.zk.session.id


@pytest.mark.parametrize(("guilty", "reason"), [
    (Create("{}", b""), "exists"), (Set("{}/absent", b""), "missing"), (Set("{}", b"", 7), "version"), (Check("{}", 7), "version"),
    (Check("{}/absent", -1), "missing"), (Delete("{}/absent"), "missing"), (Create("{}/absent/child"), "missing"),
])  # fmt: skip
@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_refusal_names_the_guilty_operation_and_changes_nothing(rig: Rig, guilty: Op, reason: str, place: int) -> None:
    ops: list[Op] = [Set(rig.node, b"changed"), Create(f"{rig.node}/new")]
    ops.insert(place, type(guilty)(**{**_fields(guilty), "path": guilty.path.format(rig.node)}))
    with pytest.raises(ZkRefused) as refusal:
        await rig.zk.multi(ops)
    assert (refusal.value.index, refusal.value.reason) == (place, reason)
    found = await rig.beside.get(rig.node)
    assert found is not None
    assert (found[0], found[1].version) == (b"", 0)
    assert await rig.beside.children(rig.node) == []


def _fields(op: Op) -> dict[str, Any]:
    return {name: getattr(op, name) for name in op.__slots__}


async def test_what_the_servers_would_cut_the_connection_for_is_never_sent(rig: Rig) -> None:
    room = MULTI_LIMIT - 64 - 4 * len(rig.node)
    await rig.zk.set(rig.node, bytes(room))
    with pytest.raises(ZkRefused) as refusal:
        await rig.zk.multi([Check(rig.node, 1), Set(rig.node, bytes(room))])
    assert (refusal.value.index, refusal.value.reason) == (1, "too_large")
    assert rig.states == []


@pytest.mark.parametrize("took_place", [True, False])
async def test_a_cut_between_request_and_answer_is_told_as_unknown(rig: Rig, took_place: bool) -> None:
    rig.proxy.loses_answers, rig.proxy.loses_requests = took_place, not took_place
    write = asyncio.create_task(rig.zk.set(rig.node, b"x" * 5000))
    if took_place:
        await until("the write is there", lambda: _version(rig.beside, rig.node))
    else:
        await until("the request is lost", lambda: rig.proxy.lost > 5000)
    rig.proxy.cut()
    with pytest.raises(ZkUnknown):
        await write
    await rig.back()
    await rig.zk.sync(rig.node)
    assert await _version(rig.zk, rig.node) == int(took_place)
    assert rig.states == [ZkState.SUSPENDED, ZkState.CONNECTED]


async def _version(zk: Zk, path: str) -> int:
    stat = await zk.exists(path)
    return stat.version if stat else -1


async def test_nothing_is_queued_while_there_is_no_connection(rig: Rig) -> None:
    rig.proxy.accepts = False
    rig.proxy.cut()
    await until("the client knows", lambda: rig.zk.state is not ZkState.CONNECTED)
    for call in (rig.zk.set(rig.node, b"queued"), rig.zk.get(rig.node), rig.zk.children(rig.node), rig.zk.create(f"{rig.node}/queued")):
        with pytest.raises(ZkUnavailable):
            await call
    rig.proxy.accepts = True
    await rig.back()
    await rig.zk.set(rig.node, b"direct", 0)
    assert await rig.zk.children(rig.node) == []


async def test_an_expired_session_is_told_once_and_no_other_begins(rig: Rig) -> None:
    await rig.zk.create(f"{rig.node}/ephemeral", ephemeral=True)
    rig.proxy.accepts = False
    rig.proxy.cut()
    await until("the servers have ended the session", lambda: _is_gone(rig.beside, f"{rig.node}/ephemeral"))
    assert rig.states == [ZkState.SUSPENDED], "a client that is cut off cannot know"
    rig.proxy.accepts = True
    await until("the client has been told", lambda: rig.zk.state is ZkState.LOST)
    with pytest.raises(ZkUnavailable, match="over"):
        await rig.zk.set(rig.node, b"")
    seen: list[object] = []
    watch = rig.zk.watch(rig.node, seen.append)
    await until("kazoo has ended", rig.zk._client._connection.connection_stopped.is_set)
    watch.close()
    assert rig.states == [ZkState.SUSPENDED, ZkState.LOST]
    assert seen == []


async def _is_gone(zk: Zk, path: str) -> bool:
    return await zk.exists(path) is None


async def test_a_watch_tells_the_present_each_change_and_what_it_missed_while_cut_off(rig: Rig) -> None:
    seen: list[bytes | None] = []
    children: list[list[str]] = []
    path = f"{rig.node}/watched"
    watch = rig.zk.watch(path, lambda found: seen.append(found[0] if found else None))
    below = rig.zk.watch_children(path, children.append)
    await until("the present is told", lambda: seen == [None] and children == [[]])
    await rig.beside.create(path, b"1")
    await until("the creation is told", lambda: seen[-1] == b"1")
    await rig.beside.create(f"{path}/child")
    await until("the child is told", lambda: children[-1] == ["child"])
    rig.proxy.accepts = False
    rig.proxy.cut()
    await until("the client knows", lambda: rig.zk.state is not ZkState.CONNECTED)
    await rig.beside.multi([Set(path, b"2"), Delete(f"{path}/child")])
    rig.proxy.accepts = True
    await until("what was missed is told", lambda: (seen[-1], children[-1]) == (b"2", []))
    await rig.beside.delete(path)
    await until("the end is told", lambda: seen[-1] is None)
    await rig.beside.create(path, b"3")
    await until("the next beginning is told", lambda: seen[-1] == b"3")
    watch.close()
    below.close()
    assert seen == [None, b"1", b"2", None, b"3"], "nothing is told twice"
    await rig.beside.set(path, b"4")
    await rig.zk.get(path)
    assert seen[-1] == b"3"


async def test_a_callback_that_fails_goes_on_being_called(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def failing(found: object) -> None:
        calls.append(found)
        raise RuntimeError("theirs")

    rig.zk.watch(rig.node, failing)
    await until("it is called", lambda: len(calls) == 1)
    await rig.beside.set(rig.node, b"1")
    await until("it is called again", lambda: len(calls) == 2)
    assert "theirs" in caplog.text


async def test_a_session_that_was_left_is_taken_up(rig: Rig) -> None:
    first = await Zk.connect(rig.ensemble.settings(), session=10, name="first")
    await first.create(f"{rig.node}/ephemeral", ephemeral=True)
    await first.close(keep_session=True)
    second = await Zk.connect(rig.ensemble.settings(), session=10, name="second", resume=first.session)
    assert (second.session, second.timeout) == (first.session, 10)
    assert not await _is_gone(second, f"{rig.node}/ephemeral")
    await second.close()
    await until("the session has ended with its client", lambda: _is_gone(rig.beside, f"{rig.node}/ephemeral"))
    third = await Zk.connect(rig.ensemble.settings(), session=10, name="third", resume=first.session)
    assert third.session.id != first.session.id
    await third.close()


async def test_nobody_there_is_told_within_the_limit() -> None:
    nowhere = ZooKeeperSettings(hosts=("127.0.0.1:1",))
    with pytest.raises(ZkUnavailable, match=r"127\.0\.0\.1:1.*within 0\.5 s.*refused"):
        await Zk.connect(nowhere, session=2, name="nobody", limit=0.5)


async def test_a_cancelled_connect_leaves_nothing_behind(ensemble: Ensemble) -> None:
    connecting = asyncio.create_task(Zk.connect(ZooKeeperSettings(hosts=("127.0.0.1:1",)), session=2, name="cancelled-one"))
    await asyncio.sleep(0)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting


async def test_the_loss_of_a_server_ends_no_session() -> None:
    async with zookeeper(3) as servers:
        zk = await Zk.connect(servers.settings(), session=8, name="survivor")
        session = zk.session
        await zk.create("/here", ephemeral=True)
        servers.kill(servers.leader())
        await until("a write succeeds", lambda: _writes(zk, "/here"))
        assert zk.session == session
        assert zk.state is ZkState.CONNECTED
        await zk.close()


async def _writes(zk: Zk, path: str) -> bool:
    try:
        await zk.set(path, b"after")
    except (ZkUnavailable, ZkUnknown):
        return False
    return True


def test_the_client_fits_into_a_small_process() -> None:
    """The fence imports this and must stay small: no pydantic, no grpc."""
    program = "import sys, gestalt.zk.client; print(*sorted({'pydantic', 'grpc', 'yaml'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60).stdout.strip() == ""
