"""Canaries, pauses and cancels through the API of a real coordinator: what is told of them, and who gets requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gestalt.errors import Kind
from gestalt.proto.v1 import api_pb2, api_pb2_grpc, model_pb2
from gestalt.wire import spec_to_wire
from tests.real.coordinator_rig import Rig, refused
from tests.unit.coordinator.world import PATH, spec

CANARY = {"strategy": "canary", "canary": "30%"}


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    await rig.up()
    await rig.agent()
    await rig.outcome(await rig.launch())
    yield rig
    await rig.down()


def steering(rig: Rig) -> api_pb2_grpc.ChangesStub:
    return api_pb2_grpc.ChangesStub(rig.channel())


APP = api_pb2.AppRequest(app=PATH)


def is_waiting(reply: api_pb2.AppReply) -> bool:
    return "waits for `gestaltctl promote" in reply.app.canary


async def task(rig: Rig, identity: str) -> model_pb2.Task:
    found: model_pb2.Task = await rig.tasks().Get(api_pb2.GetTaskRequest(id=identity), timeout=10)
    return found


async def test_a_canary_says_everywhere_that_it_waits_and_gets_requests(rig: Rig) -> None:
    update = await rig.launch(4, "web:2", update=CANARY)
    reply = await rig.until_shown("two healthy canaries", lambda reply: is_waiting(reply) and reply.app.healthy == 6)
    assert reply.app.canary.startswith("canary: 2 of 2 healthy for ")
    assert (reply.app.state, reply.app.message) == ("deploying", reply.app.canary)
    assert (reply.app.version, reply.app.canary_version, reply.app.task) == (1, 2, update.tasks[0].id)
    assert sorted((item.version, item.canary) for item in reply.instances) == [(1, False)] * 4 + [(2, True)] * 2
    servers = rig.agents[0].state.routes[f"{PATH}:http"].servers
    assert len(servers) == 6
    assert not any(server.drain for server in servers)
    shown = await task(rig, update.tasks[0].id)
    assert [(step.name, step.state) for step in shown.steps] == [
        ("canary place", "done"),
        ("canary start", "done"),
        ("canary healthy", "done"),
        ("promote", "running"),
    ]
    assert shown.steps[-1].message.startswith("canary: 2 of 2 healthy for ")
    history = (await rig.apps().History(api_pb2.GetRequest(app=PATH))).versions
    assert [(version.number, version.current, version.canary) for version in history] == [(2, False, True), (1, True, False)]
    status = await api_pb2_grpc.ClusterStub(rig.channel()).Status(api_pb2.StatusRequest())
    assert (status.state, status.tasks_running) == ("well", 1)


async def test_promote_returns_the_task_of_the_update_and_ends_it(rig: Rig) -> None:
    update = await rig.launch(3, "web:2", update=CANARY)
    await rig.until_shown("a canary that waits", is_waiting)
    promotion = await steering(rig).Promote(APP, timeout=10)
    assert promotion.tasks[0].id == update.tasks[0].id
    done = await rig.outcome(promotion)
    assert (done.state, done.message) == ("succeeded", "3 instances of version 2 are healthy")
    reply = await rig.get()
    assert (reply.app.state, reply.app.version, reply.app.canary, reply.app.canary_version) == ("running", 2, "", 0)


async def test_a_canary_outlives_its_coordinator(rig: Rig) -> None:
    await rig.launch(3, "web:2", update=CANARY)
    await rig.until_shown("a canary that waits", is_waiting)
    port = rig.port
    await rig.down()
    rig.port = port
    await rig.up()
    agent = await rig.agent()
    assert agent is rig.agents[0]
    await rig.until_shown("a canary that waits", is_waiting)
    assert (await rig.outcome(await steering(rig).Promote(APP, timeout=10))).state == "succeeded"


async def test_promote_is_refused_until_the_canary_is_well(rig: Rig) -> None:
    assert (await refused(steering(rig).Promote(APP, timeout=10))).message == f"{PATH} has no canary"
    rig.agents[0].broken = frozenset({"web:2"})
    await rig.launch(3, "web:2", update=CANARY)
    error = await refused(steering(rig).Promote(APP, timeout=10))
    assert error.kind is Kind.REFUSED
    assert error.message == f"version 2 of {PATH} cannot be promoted yet: 0 of 1 canary is healthy"


async def test_cancel_drops_the_canary_and_the_update_gives_way(rig: Rig) -> None:
    update = await rig.launch(3, "web:2", update=CANARY)
    await rig.until_shown("a canary that waits", is_waiting)
    cancelled = await rig.outcome(await steering(rig).Cancel(APP, timeout=10))
    assert (cancelled.kind, cancelled.state, cancelled.message) == ("cancel", "succeeded", "3 instances of version 1 are healthy")
    assert (await task(rig, update.tasks[0].id)).state == "superseded"
    assert sorted(item.version for item in (await rig.get()).instances) == [1, 1, 1]


async def test_a_paused_change_says_so_and_goes_on_when_it_is_resumed(rig: Rig) -> None:
    rig.agents[0].broken = frozenset({"web:2"})
    update = await rig.launch(3, "web:2")
    await rig.until_shown("the canary", lambda reply: len(reply.instances) == 4)
    paused = await steering(rig).Pause(APP, timeout=10)
    assert paused.tasks[0].id == update.tasks[0].id
    told = f"paused by alice: nothing is started or stopped for it until `gestaltctl resume {PATH}`"
    app = (await rig.until_shown("the pause", lambda reply: told in reply.app.message)).app
    assert (app.state, app.message, app.paused) == ("deploying", f"update: {told}", "by alice")
    assert ("paused", told) in [(step.name, step.message) for step in (await task(rig, update.tasks[0].id)).steps]
    assert list((await steering(rig).Pause(APP, timeout=10)).unchanged) == [PATH]
    cancelled = await rig.outcome(await steering(rig).Cancel(APP, timeout=10))
    assert cancelled.state == "succeeded"
    assert (await refused(steering(rig).Pause(APP, timeout=10))).message == f"no change of {PATH} is under way"


async def _plan(rig: Rig, image: str, count: int, **update: Any) -> api_pb2.AppPlan:
    message = spec_to_wire(spec(image, count, **({"update": update} if update else {})))
    (plan,) = (await rig.apps().Plan(api_pb2.PlanRequest(apps=[message]))).apps
    found: api_pb2.AppPlan = plan
    return found


def actions(plan: api_pb2.AppPlan) -> list[tuple[str, int]]:
    return [(item.action, item.version) for item in plan.instances]


async def test_plan_says_what_becomes_of_a_canary(rig: Rig) -> None:
    first = await _plan(rig, "web:2", 4, **CANARY)
    assert actions(first) == [("keep", 1)] * 3 + [("start", 1)] + [("start", 2)] * 2
    (note,) = first.notes
    assert note.startswith("2 canaries are started beside version 1, and take a share of the requests; version 1 is replaced only when")
    by_itself = await _plan(rig, "web:2", 3, **CANARY, promote="auto", promote_after=60)
    assert "promoted, after 1m in health, or by `gestaltctl promote" in by_itself.notes[0]
    await rig.launch(3, "web:2", update=CANARY)
    await rig.until_shown("a canary that waits", is_waiting)
    again = await _plan(rig, "web:2", 3, **CANARY)
    assert (again.action, actions(again)) == ("none", [("keep", 1)] * 3 + [("keep", 2)])
    back = await _plan(rig, "web:1", 3)
    assert (back.action, list(back.notes)) == ("update", ["the canary of version 2 is dropped"])
    assert actions(back) == [("keep", 1)] * 3 + [("stop", 2)]
    other = await _plan(rig, "web:3", 3)
    assert list(other.notes) == ["the canary of version 2 is dropped"]
    assert actions(other) == [("start", 3)] * 3 + [("stop", 1)] * 3 + [("stop", 2)]
