"""Nodes that come, vanish and return under a real leader with a real ZooKeeper: who runs their instances, and what people are told."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gestalt.coordinator import deadlines
from gestalt.coordinator.pace import Pace
from gestalt.errors import Kind
from gestalt.pki import Role
from gestalt.proto.v1 import api_pb2
from gestalt.rpc import decode_error
from tests.real.members_rig import Members
from tests.real.zookeeper_lab import Ensemble
from tests.unit.coordinator.world import PATH

TICK = deadlines.TICK

pytestmark = pytest.mark.real


@pytest.fixture
async def rig(members: Members) -> Members:
    return members


@pytest.fixture
async def three(rig: Members) -> Members:
    for name in ("a", "b", "c"):
        await rig.node(name)
    return rig


async def launched(rig: Members, instances: int = 3, **fields: object) -> None:
    task = await rig.outcome(await rig.launch(instances, **fields))
    assert task.state == "succeeded", task.message


async def test_the_end_of_a_membership_moves_instances_and_routes_at_once(three: Members) -> None:
    await launched(three)
    began = time.monotonic()
    await three.end("a")
    await three.until(lambda: three.runs("b", "c") == 3, "the replacement runs")
    took = time.monotonic() - began
    await three.until(lambda: not three.by_name["a"].running, "what streams on without a membership ends its copy")
    assert took < 10
    await three.until(lambda: three.record("a").lost == 1, "the loss is noted")
    assert len(three.events("node.lost")) == 1
    assert three.events("app.failover") == [f"{PATH}: 1 instance of node a is replaced"]
    (failover,) = [task for task in (await three.tasks().List(api_pb2.ListTasksRequest())).tasks if task.kind == "failover"]
    ended = [task async for task in three.tasks().Watch(api_pb2.GetTaskRequest(id=failover.id), timeout=20)][-1]
    assert (ended.state, ended.message) == ("succeeded", "1 instance of node a is replaced; 3 instances of version 1 are healthy")
    status = await three.status()
    assert "node a is lost: it has lost its membership: it is dead or cut off" in status.problems


async def test_a_node_that_returns_is_ready_again_and_takes_instances(three: Members) -> None:
    await launched(three)
    await three.end("a")
    await three.until(lambda: three.runs("b", "c") == 3, "the replacement runs")
    await three.disconnect("a")
    await three.join("a")
    await three.connect("a")
    await three.until_state("a", "ready")
    await three.until(lambda: three.record("a").lost == 0, "the return is noted")
    assert three.record("a").incarnation == 2
    assert len(three.events("node.back")) == 1
    await three.disconnect("b")
    await three.end("b")
    await three.until(lambda: three.runs("a", "c") == 3, "the others run what b ran")


@pytest.mark.parametrize(("boot", "is_used"), [("b", True), ("another", False)])
async def test_a_node_that_returns_gets_requests_before_its_agent_says_so_only_if_it_did_not_boot(
    three: Members, boot: str, is_used: bool
) -> None:
    await launched(three)
    (kept,) = three.by_name["a"].running
    for name in ("a", "b"):  # so many that nothing is replaced
        await three.disconnect(name)
        await three.end(name)
    await three.until(lambda: {server.lost for server in three.servers("c")} == {False, True}, "requests go around them")
    await three.join("a", boot)
    await three.until(lambda: not any(server.lost for server in three.servers("c") if server.instance == kept), "it is back")
    assert [server.ready for server in three.servers("c") if server.instance == kept] == [is_used]


async def test_an_agent_that_is_down_costs_nothing_until_the_fence_gives_up(three: Members) -> None:
    await launched(three)
    (kept,) = three.by_name["a"].running
    await three.say("a", "down")
    await three.disconnect("a")
    await three.until_state("a", "agent-down")
    assert next(item.ready for item in three.servers("b") if item.instance == kept), "its instances stay in the routes"
    assert three.runs("b", "c") == 2
    assert any("node a is agent-down" in problem for problem in (await three.status()).problems)
    await three.end("a")
    await three.until(lambda: three.runs("b", "c") == 3, "the replacement runs")


async def test_an_unreachable_node_is_given_up_after_the_apps_own_time(three: Members) -> None:
    await launched(three, placement={"failover_after": 1})
    await three.disconnect("a")
    await three.until_state("a", "unreachable")
    await three.until(lambda: three.runs("b", "c") == 3, "the replacement runs")
    assert three.record("a").lost == 0


async def test_a_leader_that_most_nodes_do_not_reach_steps_down_and_replaces_nothing(three: Members) -> None:
    await launched(three, placement={"failover_after": 0})
    await three.disconnect("a")
    await three.disconnect("b")
    await three.until(lambda: three.office.reason, "it steps down")
    assert "2 of 3 nodes are alive, but do not reach this coordinator" in three.office.reason
    assert three.runs("c") == 1


async def test_a_new_leader_finds_out_what_was_lost_meanwhile_and_tells_old_losses_no_second_time(three: Members) -> None:
    await launched(three)
    await three.end("a")
    await three.until(lambda: three.runs("b", "c") == 3, "the replacement runs")
    await three.until(lambda: three.record("a").lost == 1, "the loss is noted")
    await three.leave_office()
    await three.end("b")
    ran = [await three.disconnect(name) for name in ("a", "b", "c")][2]
    await three.take_office()
    await three.connect("c")
    three.by_name["c"].running.update(ran)
    await three.until(lambda: three.runs("c") == 3, "c runs everything")
    await three.until(lambda: three.record("b").lost == 1, "the loss is noted")
    assert [message.split()[1] for message in three.events("node.lost")] == ["a", "b"]


async def test_a_new_leader_keeps_the_servers_of_nodes_that_it_has_not_heard_in_the_routes(three: Members) -> None:
    await launched(three)
    await three.leave_office()
    ran = [await three.disconnect(name) for name in ("a", "b", "c")][2]
    await three.take_office()
    await three.connect("c")
    three.by_name["c"].running.update(ran)
    await three.until(lambda: three.by_name["c"].state.routes, "c has its routes")
    elsewhere = [item for item in three.servers("c") if item.instance not in ran]
    assert [(item.address, item.ready, item.lost) for item in elsewhere] == [("127.0.0.1", True, False)] * 2


async def test_when_most_nodes_vanish_nothing_is_replaced_until_an_operator_confirms_it(three: Members) -> None:
    await three.node("d")
    await launched(three, 8)
    for name in ("a", "b", "c"):
        await three.end(name)
        await three.disconnect(name)
    await three.until(lambda: three.events("cluster.held"), "it doubts itself")
    status = await three.status()
    assert "nodes vanished at once" in status.held
    assert three.runs("d") < 8
    await three.leave_office()
    await three.take_office()
    assert "nodes vanished at once" in (await three.status()).held, "the next leader doubts, too"
    reply = await three.cluster().Resume(api_pb2.PauseRequest(), timeout=10)
    assert reply.changed
    await three.disconnect("d")
    await three.connect("d")
    await three.until(lambda: three.runs("d") == 8, "the last node runs everything")
    assert (await three.status()).held == ""


async def test_losses_are_judged_before_anybody_acts_on_them_however_late_the_leader_looks_at_its_nodes(
    ensemble: Ensemble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Members(tmp_path, ensemble=ensemble)
    await rig.up()
    for name in ("a", "b", "c"):
        await rig.node(name)
    await launched(rig, 6)
    assert rig.leader is not None
    monkeypatch.setattr(Pace, "ask", lambda _: None)
    monkeypatch.setattr(deadlines, "TICK", 60.0)
    await asyncio.sleep(2 * TICK)  # time has to pass: the last look at short intervals is over
    for name in ("a", "b"):
        await rig.end(name)
    await rig.until(lambda: [rig.state(name) for name in ("a", "b")] == ["lost", "lost"], "ZooKeeper tells of the ends")
    assert not rig.leader.decider.brakes.held, "nobody looked yet"
    rig.leader.decider.wake([PATH])
    await rig.until(lambda: rig.leader is not None and rig.leader.decider.brakes.held, "it doubts itself")
    assert rig.events("app.failover") == []
    await rig.down()


async def test_a_pause_while_most_nodes_vanish_confirms_nothing(three: Members) -> None:
    await three.node("d")
    await launched(three, 8)
    assert three.leader is not None
    ledger = three.leader.ledger
    async with ledger.draft("admin", "pause") as draft:  # nothing else is written meanwhile, also not the doubt
        for name in ("a", "b", "c"):
            await three.end(name)
            await three.disconnect(name)
        await three.until(lambda: three.leader is not None and three.leader.decider.brakes.held, "it doubts itself")
        draft.put(replace(ledger.state.switches, paused="by admin"))
    await three.until(lambda: three.events("cluster.held"), "the doubt is noted")
    assert (await three.cluster().Resume(api_pb2.PauseRequest(), timeout=10)).changed
    await three.until(lambda: three.runs("d") == 8, "what is confirmed is replaced")


async def test_a_pause_holds_replacement_back_but_neither_routes_nor_operators(three: Members) -> None:
    await launched(three)
    (lost,) = three.by_name["a"].running
    asked = api_pb2.PauseRequest(request=api_pb2.Request(id="once"), reason="rack move")
    assert (await three.cluster().Pause(asked, timeout=10)).changed
    assert (await three.cluster().Pause(asked, timeout=10)).changed, "a retry is answered alike"
    await three.disconnect("a")
    await three.end("a")
    await three.until(lambda: three.record("a").lost, "the loss is noted")
    assert [(item.ready, item.lost) for item in three.servers("b") if item.instance == lost] == [(False, True)]
    status = await three.status()
    assert status.paused == "by alice: rack move"
    app = (await three.get()).app
    assert "1 lost instance is not replaced: replacement is paused by alice: rack move" in app.message
    await three.launch(5)
    await three.until(lambda: three.runs("b", "c") == 4, "what an operator asks for is started")
    assert (await three.cluster().Resume(api_pb2.PauseRequest(), timeout=10)).changed
    await three.until(lambda: three.runs("b", "c") == 5, "the lost one is replaced")
    assert not (await three.cluster().Resume(api_pb2.PauseRequest(), timeout=10)).changed


async def test_a_node_with_another_nodes_identity_is_refused_and_that_one_goes_on(three: Members) -> None:
    await launched(three)
    honest = three.by_name["b"]
    for claimed in (three.ids["b"], "nobody"):
        liar = await three.agent(node_id=claimed, name="b", tls=three.tls(Role.NODE, three.ids["a"]))
        await liar.ended()
        assert liar.error is not None
        assert decode_error(liar.error).kind is Kind.UNAUTHENTICATED
        assert not liar.welcome
        assert not liar.running
    assert honest.error is None
    assert [three.state(name) for name in "abc"] == ["ready"] * 3
    assert three.runs("a", "b", "c") == 3
    assert not three.events("app.failover")


async def test_a_node_that_never_had_a_membership_is_shown_and_takes_nothing(rig: Members) -> None:
    await rig.node("a")
    await rig.admit("new")
    await rig.connect("new")
    await launched(rig, 4)
    assert rig.runs("new") == 0
    assert (rig.state("new"), rig.record("new").lost) == ("lost", 0)
    assert "node new is lost: it has not started its fence yet" in (await rig.status()).problems
