"""System apps under a real leader: plans, nodes that join, are drained or relabelled, and the next leader."""

from __future__ import annotations

from collections import Counter

import pytest

from gestalt.proto.v1 import api_pb2, api_pb2_grpc, spec_pb2
from gestalt.spec.schema import AppSpec
from gestalt.wire import spec_to_wire
from tests.real.coordinator_rig import refused
from tests.real.members_rig import Members
from tests.real.zookeeper_lab import until
from tests.unit.coordinator.world import PATH

pytestmark = pytest.mark.real


@pytest.fixture
async def nodes(members: Members) -> Members:
    for name in "abc":
        await members.node(name)
    return members


def described(image: str = "web:1", **fields: object) -> list[spec_pb2.AppSpec]:
    return [spec_to_wire(AppSpec.model_validate({"path": PATH, "kind": "system", "image": image} | fields))]


async def where(rig: Members, image: str = "web:1") -> dict[str, int]:
    """Apply a description, wait for its end; return how many instances each node has."""
    task = await rig.outcome(await rig.apps().Apply(api_pb2.LaunchRequest(apps=described(image)), timeout=10))
    assert task.state == "succeeded", task.message
    return {name: len(agent.running) for name, agent in rig.by_name.items()}


async def planned(rig: Members, image: str) -> Counter[str]:
    (plan,) = (await rig.apps().Plan(api_pb2.PlanRequest(apps=described(image)), timeout=10)).apps
    return Counter(item.action for item in plan.instances)


async def test_the_nodes_say_how_many_there_are(nodes: Members) -> None:

    async def all_planned() -> bool:
        return await planned(nodes, "web:1") == {"start": 3}

    await until("all three nodes are heard", all_planned)
    assert await where(nodes) == {"a": 1, "b": 1, "c": 1}
    assert await planned(nodes, "web:1") == {"keep": 3}
    assert await planned(nodes, "web:2") == {"start": 3, "stop": 3}
    await nodes.node("d")
    await nodes.until(lambda: nodes.runs("d") == 1, "a node that joined has one")
    assert await where(nodes, "web:2") == {"a": 1, "b": 1, "c": 1, "d": 1}
    shown = (await nodes.apps().Get(api_pb2.GetRequest(app=PATH), timeout=10)).app
    assert (shown.state, shown.count, shown.spec.instances) == ("running", 4, 0)
    again = await nodes.apps().Apply(api_pb2.LaunchRequest(apps=[shown.spec]), timeout=10)
    assert list(again.unchanged) == [PATH]
    assert "system app" in (await refused(nodes.apps().Scale(api_pb2.ScaleRequest(app=PATH, count=2), timeout=10))).message


async def test_a_drained_node_is_left_and_one_that_is_back_is_not_served_by_another(nodes: Members) -> None:
    await where(nodes)
    task = await nodes.outcome(await api_pb2_grpc.NodesStub(nodes.channel()).Drain(api_pb2.NodeRequest(node="a"), timeout=10))
    assert task.state == "succeeded", task.message
    assert nodes.runs("a") == 0
    await nodes.end("b")
    await nodes.until_state("b", "lost")
    assert nodes.runs("c") == 1
    await nodes.disconnect("c")
    await nodes.leave_office()
    await nodes.take_office()
    await nodes.connect("c")
    await nodes.until(lambda: nodes.runs("c") == 1, "the next leader has it go on")
