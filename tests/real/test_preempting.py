"""Priorities under a real leader: room is made for the more important app, once, and the next leader gives it to nobody else."""

from __future__ import annotations

import pytest

from gestalt.proto.v1 import api_pb2, model_pb2, spec_pb2
from gestalt.wire import spec_to_wire
from tests.real.members_rig import Members
from tests.unit.coordinator.world import spec

pytestmark = pytest.mark.real

AREA = "/org/ws/env/"


@pytest.fixture
async def full(members: Members) -> Members:
    """Two nodes of 64 cores, both full of instances that ask for 32 cores each."""
    for name in ("a", "b"):
        await members.node(name)
    await members.until(lambda: members.leader and all(node.ready for node in members.leader.decider.ground()), "both take instances")
    reply = await members.apps().Launch(api_pb2.LaunchRequest(apps=[described("plain", 4)]), timeout=10)
    assert (await members.outcome(reply)).state == "succeeded"
    return members


def described(name: str, instances: int = 1, cpu: int = 32, **placement: object) -> spec_pb2.AppSpec:
    return spec_to_wire(spec(instances=instances, path=AREA + name, ports=[], checks=[], resources={"cpu": cpu}, placement=placement))


async def shown(rig: Members, name: str) -> model_pb2.App:
    reply: api_pb2.AppReply = await rig.apps().Get(api_pb2.GetRequest(app=AREA + name), timeout=10)
    return reply.app


def runs(rig: Members, name: str) -> int:
    return sum(key.startswith(f"{name}-") for agent in rig.by_name.values() for key in agent.running)


async def hand_over(rig: Members, *, stuck: bool) -> None:
    """End the leader; the next one finds the agents as they are."""
    await rig.leave_office()
    ran = {name: await rig.disconnect(name) for name in ("a", "b")}
    await rig.take_office()
    for name, found in ran.items():
        await rig.connect(name, stuck=stuck, running=found)
        await rig.until_state(name, "ready")


async def test_room_is_made_and_the_next_leader_gives_it_to_nobody_else(full: Members) -> None:
    for agent in full.by_name.values():
        agent.stuck = True
    urgent = described("urgent", 1, 64, priority=80, preempt=True)
    (plan,) = (await full.apps().Plan(api_pb2.PlanRequest(apps=[urgent]), timeout=10)).apps
    (sentence,) = [text for text in plan.warnings if text.startswith("to make room")]
    assert sentence.startswith("to make room, 2 instances of lower priority would be stopped: plain-")
    assert " of /org/ws/env/plain (priority 50) on node a" in sentence
    assert not full.events("instance.preempted"), "a plan changes nothing"
    reply = await full.apps().Launch(api_pb2.LaunchRequest(apps=[urgent]), timeout=10)
    assert sentence in reply.tasks[0].warnings
    await full.until(lambda: len(full.events("instance.preempted")) == 2, "two are stopped for it")
    app = await shown(full, "urgent")
    assert app.message == "launch: room is kept for it on node a, when 2 instances have stopped there"
    task = await full.tasks().Get(api_pb2.GetTaskRequest(id=reply.tasks[0].id), timeout=10)
    assert task.steps[0].message == "room is kept for it on node a, when 2 instances have stopped there"
    assert runs(full, "urgent") == 0
    victim = await shown(full, "plain")
    assert victim.state == "degraded"
    assert "2 of 4 instances are healthy: it had to make room for /org/ws/env/urgent (priority 80 over 50)" in victim.message

    await hand_over(full, stuck=True)
    await full.apps().Launch(api_pb2.LaunchRequest(apps=[described("between")]), timeout=10)
    for agent in full.by_name.values():
        agent.stuck = False
        agent._obey()
    assert (await full.outcome(reply)).state == "succeeded"
    assert {name: sorted({key.split("-")[0] for key in agent.running}) for name, agent in full.by_name.items()} == {
        "a": ["urgent"],
        "b": ["plain"],
    }
    assert len(full.events("instance.preempted")) == 2
    assert (runs(full, "plain"), runs(full, "between")) == (2, 0)

    await full.apps().Scale(api_pb2.ScaleRequest(app=AREA + "urgent", count=0), timeout=10)
    await full.until(lambda: (runs(full, "plain"), runs(full, "between")) == (3, 1), "what waited is back")
    await full.until(lambda: full.leader and not full.leader.ledger.state.apps[AREA + "urgent"].claims, "nothing is kept any more")


async def test_nothing_is_stopped_where_nobody_asks_for_it(full: Members) -> None:
    reply = await full.apps().Launch(api_pb2.LaunchRequest(apps=[described("urgent", 1, priority=100)]), timeout=10)
    assert not [text for text in reply.tasks[0].warnings if text.startswith("to make room")]
    await full.apps().Apply(api_pb2.LaunchRequest(apps=[described("modest", 1, priority=59, preempt=True)]), timeout=10)
    await full.until(lambda: full.leader and len(full.leader.decider.unplaced) == 2, "both wait")
    assert (await shown(full, "modest")).message.endswith("; stopping what has a lower priority would not make room")
    assert (runs(full, "plain"), full.events("instance.preempted")) == (4, [])
    await full.apps().Apply(api_pb2.LaunchRequest(apps=[described("urgent", 1, priority=100, preempt=True)]), timeout=10)
    await full.until(lambda: runs(full, "urgent") == 1, "it says so now")
    assert runs(full, "plain") == 3
