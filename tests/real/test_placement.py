"""Where instances go, under a real leader: labels that operators put on nodes, constraints, spreads, and what is told when nothing fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gestalt.coordinator import decider as deciding
from gestalt.coordinator.advance import Case
from gestalt.errors import Kind
from gestalt.proto.v1 import api_pb2, api_pb2_grpc, model_pb2
from gestalt.wire import spec_to_wire
from tests.real.coordinator_rig import refused
from tests.real.members_rig import Members
from tests.real.zookeeper_lab import Ensemble, until
from tests.unit.coordinator.world import PATH, spec

pytestmark = pytest.mark.real

RACKS = {"a": "r1", "b": "r1", "c": "r2", "d": "r3"}


@pytest.fixture
async def racks(ensemble: Ensemble, tmp_path: Path) -> AsyncIterator[Members]:
    """Four nodes in three racks."""
    rig = Members(tmp_path, ensemble=ensemble)
    await rig.up()
    for name, rack in RACKS.items():
        await rig.node(name)
        await label(rig, name, rack=rack)
    yield rig
    await rig.down()


async def label(rig: Members, node: str, **labels: str) -> None:
    await api_pb2_grpc.NodesStub(rig.channel()).Label(api_pb2.LabelRequest(node=node, put=labels), timeout=10)


async def well(rig: Members, reply: api_pb2.ChangeReply) -> Counter[str]:
    """Wait for the end of a change; return how many instances each node has."""
    task = await rig.outcome(reply)
    assert task.state == "succeeded", task.message
    return Counter({name: len(agent.running) for name, agent in rig.by_name.items() if agent.running})


async def steps_of(rig: Members, reply: api_pb2.ChangeReply) -> dict[str, model_pb2.Step]:
    task = await rig.tasks().Get(api_pb2.GetTaskRequest(id=reply.tasks[0].id), timeout=10)
    return {step.name: step for step in task.steps}


async def test_constraints_and_spreads_look_at_the_labels_of_nodes(racks: Members) -> None:
    placement = {"constraints": [{"attribute": "rack", "operator": "in", "value": "r1,r2"}], "spread": [{"attribute": "rack"}]}
    assert await well(racks, await racks.launch(4, placement=placement)) == {"a": 1, "b": 1, "c": 2}


async def test_what_fits_nowhere_says_why_and_is_placed_once_a_node_is_labelled(racks: Members) -> None:
    reply = await racks.launch(2, placement={"constraints": [{"attribute": "disk", "value": "ssd"}]})
    why = "4 nodes: not disk = ssd (a has no disk, disk = ssd is asked for)"
    await racks.until(lambda: racks.leader and racks.leader.decider.lacks(PATH) == why, "it is told what keeps them away")
    assert (await steps_of(racks, reply))["place"].message == why
    await label(racks, "d", disk="ssd")
    assert await well(racks, reply) == {"d": 2}


async def test_what_keeps_instances_away_is_told_in_fields_by_the_next_leader_as_well(racks: Members) -> None:
    placement = {"constraints": [{"attribute": "rack", "value": "r1"}, {"attribute": "disk", "value": "ssd"}]}
    reply = await racks.launch(2, placement=placement)
    await racks.until(lambda: racks.leader and racks.leader.decider.lacks(PATH), "it is told what keeps them away")
    app = (await racks.get()).app
    found = app.shortage
    assert found.missing == 2
    assert found.message
    assert found.message in app.message
    help_ = "`gestaltctl node label a disk=ssd` says that it is so"
    assert [(item.kind, item.subject, item.nodes, item.nearest, item.has, item.asked, item.help) for item in found.obstacles] == [
        ("constraint", "disk = ssd", 2, "a", "", "ssd", help_),
        ("constraint", "rack = r1", 2, "c", "r2", "r1", ""),
    ]
    task = await racks.tasks().Get(api_pb2.GetTaskRequest(id=reply.tasks[0].id), timeout=10)
    assert task.shortage == found
    (plan,) = (await racks.apps().Plan(api_pb2.PlanRequest(apps=[spec_to_wire(spec(instances=2, placement=placement))]), timeout=10)).apps
    (planned,) = plan.shortages
    assert planned == model_pb2.Shortage(missing=2, obstacles=found.obstacles, message=found.message, version=1)
    await racks.leave_office()
    for name in RACKS:
        await racks.disconnect(name)
    await racks.take_office()
    for name in RACKS:
        await racks.connect(name)

    async def told_again() -> bool:
        return (await racks.get()).app.shortage == found

    await until("the next leader says the same", told_again)
    await label(racks, "b", disk="ssd")
    assert await well(racks, reply) == {"b": 2}
    assert not (await racks.get()).app.HasField("shortage")


async def test_other_apps_are_kept_apart_from_or_sought_by_their_labels(racks: Members) -> None:
    async def apply(name: str, instances: int = 1, labels: dict[str, str] | None = None, **placement: object) -> dict[str, int]:
        """Launch an app; return where it is."""
        asked = spec(path=f"/o/w/e/{name}", instances=instances, labels=labels or {}, ports=[], checks=[], placement=placement)
        await racks.outcome(await racks.apps().Apply(api_pb2.LaunchRequest(apps=[spec_to_wire(asked)]), timeout=10))
        found = await racks.apps().Get(api_pb2.GetRequest(app=asked.path), timeout=10)
        return dict(Counter(item.node for item in found.instances))

    only = {"constraints": [{"attribute": "node.name", "operator": "in", "value": "c"}]}
    assert await apply("db", labels={"tier": "db"}, **only) == {"c": 1}
    assert await apply("web", beside=[{"apps": "tier=db", "weight": 80}]) == {"c": 1}
    assert await apply("batch", 3, {"noisy": "yes"}, apart_from=["tier=db"], strategy="binpack") == {"a": 3}
    assert await apply("quiet", beside=[{"apps": "noisy=yes", "weight": -60}, {"apps": "/o/w/e/web", "weight": -60}]) == {"b": 1}
    asked = spec(
        path="/o/w/e/second", instances=1, labels={"tier": "db"}, ports=[], checks=[], placement=only | {"beside": [{"apps": "tier=db"}]}
    )
    everywhere = spec(path="/o/w/e/third", instances=1, ports=[], checks=[], placement=only | {"apart_from": ["tier=db", "x=y"]})
    plans = (await racks.apps().Plan(api_pb2.PlanRequest(apps=[spec_to_wire(asked), spec_to_wire(everywhere)]), timeout=10)).apps
    assert [item.node for item in plans[0].instances] == ["c"]
    (shortage,) = plans[1].shortages
    assert {(item.kind, item.subject, item.nodes) for item in shortage.obstacles} == {
        ("apart-from", "/o/w/e/db", 1),
        ("constraint", "node.name in c", 3),
    }


async def test_a_plan_says_what_keeps_instances_away(racks: Members) -> None:
    described = spec_to_wire(spec(instances=5, placement={"constraints": [{"attribute": "rack", "operator": "UNIQUE"}]}))
    (plan,) = (await racks.apps().Plan(api_pb2.PlanRequest(apps=[described]), timeout=10)).apps
    assert Counter(item.action for item in plan.instances) == {"start": 3, "cannot place": 2}
    why = "4 nodes: ruled out by unique rack (a is in rack r1, which has 1 of at most 1)"
    assert {item.reason for item in plan.instances if item.reason} == {why}
    assert any(why in warning for warning in plan.warnings)


@pytest.mark.parametrize("fields", [
    {"placement": {"constraints": [{"operator": "unique"}]}},
    {"ports": [{"name": "http", "container_port": 80, "host_port": 3500}]},
])  # fmt: skip
async def test_a_plan_of_an_update_reckons_with_what_it_replaces(racks: Members, fields: dict[str, object]) -> None:
    await well(racks, await racks.launch(4, **fields))
    described = spec_to_wire(spec("web:2", 4, **fields))
    (plan,) = (await racks.apps().Plan(api_pb2.PlanRequest(apps=[described]), timeout=10)).apps
    assert Counter(item.action for item in plan.instances) == {"start": 4, "stop": 4}


async def test_an_update_of_what_is_unique_is_not_in_its_own_way(racks: Members) -> None:
    """The old ones stand on every node that there is."""
    unique = {"constraints": [{"operator": "unique"}]}
    assert set((await well(racks, await racks.launch(4, placement=unique))).values()) == {1}
    assert set((await well(racks, await racks.launch(4, "web:2", placement=unique))).values()) == {1}


async def test_instances_of_others_stay_where_they_are_when_an_app_is_scaled(racks: Members) -> None:
    await well(racks, await racks.launch(4))
    before = {name: set(agent.running) for name, agent in racks.by_name.items()}
    for count in (12, 4):
        await well(racks, await racks.apps().Scale(api_pb2.ScaleRequest(app=PATH, count=count), timeout=10))
    after = {name: set(agent.running) for name, agent in racks.by_name.items()}
    assert after == before


async def test_a_drained_node_has_handed_over_everything(racks: Members) -> None:
    await well(racks, await racks.launch(4))
    nodes = api_pb2_grpc.NodesStub(racks.channel())
    reply = await nodes.Drain(api_pb2.DrainRequest(node="a"), timeout=10)
    task = await racks.outcome(reply)
    assert (task.kind, task.node, task.state, task.message) == ("drain", "a", "succeeded", "nothing runs on a any more")
    assert [(step.name, step.state, step.done, step.total) for step in task.steps] == [("move", "done", 1, 1)]
    assert {name: len(agent.running) for name, agent in racks.by_name.items()}["a"] == 0
    assert racks.state("a") == "drained"
    again = await nodes.Drain(api_pb2.DrainRequest(node="a"), timeout=10)
    assert (list(again.tasks), list(again.unchanged)) == ([], ["a"])
    await nodes.Uncordon(api_pb2.NodeRequest(node="a"), timeout=10)
    await racks.until_state("a", "ready")


async def test_what_would_have_to_stop_first_stays_while_there_is_no_room_elsewhere(racks: Members) -> None:
    """Its fixed host port cannot be had twice on a node, and only one node may take it."""
    fixed = [{"name": "http", "container_port": 80, "host_port": 3500}]
    only = {"constraints": [{"attribute": "rack", "value": "r3"}]}
    assert await well(racks, await racks.launch(1, ports=fixed, placement=only)) == {"d": 1}
    (instance,) = racks.by_name["d"].running
    reply = await api_pb2_grpc.NodesStub(racks.channel()).Drain(api_pb2.DrainRequest(node="d"), timeout=10)
    why = f"waits for {PATH}: 3 nodes: not rack = r3 (a has rack r1, not rack = r3); 1 node: is draining"

    async def waits() -> bool:
        task = await racks.tasks().Get(api_pb2.GetTaskRequest(id=reply.tasks[0].id), timeout=10)
        return task.steps[0].message == why and task.state == "running"

    await until("it says what it waits for", waits)
    assert set(racks.by_name["d"].running) == {instance}
    await label(racks, "c", rack="r3")
    assert (await racks.outcome(reply)).state == "succeeded"
    assert {name for name, agent in racks.by_name.items() if agent.running} == {"c"}


async def test_a_new_leader_goes_on_with_a_drain_and_an_uncordoned_node_ends_it(racks: Members) -> None:
    await well(racks, await racks.launch(4, placement={"constraints": [{"operator": "unique"}]}))
    nodes = api_pb2_grpc.NodesStub(racks.channel())
    reply = await nodes.Drain(api_pb2.DrainRequest(node="a"), timeout=10)
    await racks.leave_office()
    ran = {name: await racks.disconnect(name) for name in RACKS}
    await racks.take_office()
    for name, running_there in ran.items():
        await racks.connect(name)
        racks.by_name[name].running.update(running_there)
    await racks.until_state("a", "draining")
    await racks.until(lambda: racks.leader and racks.leader.decider.lacks(PATH), "it is told what keeps it there")
    assert len(racks.by_name["a"].running) == 1, "the others have one each already"
    nodes = api_pb2_grpc.NodesStub(racks.channel())
    await nodes.Uncordon(api_pb2.NodeRequest(node="a"), timeout=10)
    task = await racks.tasks().Get(api_pb2.GetTaskRequest(id=reply.tasks[0].id), timeout=10)
    assert (task.state, task.message) == ("superseded", "superseded by uncordon")


async def test_an_update_that_would_fit_nowhere_stops_nothing(racks: Members) -> None:
    """It would have to stop first, and the new version asks for more than any node has."""
    fixed = [{"name": "http", "container_port": 80, "host_port": 3500}]
    (home,) = await well(racks, await racks.launch(1, ports=fixed))
    (instance,) = racks.by_name[home].running
    update = {"health_deadline": 2, "progress_deadline": 2}
    task = await racks.outcome(await racks.launch(1, "web:2", ports=fixed, resources={"cpu": 65}, update=update))
    assert task.state == "failed"
    assert task.message.startswith("rolled back to version 1: 4 nodes: too few cores left (a has 64 of 64 cores left, 65 are asked for)")
    assert set(racks.by_name[home].running) == {instance}, "it was never touched"
    assert set(await well(racks, await racks.launch(1, "web:2", ports=fixed, resources={"cpu": 64}))) <= set(RACKS)


async def migrated(rig: Members, source: str = "", target: str = "") -> api_pb2.ChangeReply:
    request = api_pb2.MigrateRequest(app=PATH, from_node=source, to_node=target)
    reply: api_pb2.ChangeReply = await rig.apps().Migrate(request, timeout=10)
    return reply


async def test_a_migration_moves_what_is_asked_for_and_nothing_else(racks: Members) -> None:
    await well(racks, await racks.launch(4))
    before = {name: set(agent.running) for name, agent in racks.by_name.items()}
    after = await well(racks, await migrated(racks, "a", "d"))
    assert after == {"b": 1, "c": 1, "d": 2}
    assert before["d"] < set(racks.by_name["d"].running)
    assert {name: set(racks.by_name[name].running) for name in "bc"} == {name: before[name] for name in "bc"}
    assert await well(racks, await migrated(racks, target="c")) == {"c": 4}
    assert list((await migrated(racks, target="c")).unchanged) == [PATH]
    moved = await well(racks, await migrated(racks, "c"))
    assert "c" not in moved
    assert sum(moved.values()) == 4
    assert racks.leader is not None
    assert racks.leader.ledger.state.apps[PATH].moving == ()


async def test_the_newer_of_two_migrations_wins(racks: Members) -> None:
    await well(racks, await racks.launch(3))
    first = await migrated(racks, target="c")
    assert await well(racks, await migrated(racks, target="d")) == {"d": 3}
    task = await racks.tasks().Get(api_pb2.GetTaskRequest(id=first.tasks[0].id), timeout=10)
    assert task.state == "superseded"


async def test_a_migration_whose_target_goes_away_ends_and_leaves_all_instances_somewhere(racks: Members) -> None:
    await well(racks, await racks.launch(3))
    racks.by_name["d"].broken = frozenset({"web:1"})
    reply = await migrated(racks, target="d")
    await racks.until(lambda: racks.runs("d") == 1, "the first one has begun to move")
    await racks.end("d")
    await racks.disconnect("d")
    task = await racks.outcome(reply)
    assert task.state == "failed"
    assert "d" in task.message
    await racks.until(lambda: racks.runs("a", "b", "c") == 3, "all are where they were")


async def test_a_migration_that_cannot_be_is_refused_with_what_to_do(racks: Members) -> None:
    await well(racks, await racks.launch(3))
    nodes = api_pb2_grpc.NodesStub(racks.channel())
    await nodes.Cordon(api_pb2.NodeRequest(node="d"), timeout=10)
    for source, target, kind, words in (
        ("", "d", Kind.REFUSED, "d is cordoned: nothing is placed there"),
        ("", "", Kind.INVALID, "from_node, to_node: both are missing; allowed: a node to leave, or a node to go to, or both"),
        ("a", "a", Kind.INVALID, "to_node: a is the node to leave; allowed: another node"),
        ("a", "x", Kind.NOT_FOUND, "there is no node 'x'"),
    ):
        error = await refused(migrated(racks, source, target))
        assert (error.kind, error.message) == (kind, words)


async def test_what_would_have_to_stop_first_is_not_migrated_to_where_it_does_not_fit(racks: Members) -> None:
    fixed = [{"name": "http", "container_port": 80, "host_port": 3500}]
    only = {"constraints": [{"attribute": "rack", "operator": "!=", "value": "r3"}]}
    await well(racks, await racks.launch(1, ports=fixed, placement=only))
    before = {name: set(agent.running) for name, agent in racks.by_name.items()}
    task = await racks.outcome(await migrated(racks, target="d"))
    assert task.state == "failed"
    assert "not rack != r3 (d has rack r3" in task.message
    assert {name: set(agent.running) for name, agent in racks.by_name.items()} == before
    (home,) = (name for name, running_there in before.items() if running_there)
    other = next(name for name in "abc" if name != home)
    assert await well(racks, await migrated(racks, target=other)) == {other: 1}


async def test_an_app_that_cannot_be_decided_about_is_tried_again_and_ends_no_leader(
    racks: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert racks.leader is not None
    tried: list[str] = []

    def broken(case: Case, *_: object) -> str:
        tried.append(case.app.path)
        raise RuntimeError("nobody thought of this")

    with monkeypatch.context() as patch:
        patch.setattr(deciding, "_stuck", broken)
        reply = await racks.launch(2)
        await racks.until(lambda: len(tried) > 1, "it is tried again")
    assert sum((await well(racks, reply)).values()) == 2
    assert not racks.failures
