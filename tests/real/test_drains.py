"""Drains under a real leader: how many instances are on the move at once, deadlines, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from gestalt.errors import Kind
from gestalt.model import Health
from gestalt.proto.v1 import api_pb2, api_pb2_grpc, model_pb2
from gestalt.wire import spec_to_wire
from tests.real.coordinator_rig import refused
from tests.real.members_rig import Members
from tests.real.zookeeper_lab import Ensemble
from tests.unit.coordinator.world import spec

pytestmark = pytest.mark.real

PATHS = [f"/org/ws/env/app{number}" for number in range(5)]


@pytest.fixture
async def pair(ensemble: Ensemble, tmp_path: Path) -> AsyncIterator[Members]:
    """Five apps on node a, of which none becomes healthy on node b by itself."""
    rig = Members(tmp_path, ensemble=ensemble)
    await rig.up()
    await rig.node("a")
    apps = [spec(instances=1, path=path, ports=[{"name": "http", "container_port": 80}]) for path in PATHS]
    await rig.apps().Launch(api_pb2.LaunchRequest(apps=[spec_to_wire(app) for app in apps]), timeout=10)
    await rig.until(lambda: rig.runs("a") == 5, "all of them run")
    await rig.node("b", broken=frozenset({"web:1"}))
    yield rig
    await rig.down()


def nodes_of(rig: Members) -> api_pb2_grpc.NodesStub:
    return api_pb2_grpc.NodesStub(rig.channel())


async def message_of(rig: Members, reply: api_pb2.ChangeReply) -> str:
    task = await rig.tasks().Get(api_pb2.GetTaskRequest(id=reply.tasks[0].id), timeout=10)
    return str(task.steps[0].message)


def recover(rig: Members, name: str) -> None:
    """Let what runs on a node be healthy from now on."""
    agent = rig.by_name[name]
    for seen in list(agent.running.values()):
        if not seen.ready:
            agent.report(replace(seen, health=Health.HEALTHY, ready=True, reason=""))


async def test_so_many_are_on_the_move_at_once_and_the_others_follow(pair: Members) -> None:
    reply = await nodes_of(pair).Drain(api_pb2.DrainRequest(node="a", parallel=2), timeout=10)
    await pair.until(lambda: pair.runs("b") == 2, "two have begun to move")
    message = await message_of(pair, reply)
    assert message.startswith("waits for /org/ws/env/app")
    assert message.endswith("; 3 apps wait for their turn, 2 instances at once")
    most = 0

    def moved() -> bool:
        nonlocal most
        most = max(most, pair.runs("a", "b"))
        recover(pair, "b")
        return pair.runs("a") == 0

    await pair.until(moved, "all have moved")
    assert most == 7, "so many too many as may be on the move"
    task = await pair.outcome(reply)
    assert (task.state, task.message) == ("succeeded", "nothing runs on a any more")
    assert (pair.runs("a"), pair.runs("b")) == (0, 5)


async def test_a_new_leader_holds_to_the_number_and_to_the_deadline(pair: Members) -> None:
    reply = await nodes_of(pair).Drain(api_pb2.DrainRequest(node="a", parallel=1), timeout=10)
    await pair.until(lambda: pair.runs("b") == 1, "one has begun to move")
    await pair.leave_office()
    ran = {name: await pair.disconnect(name) for name in ("a", "b")}
    await pair.take_office()
    for name, running_there in ran.items():
        await pair.connect(name, broken=frozenset({"web:1"}) if name == "b" else frozenset())
        pair.by_name[name].running.update(running_there)
    await pair.until_state("a", "draining")
    again = await nodes_of(pair).Drain(api_pb2.DrainRequest(node="a", deadline=1.0), timeout=10)
    assert [task.id for task in again.tasks] == [task.id for task in reply.tasks]
    assert (pair.runs("a"), pair.runs("b"), pair.record("a").parallel) == (5, 1, 1)
    assert "what is left then stops at" in await message_of(pair, again)
    task = await pair.outcome(again)
    words = "nothing runs on a any more; the deadline was over with 5 instances left, stopped without waiting for replacements"
    assert (task.state, task.message, pair.runs("a")) == ("succeeded", words, 0)
    assert pair.events("node.drain-forced")
    await pair.until(lambda: pair.runs("b") == 5, "all of them are placed again")


async def test_a_drain_that_cannot_be_is_refused_with_what_to_do(pair: Members) -> None:
    before = set(pair.by_name["a"].running)
    for fields, kind, words in (
        ({"node": "nine"}, Kind.NOT_FOUND, "there is no node 'nine'"),
        ({"deadline": 0.0}, Kind.INVALID, "deadline: 0 s is not a time to leave; allowed: more than 0 s and at most 30d, or none"),
        ({"parallel": 0}, Kind.INVALID, "parallel: 0 instances at once move nothing, or too much; allowed: 1 to 1000"),
        ({"deadline": 60.0, "no_deadline": True}, Kind.INVALID, "no_deadline: goes with no deadline; allowed: one of both"),
    ):
        error = await refused(nodes_of(pair).Drain(api_pb2.DrainRequest(**({"node": "a"} | fields)), timeout=10))
        assert (error.kind, error.message) == (kind, words)
    assert (pair.state("a"), set(pair.by_name["a"].running)) == ("ready", before)


async def test_of_a_drain_and_its_end_at_once_the_later_one_counts(pair: Members) -> None:
    reply = await nodes_of(pair).Drain(api_pb2.DrainRequest(node="a", deadline=1.0), timeout=10)
    await nodes_of(pair).Uncordon(api_pb2.NodeRequest(node="a"), timeout=10)
    task = await pair.outcome(reply)
    assert (task.state, task.message) == ("superseded", "superseded by uncordon")
    await pair.until(lambda: pair.runs("b") == 0, "what had begun to move is taken back")
    await pair.until_state("a", "ready")
    assert pair.runs("a") == 5
    assert (pair.record("a").drain_until, pair.record("a").parallel) == ("", 0)


async def test_a_node_in_maintenance_may_be_away_and_nothing_is_raised(pair: Members) -> None:
    pair.by_name["b"].broken = frozenset()
    reply = await nodes_of(pair).Maintain(api_pb2.MaintenanceRequest(node="a", reason="new disks"), timeout=10)
    task = await outcome(pair, reply)
    assert (task.kind, task.state) == ("drain", "succeeded")
    await pair.end("a")
    await pair.disconnect("a")
    await pair.until_state("a", "lost")
    (shown,) = (node for node in (await nodes_of(pair).List(api_pb2.ListNodesRequest(), timeout=10)).nodes if node.name == "a")
    assert shown.state == "maintenance"
    assert shown.reason.startswith(
        "a is in maintenance by alice: new disks, until it is ended (gestaltctl node maintenance a --end); it has lost"
    )
    assert not [problem for problem in (await pair.status()).problems if "node a" in problem]
    await nodes_of(pair).Maintain(api_pb2.MaintenanceRequest(node="a", end=True), timeout=10)
    assert [problem for problem in (await pair.status()).problems if "node a is lost" in problem]
    again = await nodes_of(pair).Maintain(api_pb2.MaintenanceRequest(node="a", end=True), timeout=10)
    assert (list(again.tasks), list(again.unchanged)) == ([], ["a"])
    error = await refused(nodes_of(pair).Maintain(api_pb2.MaintenanceRequest(node="b", lasts=0.0), timeout=10))
    assert (error.kind, pair.state("b")) == (Kind.INVALID, "ready")


async def outcome(rig: Members, reply: api_pb2.ChangeReply) -> model_pb2.Task:
    """Wait for the end of a drain, whatever was broken on the other node being healthy by now."""
    await rig.until(lambda: recover(rig, "b") or rig.runs("a") == 0, "nothing is left")
    return await rig.outcome(reply)
