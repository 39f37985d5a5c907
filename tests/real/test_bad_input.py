"""What cannot be, asked of a real leader: what is told, and that nothing was touched; each with what the way out is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gestalt.errors import GestaltError, Kind
from gestalt.proto.v1 import api_pb2, api_pb2_grpc, spec_pb2
from gestalt.wire import spec_to_wire
from tests.real.coordinator_rig import refused
from tests.real.members_rig import Members
from tests.real.zookeeper_lab import Ensemble, until
from tests.unit.coordinator.world import PATH, spec

pytestmark = pytest.mark.real

SOON = {"health_deadline": 2, "progress_deadline": 2}
Wrong = Callable[[spec_pb2.AppSpec], object]


@pytest.fixture
async def rig(ensemble: Ensemble, tmp_path: Path) -> AsyncIterator[Members]:
    """Three nodes, of which a is in rack r1."""
    made = Members(tmp_path, ensemble=ensemble)
    await made.up()
    for name in "abc":
        await made.node(name)
    await label(made, "a", "r1")
    yield made
    await made.down()


async def label(rig: Members, node: str, rack: str) -> None:
    await nodes_of(rig).Label(api_pb2.LabelRequest(node=node, put={"rack": rack}), timeout=10)


def nodes_of(rig: Members) -> api_pb2_grpc.NodesStub:
    return api_pb2_grpc.NodesStub(rig.channel())


async def well(rig: Members, reply: api_pb2.ChangeReply) -> dict[str, set[str]]:
    """Wait for the end of a change; return what runs where."""
    task = await rig.outcome(reply)
    assert task.state == "succeeded", task.message
    return at_work(rig)


def at_work(rig: Members) -> dict[str, set[str]]:
    return {name: set(agent.running) for name, agent in rig.by_name.items() if agent.running}


def racks(*constraints: str) -> dict[str, object]:
    """A placement that asks for a rack to be all of these."""
    return {"constraints": [{"attribute": "rack", "value": value} for value in constraints]}


# -- impossible constraints --

WHY = "2 nodes: not rack = r1 (b has no rack, rack = r1 is asked for); 1 node: not rack = r2 (a has rack r1, not rack = r2)"


async def test_a_launch_with_impossible_constraints_fails_in_time_and_begins_when_they_hold(rig: Members) -> None:
    task = await rig.outcome(await rig.launch(2, placement=racks("r1", "r2"), update=SOON))
    assert (task.state, task.message) == ("failed", WHY)
    assert at_work(rig) == {}
    shown = (await rig.get()).app
    assert (shown.state, shown.message) == ("failed", f"0 of 2 instances are healthy: {WHY}")
    assert set(await well(rig, await rig.launch(2, placement=racks("r1"), update=SOON))) == {"a"}


async def test_what_could_not_be_placed_is_when_the_constraint_holds_at_last(rig: Members) -> None:
    task = await rig.outcome(await rig.launch(1, placement=racks("r3"), update=SOON))
    assert task.state == "failed"
    await label(rig, "c", "r3")
    await rig.until(lambda: rig.runs("c") == 1, "it is placed though its launch had failed")


@pytest.mark.parametrize("strategy", ["rolling", "blue_green", "canary"])
async def test_an_update_to_impossible_constraints_goes_back_and_nothing_was_touched(rig: Members, strategy: str) -> None:
    before = await well(rig, await rig.launch(3))
    task = await rig.outcome(await rig.launch(3, "web:2", placement=racks("r1", "r2"), update={**SOON, "strategy": strategy}))
    assert task.state == "failed"
    assert WHY in task.message
    assert at_work(rig) == before
    app = (await rig.get()).app
    assert (app.version, app.canary_version, app.state) == (1, 0, "running")


# -- contradictory percentages, deadlines that are too short --


def percent(surge: str, unavailable: str) -> Wrong:
    def change(app: spec_pb2.AppSpec) -> None:
        app.update.max_surge, app.update.max_unavailable = surge, unavailable

    return change


def shares(app: spec_pb2.AppSpec) -> None:
    app.placement.spread.add(attribute="rack", weight=50, targets={"r1": 60, "r2": 60})


def too_many_canaries(app: spec_pb2.AppSpec) -> None:
    app.update.strategy, app.update.canary = "canary", "110%"


def too_soon(app: spec_pb2.AppSpec) -> None:
    app.checks[0].grace, app.update.health_deadline = 30, 20


def too_soon_altogether(app: spec_pb2.AppSpec) -> None:
    app.update.health_deadline, app.update.progress_deadline = 60, 30


def never_long_enough(app: spec_pb2.AppSpec) -> None:
    app.update.health_deadline, app.update.progress_deadline, app.update.min_healthy_time = 10, 30, 30


NOBODY = "is 0, as max_unavailable is: no instance could ever be replaced"


@pytest.mark.parametrize(("wrong", "field", "problem"), [
    (percent("0", "0"), "update.max_surge", NOBODY),
    (percent("0%", "0%"), "update.max_surge", NOBODY),
    (percent("120%", "0"), "update.max_surge", "is '120%'"),
    (shares, "placement.spread[0].targets", "come to 120 percent"),
    (too_many_canaries, "update.canary", "is '110%'"),
    (too_soon, "update.health_deadline", "is 20s"),
    (too_soon_altogether, "update.progress_deadline", "is 30s"),
    (never_long_enough, "update.min_healthy_time", "is 30s"),
])  # fmt: skip
async def test_what_contradicts_itself_is_refused_with_what_is_allowed_and_changes_nothing(
    rig: Members, wrong: Wrong, field: str, problem: str
) -> None:
    before, app = await well(rig, await rig.launch(3)), (await rig.get()).app
    described = spec_to_wire(spec("web:2", 3))
    wrong(described)
    for call in (rig.apps().Apply, rig.apps().Update):
        error = await refused(call(api_pb2.LaunchRequest(apps=[described]), timeout=10))
        assert error.kind is Kind.INVALID
        (detail,) = error.details
        assert (detail.field.removeprefix("apps[0]."), detail.problem) == (field, problem)
        assert detail.allowed
    assert (at_work(rig), (await rig.get()).app.revision) == (before, app.revision)


async def test_percentages_that_come_to_nothing_replace_one_by_one(rig: Members) -> None:
    """A quarter of two, rounded down, is none; without anything more, nothing could ever be replaced."""
    await well(rig, await rig.launch(2))
    update = {"max_surge": "0", "max_unavailable": "25%"}
    least = asyncio.create_task(_fewest(rig))
    after = await well(rig, await rig.launch(2, "web:2", update=update))
    assert sum(map(len, after.values())) == 2
    least.cancel()
    assert (await asyncio.gather(least))[0] >= 2


async def _fewest(rig: Members) -> int:
    """Return how few instances served at any moment, until it is cancelled."""
    fewest = 2
    try:
        while True:
            fewest = min(fewest, sum(seen.ready for agent in rig.by_name.values() for seen in agent.running.values()))
            await asyncio.sleep(0.005)
    except asyncio.CancelledError:
        return fewest


# -- cycles of dependencies --


async def test_a_cycle_is_refused_whole_and_changes_nothing(rig: Members) -> None:
    before = await well(rig, await rig.launch(1))
    other = "/org/ws/env/db"
    needs = {PATH: other, other: PATH}
    apps = [spec_to_wire(spec("web:2", 1, path=path, ports=[], checks=[], depends_on=[need])) for path, need in needs.items()]
    error = await refused(rig.apps().Apply(api_pb2.LaunchRequest(apps=apps), timeout=10))
    assert (error.kind, error.details[0].field) == (Kind.INVALID, "apps[0].depends_on[0]")
    assert error.details[0].problem == f"makes a cycle: {PATH} -> {other} -> {PATH}"
    assert at_work(rig) == before
    assert [app.path for app in (await rig.apps().List(api_pb2.ListRequest(), timeout=10)).apps] == [PATH]


# -- an update to a broken image --


@pytest.mark.parametrize("strategy", ["rolling", "blue_green", "recreate", "canary"])
async def test_an_update_to_a_broken_image_goes_back_and_says_why(rig: Members, strategy: str) -> None:
    await well(rig, await rig.launch(2))
    for agent in rig.by_name.values():
        agent.broken = frozenset({"web:bad"})
    task = await rig.outcome(await rig.launch(2, "web:bad", update={**SOON, "strategy": strategy}))
    assert task.state == "failed"
    assert "an instance did not become healthy within 2 s: " in task.message
    told = "version 1 was not touched" if strategy == "canary" else "rolled back to version 1: "
    assert told in task.message
    app = (await rig.get()).app
    assert (app.version, app.healthy, app.state) == (1, 2, "running")


# -- the drain of the last node that fits --


async def test_the_drain_of_the_last_node_that_fits_waits_and_says_for_what(rig: Members) -> None:
    before = await well(rig, await rig.launch(2, placement=racks("r1")))
    assert set(before) == {"a"}
    reply = await nodes_of(rig).Drain(api_pb2.DrainRequest(node="a"), timeout=10)
    why = f"waits for {PATH}: 2 nodes: not rack = r1 (b has no rack, rack = r1 is asked for); 1 node: is draining"

    async def waits() -> bool:
        task = await rig.tasks().Get(api_pb2.GetTaskRequest(id=reply.tasks[0].id), timeout=10)
        return (task.state, task.steps[0].message) == ("running", why)

    await until("it says what it waits for", waits)
    assert at_work(rig) == before
    await label(rig, "b", "r1")
    assert set(await well(rig, reply)) == {"b"}


# -- a migration to a cordoned node --


async def test_a_migration_to_a_cordoned_node_is_refused_and_changes_nothing(rig: Members) -> None:
    before = await well(rig, await rig.launch(2))
    await nodes_of(rig).Cordon(api_pb2.NodeRequest(node="c"), timeout=10)
    app = (await rig.get()).app
    error = await refused(rig.apps().Migrate(api_pb2.MigrateRequest(app=PATH, to_node="c"), timeout=10))
    assert (error.kind, error.message) == (Kind.REFUSED, "c is cordoned: nothing is placed there")
    assert error.hint == "let it take instances again: gestaltctl node uncordon c"
    assert (at_work(rig), (await rig.get()).app.revision) == (before, app.revision)


async def test_a_migration_whose_target_is_cordoned_meanwhile_fails_and_what_has_not_moved_stays(rig: Members) -> None:
    await well(rig, await rig.launch(2, placement={"constraints": [{"attribute": "node.name", "operator": "!=", "value": "b"}]}))
    before = at_work(rig)
    rig.by_name["c"].broken = frozenset({"web:1"})
    stays = before["a"]
    reply = await rig.apps().Migrate(api_pb2.MigrateRequest(app=PATH, from_node="a", to_node="c"), timeout=10)
    await rig.until(lambda: rig.runs("c") == 2, "it has begun")
    await nodes_of(rig).Cordon(api_pb2.NodeRequest(node="c"), timeout=10)
    task = await rig.outcome(reply)
    assert (task.state, task.message) == ("failed", "node c takes no instances any more")
    await rig.until(lambda: at_work(rig) == before, "what had begun is taken back")
    assert rig.by_name["a"].running.keys() == stays


async def test_a_migration_of_a_canary_whose_target_is_cordoned_meanwhile_fails_and_the_canary_goes_on(rig: Members) -> None:
    await well(rig, await rig.launch(2))
    update = await rig.launch(2, "web:2", update={"strategy": "canary"})
    await rig.until(lambda: rig.runs("a", "b", "c") == 3, "the canary is there")
    (canary,) = [item for item in (await rig.get()).instances if item.canary]
    target = next(name for name in "abc" if name != canary.node)
    rig.by_name[target].broken = frozenset({"web:2"})
    before = at_work(rig)
    reply = await rig.apps().Migrate(api_pb2.MigrateRequest(app=PATH, from_node=canary.node, to_node=target), timeout=10)
    await rig.until(lambda: rig.runs(target) > len(before.get(target, ())), "it has begun")
    await nodes_of(rig).Cordon(api_pb2.NodeRequest(node=target), timeout=10)
    task = await rig.outcome(reply)
    assert (task.state, task.message) == ("failed", f"node {target} takes no instances any more")
    await rig.until(lambda: at_work(rig) == before, "what had begun is taken back")
    trial = await rig.tasks().Get(api_pb2.GetTaskRequest(id=update.tasks[0].id), timeout=10)
    assert trial.state == "running"


# -- two opposite requests at once --

OPPOSITES: list[tuple[str, Callable[[Members, int], object], Callable[[Members, int], object]]] = [
    ("scale", lambda rig, revision: scale(rig, 6, revision), lambda rig, revision: scale(rig, 1, revision)),
    ("stop", lambda rig, revision: verb(rig, "Stop", revision), lambda rig, revision: verb(rig, "Restart", revision)),
]


def scale(rig: Members, count: int, revision: int) -> object:
    request = api_pb2.Request(expected_version=revision)
    return rig.apps().Scale(api_pb2.ScaleRequest(request=request, app=PATH, count=count), timeout=10)


def verb(rig: Members, name: str, revision: int) -> object:
    return getattr(rig.apps(), name)(api_pb2.AppRequest(request=api_pb2.Request(expected_version=revision), app=PATH), timeout=10)


async def answered(call: object) -> api_pb2.ChangeReply | GestaltError:
    async def asked() -> api_pb2.ChangeReply:
        reply: api_pb2.ChangeReply = await call  # type: ignore[misc]
        return reply

    task = asyncio.ensure_future(asked())
    await asyncio.wait([task])
    return task.result() if task.exception() is None else await refused(task)


async def test_of_two_opposite_requests_at_once_the_later_one_counts_and_the_other_is_told(rig: Members) -> None:
    await well(rig, await rig.launch(3))
    replies = await asyncio.gather(answered(scale(rig, 6, 0)), answered(scale(rig, 1, 0)))
    tasks = [await rig.outcome(reply) for reply in replies if isinstance(reply, api_pb2.ChangeReply)]
    assert sorted(task.state for task in tasks) == ["succeeded", "superseded"]
    (won,), (lost,) = ([task for task in tasks if task.state == state] for state in ("succeeded", "superseded"))
    assert lost.message == f"superseded by scale (task {won.id})"
    wanted = (await rig.get()).app.count
    assert won.message == (f"{wanted} instances of version 1 are healthy" if wanted > 1 else "1 instance of version 1 is healthy")
    await rig.until(lambda: sum(map(len, at_work(rig).values())) == wanted, "so many are at work")


@pytest.mark.parametrize(("one", "other"), [item[1:] for item in OPPOSITES], ids=[item[0] for item in OPPOSITES])
async def test_of_two_that_name_the_same_revision_one_is_refused(
    rig: Members, one: Callable[[Members, int], object], other: Callable[[Members, int], object]
) -> None:
    await well(rig, await rig.launch(3))
    revision = (await rig.get()).app.revision
    replies = await asyncio.gather(answered(one(rig, revision)), answered(other(rig, revision)))
    (error,) = (reply for reply in replies if isinstance(reply, GestaltError))
    (reply,) = (reply for reply in replies if isinstance(reply, api_pb2.ChangeReply))
    assert error.kind is Kind.CONFLICT
    assert error.message.startswith(f"{PATH} is at revision ")
    assert error.message.endswith(f", not {revision}")
    assert (await rig.outcome(reply)).state == "succeeded"


async def test_of_two_opposite_migrations_at_once_the_later_one_counts_and_nothing_is_lost(rig: Members) -> None:
    await well(rig, await rig.launch(2, placement={"constraints": [{"attribute": "node.name", "operator": "!=", "value": "b"}]}))
    moves = {to: rig.apps().Migrate(api_pb2.MigrateRequest(app=PATH, to_node=to), timeout=10) for to in "ac"}
    replies = dict(zip(moves, await asyncio.gather(*map(answered, moves.values())), strict=True))
    tasks = {to: await rig.outcome(reply) for to, reply in replies.items() if isinstance(reply, api_pb2.ChangeReply)}
    (winner,) = (to for to, task in tasks.items() if task.state == "succeeded")
    (lost,) = (task for to, task in tasks.items() if to != winner)
    assert (lost.state, lost.message) == ("superseded", f"superseded by migrate (task {tasks[winner].id})")
    await rig.until(lambda: {name: len(running) for name, running in at_work(rig).items()} == {winner: 2}, "all are where it said")
