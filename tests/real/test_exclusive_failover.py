"""Exclusive apps under a real leader, with ZooKeeper, fences and processes that are real: who may be at work, and from when on."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from gestalt.clock import monotonic
from gestalt.coordinator.export import export_pieces
from gestalt.coordinator.grants import mark_of
from gestalt.coordinator.importing import Choice, put_back
from gestalt.coordinator.store.base import Document, Put
from gestalt.coordinator.store.zookeeper import ZookeeperStore
from gestalt.proto.v1 import api_pb2, api_pb2_grpc
from gestalt.zk.grants import GrantMark, parse_lease
from tests.real.agent_rig import until
from tests.real.guarded_rig import TIMING, WAIT, Exclusive, Guard, GuardedAgent, guarded
from tests.real.zookeeper_lab import Ensemble
from tests.unit.coordinator.world import PATH

pytestmark = pytest.mark.real

SLACK = 4.0
"""What a busy machine, and the way to the new copy, may add."""


@pytest.fixture
async def two(ensemble: Ensemble, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Exclusive]:
    """Nodes a and b, and an exclusive app at work on one of them. The parameter: its failover_after."""
    settings = {"timing": TIMING, "unreachable_after": 1.0, "hands_off_share": 1.0}
    async with guarded(Exclusive(tmp_path, ensemble=ensemble, settings=settings), "a", "b") as rig:
        await applied(rig, "web:1", getattr(request, "param", 60.0))
        yield rig


async def applied(rig: Exclusive, image: str, failover_after: float = 60.0) -> None:
    """Launch or update the app, and wait until it is at work."""
    placement = {"exclusive": True, "failover_after": failover_after}
    reply = await rig.launch(1, image, ports=[], checks=[], placement=placement, update={"min_healthy_time": 0.1})
    task = await rig.outcome(reply)
    assert task.state == "succeeded", task.message


def generation(rig: Exclusive) -> int:
    assert rig.leader is not None
    (grant,) = rig.leader.ledger.state.grants.values()
    return grant.generation


async def until_at(rig: Exclusive, guard: Guard, after: float) -> float:
    """Return when something was first at work on a node after a moment."""
    await rig.until(lambda: rig.watcher.first(guard, after), f"it is at work on {guard.name}")
    return rig.watcher.first(guard, after)


async def test_a_cut_off_holder_is_dead_before_the_next_begins_after_lease_kill_and_margin(two: Exclusive) -> None:
    holder = await two.holder()
    other, began = two.other(holder), monotonic()
    assert generation(two) == 1
    losing = asyncio.create_task(two.lost(holder))
    await two.agent_of(holder.name).hang_up()
    holder.wire.cut()
    lost = await losing

    async def told() -> str:
        message = (await two.get()).app.message
        return message if f"waits for node {holder.name}: may still hold it for" in message else ""

    message = await until("the wait to be told", told, WAIT)
    assert f"`gestaltctl node confirm-dead {holder.name}`" in message
    at = await until_at(two, other, began)
    assert at - lost >= WAIT
    assert at - lost <= WAIT + SLACK
    assert two.watcher.doubles() == []
    assert generation(two) == 2
    assert two.leader is not None
    placed = two.leader.ledger.state.placements
    await two.until(lambda: [item.node for item in placed[PATH].instances] == [two.ids[other.name]], "the old one is forgotten")
    mark = await two.mark()
    assert mark is not None
    assert (mark.generation, mark.node) == (2, two.ids[other.name])


async def test_a_fence_with_a_longer_lease_than_the_leader_is_waited_for(ensemble: Ensemble, tmp_path: Path) -> None:
    """One wrong number in a settings file must not make two holders."""
    settings = {
        "timing": TIMING.model_copy(update={"lease": 2.0, "kill": 0.2, "margin": 0.2}),
        "unreachable_after": 1.0,
        "hands_off_share": 1.0,
    }
    times = TIMING.model_copy(update={"lease": 6.0})
    async with guarded(Exclusive(tmp_path, ensemble=ensemble, settings=settings, times=times), "a", "b") as rig:
        await applied(rig, "web:1")
        holder, began = await rig.holder(), monotonic()
        nodes = api_pb2_grpc.NodesStub(rig.channel())
        shown = (await nodes.List(api_pb2.ListNodesRequest(), timeout=10)).nodes
        assert all(any("lease 6 s and kill 1 s" in problem for problem in node.problems) for node in shown), shown
        losing = asyncio.create_task(rig.lost(holder))
        holder.wire.cut()
        lost = await losing
        at = await until_at(rig, rig.other(holder), began)
        assert at - lost >= times.lease + times.kill + 0.2
        assert rig.watcher.doubles() == []


async def test_a_confirmed_loss_is_replaced_at_once(two: Exclusive) -> None:
    holder = await two.holder()
    other, began = two.other(holder), monotonic()
    await two.agent_of(holder.name).stop()
    losing = asyncio.create_task(two.lost(holder))
    holder.end()
    for process in two.agent_of(holder.name).processes.values():
        process.kill()
    await losing
    await two.until(lambda: two.record(holder.name).lost, "the loss is noted")
    nodes, confirmed = api_pb2_grpc.NodesStub(two.channel()), monotonic()
    await nodes.ConfirmDead(api_pb2.NodeRequest(node=holder.name), timeout=10)
    at = await until_at(two, other, began)
    assert at - confirmed < min(3.0, WAIT)
    assert generation(two) == 2


@pytest.mark.parametrize("two", [1.0], indirect=True)
async def test_an_unreachable_holder_loses_its_right_and_ends_before_the_next_begins(two: Exclusive) -> None:
    holder = await two.holder()
    other, began = two.other(holder), monotonic()
    await two.agent_of(holder.name).hang_up()
    await until_at(two, other, began)
    assert two.record(holder.name).lost == 0, "it is a member all the time"
    assert two.watcher.doubles() == []
    assert generation(two) == 2


async def test_an_update_hands_it_over_without_waiting(two: Exclusive) -> None:
    began = monotonic()
    await applied(two, "web:2")
    assert monotonic() - began < WAIT, "what was handed back is not waited for"
    assert two.watcher.doubles() == []
    assert generation(two) == 2


async def test_a_new_leader_waits_anew_and_makes_right_what_zookeeper_says(two: Exclusive) -> None:
    holder = await two.holder()
    other, began = two.other(holder), monotonic()
    losing = asyncio.create_task(two.lost(holder))
    await two.agent_of(holder.name).hang_up()
    holder.wire.cut()
    await losing
    await two.until(lambda: two.record(holder.name).lost, "the loss is noted")
    (name,) = await two.fences.children(two.paths.grants)
    await two.leave_office()
    await two.fences.set(two.paths.grant(name), GrantMark(PATH, 0, "before", "nobody", 7).encode())
    await two.fences.create(two.paths.grant("left-behind"), b"")
    for agent in two.agents:
        await agent.stop()
    two.agents.clear()
    await asyncio.sleep(WAIT / 2)  # what has passed under the leader before does not count for the next one
    office = monotonic()
    await two.take_office()
    assert two.leader is not None
    mark = await two.mark()
    (grant,) = two.leader.ledger.state.grants.values()
    assert mark in (mark_of(grant), GrantMark(PATH, 1)), "the one that is left says what is decided"
    await two.link(other.name)
    at = await until_at(two, other, began)
    assert at - office >= WAIT
    assert at - office <= WAIT + SLACK + 2
    assert two.watcher.doubles() == []


async def test_a_state_that_was_put_back_gives_nothing_away_that_was_given_on_since(two: Exclusive) -> None:
    """The app has moved on to another node after the moment to which the state is put back."""
    holder = await two.holder()
    other = two.other(holder)
    before = await documents(two)
    assert two.leader is not None
    async with two.leader.ledger.draft("test", "cordon") as draft:
        draft.put_node(replace(two.record(holder.name), admin="cordoned"))
    await applied(two, "web:2")
    assert (await two.holder()) is other
    await two.leave_office()
    store = ZookeeperStore(two.fences, two.paths, two.cluster_id)
    await store.open()
    await store.commit([Put(item.kind, item.key, item.value) for item in before], await store.take_office())
    await store.close()
    for agent in two.agents:
        assert isinstance(agent, GuardedAgent)
        await agent.hang_up()
    began = monotonic()
    await two.take_office()
    await asyncio.gather(*map(two.relink, ("a", "b")))
    await two.until(lambda: generation(two) == 3, "the right is given anew, under the next number")
    await two.until(lambda: max(two.watcher.first(guard, began) for guard in (holder, other)), "it is at work")
    assert two.watcher.doubles() == []


async def test_what_a_restored_state_does_not_know_keeps_its_right_until_nobody_is_at_work(ensemble: Ensemble, tmp_path: Path) -> None:
    """It was launched after the backup: to launch it once more must not start a second copy, nor must the end of the recovery."""
    settings = {"timing": TIMING, "unreachable_after": 1.0, "hands_off_share": 1.0}
    async with guarded(Exclusive(tmp_path, ensemble=ensemble, settings=settings), "a", "b") as rig:
        assert rig.leader is not None
        file = tmp_path / "backup"
        file.write_bytes(b"".join(export_pieces(await rig.leader.ledger.snapshot())))
        await applied(rig, "web:1")
        holder = await rig.holder()
        await put_back_to(rig, file)
        await rig.launch(1, "web:1", ports=[], checks=[], placement={"exclusive": True})

        async def told() -> str:
            message = (await rig.get()).app.message
            return message if f"node {holder.name} may run a copy that the restored state does not know" in message else ""

        assert "cluster recover --confirm" in await until("the wait to be told", told, 20)
        await rig.agent_of(holder.name).hang_up()
        holder.wire.cut()
        confirmed = monotonic()
        await api_pb2_grpc.RecoveryStub(rig.channel()).Recover(api_pb2.RecoverRequest(), timeout=10)
        at = await until_at(rig, rig.other(holder), confirmed)
        assert WAIT <= at - confirmed <= WAIT + SLACK
        assert rig.watcher.doubles() == []
        mark = await until("its grant to be removed", rig.mark_alone, 20)
        assert mark.node == rig.ids[rig.other(holder).name]


async def test_a_right_whose_record_is_missing_is_taken_back_and_given_anew_under_its_name(two: Exclusive) -> None:
    (first,) = (await two.holder()).at_work()
    await put_back_without_record(two)
    await api_pb2_grpc.RecoveryStub(two.channel()).Recover(api_pb2.RecoverRequest(), timeout=10)
    await two.until(lambda: two.leader and not two.leader.decider.grants.strange, "the old right is over")
    await two.until(lambda: {item for guard in two.guards.values() for item in guard.at_work()} - {first}, "the next one is at work")
    mark = await two.mark()
    assert mark is not None
    assert (mark.generation, mark.instance != first) == (2, True)
    assert two.watcher.doubles() == []


async def test_the_end_of_a_recovery_takes_nothing_from_who_was_given_it_since(two: Exclusive) -> None:
    holder = await two.holder()
    other = two.other(holder)
    await put_back_without_record(two)
    agent, began = two.agent_of(holder.name), monotonic()
    await agent.stop()
    for process in agent.processes.values():
        process.kill()
        await asyncio.to_thread(process.wait)
    holder.end()
    await two.until_state(holder.name, "lost")
    await api_pb2_grpc.NodesStub(two.channel()).ConfirmDead(api_pb2.NodeRequest(node=holder.name), timeout=10)
    await until_at(two, other, began)
    await api_pb2_grpc.RecoveryStub(two.channel()).Recover(api_pb2.RecoverRequest(), timeout=10)
    await two.until(lambda: two.leader and not two.leader.decider.grants.strange, "the old right is over")
    lease = two.paths.lease(two.ids[other.name])
    before = await two.fences.get(lease)
    assert before is not None

    async def renewed() -> bool:
        found = await two.fences.get(lease)
        mark = parse_lease(found[0]) if found is not None else None
        return mark is not None and found is not None and found[1].version > before[1].version and set(mark.grants.values()) == {2}

    await until("its lease to be renewed, with the grant in it", renewed, 20)
    assert other.at_work()


async def put_back_without_record(rig: Exclusive) -> None:
    """Have the next leader know the app, and neither its instance nor its grant."""
    assert rig.leader is not None
    snapshot = await rig.leader.ledger.snapshot()
    known = tuple(item for item in snapshot.documents if item.kind not in ("grant", "placements"))
    file = rig.folder / "backup"
    file.write_bytes(b"".join(export_pieces(replace(snapshot, documents=known))))
    await put_back_to(rig, file)
    await rig.until(lambda: rig.leader and rig.leader.decider.lacks(PATH), "it is told what the app waits for")


async def put_back_to(rig: Exclusive, file: Path) -> None:
    """Have the next leader begin with the state of a file."""
    for name in rig.by_name:
        await rig.agent_of(name).hang_up()
    await rig.leave_office()
    await put_back(rig.coordinator_settings(), Choice(file, replace=True))
    await rig.take_office()
    await asyncio.gather(*map(rig.relink, tuple(rig.by_name)))


async def documents(rig: Exclusive) -> list[Document]:
    """Return what is durable of the app and its right."""
    assert rig.leader is not None
    found = (await rig.leader.ledger.snapshot()).documents
    return [item for item in found if item.kind in ("app", "version", "placements", "grant", "node")]


async def test_a_deposed_leader_cannot_write_a_grant(two: Exclusive) -> None:
    assert two.leader is not None
    before = await two.mark()
    (grant,) = two.leader.ledger.state.grants.values()
    rival = ZookeeperStore(two.fences, two.paths, two.cluster_id)
    await rival.open()
    await rival.take_office()
    two.leader.ledger.state.grants[grant.name] = replace(grant, generation=9, node=two.ids[two.other(await two.holder()).name])
    keeper = two.leader._grants
    assert keeper is not None
    assert not await keeper._step()
    assert two.office.reason == "another coordinator has taken office"
    assert await two.mark() == before
    await rival.close()


async def test_the_judge_finds_two_when_a_fence_does_not_kill(two: Exclusive) -> None:
    """A fence that is frozen while what it guards goes on is what no fence survives: the watchdog of the machine is for that."""
    holder = await two.holder()
    other, began = two.other(holder), monotonic()
    assert holder.process is not None
    await two.agent_of(holder.name).stop()
    holder.process.send_signal(signal.SIGSTOP)
    await until_at(two, other, began)
    assert two.watcher.doubles()
