"""Rebalancing under a real leader: shown before, done as migrations, continued by the next leader, and a second time nothing moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gestalt.coordinator.rebalance import Search
from gestalt.errors import Kind
from gestalt.proto.v1 import api_pb2, api_pb2_grpc, spec_pb2
from gestalt.wire import spec_to_wire
from tests.real.coordinator_rig import refused
from tests.real.members_rig import Members
from tests.unit.coordinator.world import PATH, spec

pytestmark = pytest.mark.real


@pytest.fixture
async def uneven(members: Members) -> Members:
    """Four instances of one app on node a, beside two nodes that joined later."""
    await members.node("a")
    assert (await members.outcome(await members.launch(4))).state == "succeeded"
    for name in ("b", "c"):
        await members.node(name)
    await members.until(lambda: members.leader and all(node.ready for node in members.leader.decider.ground()), "all take instances")
    return members


SHOWN_AND_DONE = "a rebalance begins with the same ones", "the next rebalance goes on with the others"


def nodes_of(rig: Members) -> api_pb2_grpc.NodesStub:
    return api_pb2_grpc.NodesStub(rig.channel())


def spread(rig: Members) -> dict[str, int]:
    return {name: len(agent.running) for name, agent in rig.by_name.items()}


async def plan(rig: Members, **fields: object) -> api_pb2.RebalancePlan:
    reply: api_pb2.RebalancePlan = await nodes_of(rig).PlanRebalance(api_pb2.RebalanceRequest(**fields), timeout=20)  # type: ignore[arg-type]
    return reply


async def test_what_is_shown_is_done_and_a_second_time_nothing_moves(uneven: Members) -> None:
    shown = await plan(uneven)
    assert [(move.from_node, move.app, move.state) for move in shown.moves] == [("a", PATH, "pending")] * 2
    assert shown.moves[0].why.startswith("apart -7.50 -> 0.00")
    assert not shown.may_be_more
    assert spread(uneven) == {"a": 4, "b": 0, "c": 0}, "showing changes nothing"
    reply = await nodes_of(uneven).Rebalance(api_pb2.RebalanceRequest(), timeout=20)
    task = await uneven.outcome(reply)
    assert (task.kind, task.state, task.message) == ("rebalance", "succeeded", "2 of 2 instances moved")
    assert [(move.state, move.to_node) for move in task.moves] == [("done", move.to_node) for move in shown.moves]
    assert spread(uneven) == {"a": 2, "b": 1, "c": 1}
    assert not (await plan(uneven)).moves
    again = await nodes_of(uneven).Rebalance(api_pb2.RebalanceRequest(), timeout=20)
    assert (list(again.tasks), list(again.unchanged)) == ([], ["the cluster"])


async def test_the_budget_bounds_it_and_a_new_leader_goes_on(uneven: Members) -> None:
    one = await plan(uneven, budget=1)
    assert (len(one.moves), one.may_be_more) == (1, True)
    for name in ("b", "c"):
        uneven.by_name[name].broken = frozenset({"web:1"})
    reply = await nodes_of(uneven).Rebalance(api_pb2.RebalanceRequest(parallel=1), timeout=20)
    await uneven.until(lambda: uneven.runs("b", "c") == 1, "the first one has begun to move")
    await uneven.leave_office()
    ran = {name: await uneven.disconnect(name) for name in ("a", "b", "c")}
    await uneven.take_office()
    for name, running_there in ran.items():
        await uneven.connect(name)
        fresh = {key: seen for key, seen in running_there.items() if seen.ready}
        uneven.by_name[name].running.update(fresh)
    task = await uneven.outcome(reply)
    assert (task.state, task.message) == ("succeeded", "2 of 2 instances moved")
    assert spread(uneven) == {"a": 2, "b": 1, "c": 1}


async def test_what_would_stop_first_is_moved_only_when_asked(uneven: Members) -> None:
    gone = await uneven.apps().Delete(api_pb2.AppRequest(app=PATH), timeout=10)
    await uneven.outcome(gone)
    for name in ("b", "c"):
        await nodes_of(uneven).Cordon(api_pb2.NodeRequest(node=name), timeout=10)
    cpu = {"cpu": 16}
    ports = {name: [{"name": "http", "container_port": 80, "host_port": port}] for name, port in (("one", 3501), ("two", 3502))}
    apps = [spec(instances=1, path=f"/org/ws/env/{name}", ports=fixed, resources=cpu) for name, fixed in ports.items()]
    await uneven.apps().Launch(api_pb2.LaunchRequest(apps=[spec_to_wire(app) for app in apps]), timeout=10)
    await uneven.until(lambda: uneven.runs("a") == 2, "both run")
    for name in ("b", "c"):
        await nodes_of(uneven).Uncordon(api_pb2.NodeRequest(node=name), timeout=10)
        await uneven.until_state(name, "ready")
    await uneven.until(lambda: uneven.leader and not any(app.task for app in uneven.leader.ledger.state.apps.values()), "they are at rest")
    assert not (await plan(uneven)).moves
    reply = await nodes_of(uneven).Rebalance(api_pb2.RebalanceRequest(stop_first=True), timeout=20)
    assert (await uneven.outcome(reply)).message == "1 of 1 instances moved"
    assert sorted(spread(uneven).values()) == [0, 1, 1]


async def test_whom_it_is_kept_apart_from_it_is_not_moved_to(uneven: Members) -> None:
    def other(name: str, image: str, **placement: object) -> spec_pb2.AppSpec:
        return spec_to_wire(spec(image, 1, path=f"/org/ws/env/{name}", ports=[], checks=[], placement=placement))

    there = [{"attribute": "node.name", "value": "b"}], [{"attribute": "node.name", "value": "c"}]
    uneven.by_name["c"].broken = frozenset({"never:1"})
    rivals = [other("rival", "db:1", constraints=there[0], apart_from=[PATH]), other("ill", "never:1", constraints=there[1])]
    await uneven.apps().Launch(api_pb2.LaunchRequest(apps=rivals), timeout=10)
    await uneven.until(lambda: uneven.runs("b", "c") == 2, "both are there")
    await uneven.until(lambda: uneven.leader and not uneven.leader.ledger.state.apps["/org/ws/env/rival"].task, "one is at rest")
    assert {move.to_node for move in (await plan(uneven)).moves} == {"c"}
    await uneven.apps().Delete(api_pb2.AppRequest(app="/org/ws/env/ill"), timeout=10)
    await uneven.until(lambda: uneven.leader and "/org/ws/env/ill" not in uneven.leader.ledger.state.apps, "it is gone")
    ill = other("ill", "never:1", constraints=there[1], apart_from=[PATH])
    await uneven.apps().Launch(api_pb2.LaunchRequest(apps=[ill]), timeout=10)
    await uneven.until(lambda: uneven.runs("b", "c") == 2, "it is there again")
    assert not (await plan(uneven)).moves, "not to one that is not at rest, either"


async def test_a_search_that_is_cut_off_says_so(uneven: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gestalt.coordinator.balancer.SEARCH_LIMIT", -1.0)
    shown = await plan(uneven)
    told = "the search was cut off after -1 s: 0 of 1 places where instances are were looked at, so there may be more to gain"
    assert (list(shown.moves), shown.may_be_more) == ([], True)
    assert shown.cut_off.startswith(told)
    reply = await nodes_of(uneven).Rebalance(api_pb2.RebalanceRequest(), timeout=20)
    assert [(task.state, task.message, list(task.warnings)) for task in reply.tasks] == [
        ("succeeded", "nothing was found to move", [shown.cut_off.replace(*SHOWN_AND_DONE)])
    ]


async def test_a_search_that_was_cut_off_is_gone_on_with_by_the_next_rebalance(uneven: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    def after_one(make: Callable[[], Search], _: object) -> Search:
        search = make()
        for looked_at, _ in enumerate(search.run()):
            search.is_late = looked_at >= 1
        return search

    monkeypatch.setattr("gestalt.coordinator.balancer._searched", after_one)
    for name in ("b", "c"):
        await nodes_of(uneven).Cordon(api_pb2.NodeRequest(node=name), timeout=10)
    other = spec(instances=3, path=f"{PATH}-z", ports=[], checks=[])
    task = await uneven.apps().Launch(api_pb2.LaunchRequest(apps=[spec_to_wire(other)]), timeout=10)
    assert (await uneven.outcome(task)).state == "succeeded"
    for name in ("b", "c"):
        await nodes_of(uneven).Uncordon(api_pb2.NodeRequest(node=name), timeout=10)
        await uneven.until_state(name, "ready")
    assert [{move.app for move in (await plan(uneven)).moves} for _ in range(2)] == [{PATH}] * 2, "a dry run changes nothing"
    moved = [set[str]()]
    while len(moved) <= 4 and other.path not in moved[-1]:
        await uneven.until(lambda: uneven.leader and not any(app.task for app in uneven.leader.ledger.state.apps.values()), "at rest")
        done = await uneven.outcome(await nodes_of(uneven).Rebalance(api_pb2.RebalanceRequest(), timeout=20))
        moved.append({move.app for move in done.moves})
        assert done.warnings[0].endswith("the next rebalance goes on with the others")
    assert (moved[1], moved[-1]) == ({PATH}, {other.path}), "at first where the most are, at last the other app"


async def test_what_cannot_be_is_refused(uneven: Members) -> None:
    for fields, words in (
        ({"budget": 0}, "budget: 0 instances are nothing to move, or too many; allowed: 1 to 1000"),
        ({"parallel": -1}, "parallel: -1 instances at once move nothing, or too much; allowed: 1 to 1000"),
        ({"min_gain": 0.0}, "min_gain: 0 points are too few, or too many; allowed: 0.001 to 1000"),
    ):
        for call in (nodes_of(uneven).PlanRebalance, nodes_of(uneven).Rebalance):
            error = await refused(call(api_pb2.RebalanceRequest(**fields), timeout=10))
            assert (error.kind, error.message) == (Kind.INVALID, words)
    assert spread(uneven)["a"] == 4
