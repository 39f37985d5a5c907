"""A node is lost on which many apps had something: few commits replace it all, and no room is given away twice."""

from __future__ import annotations

import asyncio

import pytest

from gestalt.proto.v1 import api_pb2, api_pb2_grpc, spec_pb2
from gestalt.wire import spec_to_wire
from tests.real.members_rig import Members
from tests.unit.coordinator.world import spec

pytestmark = pytest.mark.real

AREA = "/org/ws/env/"


def described(name: str, cpu: float = 1, **placement: object) -> spec_pb2.AppSpec:
    return spec_to_wire(spec(instances=1, path=AREA + name, ports=[], checks=[], resources={"cpu": cpu}, placement=placement))


async def launch(rig: Members, *apps: spec_pb2.AppSpec) -> None:
    reply = await rig.apps().Launch(api_pb2.LaunchRequest(apps=apps), timeout=10)
    for task in reply.tasks:
        done = await rig.tasks().Get(api_pb2.GetTaskRequest(id=task.id), timeout=10)
        await rig.until(lambda: rig.runs(*rig.by_name) >= len(apps), "all of them run")
        assert done.state != "failed", done.message


async def cordon(rig: Members, name: str, *, ends: bool = False) -> None:
    nodes = api_pb2_grpc.NodesStub(rig.channel())
    await (nodes.Uncordon if ends else nodes.Cordon)(api_pb2.NodeRequest(node=name), timeout=10)


def runs(rig: Members, name: str, node: str) -> bool:
    return any(key.startswith(f"{name}-") for key in rig.by_name[node].running)


@pytest.fixture
async def nodes(members: Members) -> Members:
    for name in ("a", "b", "c", "d", "e"):
        await members.node(name)
    await members.until(lambda: members.leader and all(node.ready for node in members.leader.decider.ground()), "all take instances")
    return members


async def test_what_many_apps_lost_is_replaced_by_few_commits(nodes: Members) -> None:
    names = [f"app{number}" for number in range(20)]
    await launch(nodes, *(described(name, affinities=[{"attribute": "node.name", "value": "a", "weight": 100}]) for name in names))
    assert all(runs(nodes, name, "a") for name in names)
    await nodes.end("a")
    await nodes.until(lambda: nodes.runs("b", "c", "d", "e") == 20, "all run elsewhere")
    assert nodes.leader is not None
    audits = nodes.leader.ledger.state.audits.values()
    commits = [sum(event.kind == "app.failover" for event in audit.events) for audit in audits]
    assert sum(commits) == 20
    assert max(commits) > 1
    assert sum(number > 0 for number in commits) < 20


async def test_room_is_given_to_one_of_those_that_are_decided_about_together(nodes: Members) -> None:
    for name in ("b", "c", "d", "e"):
        await cordon(nodes, name)
    await launch(nodes, described("one", 32), described("two", 32))
    await cordon(nodes, "b", ends=True)
    await launch(nodes, described("other", 32, constraints=[{"attribute": "node.name", "value": "b"}]))
    await nodes.end("a")
    await nodes.until(lambda: nodes.runs("b") == 2, "one of them took what was left there")
    waiting = "two" if runs(nodes, "one", "b") else "one"

    assert nodes.leader is not None
    decider = nodes.leader.decider
    await nodes.until(lambda: "too few cores left" in decider.lacks(AREA + waiting), "the other one says why it waits")
    assert nodes.runs("b") == 2


async def test_those_that_keep_apart_are_decided_about_one_after_the_other(nodes: Members) -> None:
    near = {"affinities": [{"attribute": "node.name", "value": "c", "weight": 100}]}
    for name in ("b", "c", "d", "e"):
        await cordon(nodes, name)
    await launch(nodes, described("one", **near))
    await cordon(nodes, "b", ends=True)
    await launch(nodes, described("two", apart_from=[AREA + "one"], **near))
    for name in ("c", "d", "e"):
        await cordon(nodes, name, ends=True)
    await asyncio.gather(nodes.end("a"), nodes.end("b"))
    await nodes.until(lambda: nodes.runs("c", "d", "e") == 2, "both run elsewhere")
    assert {runs(nodes, "one", "c"), runs(nodes, "two", "c")} == {True, False}
