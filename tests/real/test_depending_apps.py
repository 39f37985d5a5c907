"""Apps that depend on others, through the API of a real coordinator."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from gestalt.errors import Kind
from gestalt.proto.v1 import api_pb2, model_pb2
from gestalt.spec.schema import AppSpec
from gestalt.wire import spec_to_wire
from tests.real.coordinator_rig import Rig, eventually, refused
from tests.unit.coordinator.shop import app

DB, WEB = "/org/ws/env/db", "/org/ws/env/web"


@pytest.fixture
async def rig(tmp_path: Path) -> Any:
    rig = Rig(tmp_path)
    await rig.up()
    yield rig
    await rig.down()


def request(*specs: AppSpec) -> api_pb2.LaunchRequest:
    return api_pb2.LaunchRequest(request=api_pb2.Request(id=str(uuid.uuid4())), apps=[spec_to_wire(spec) for spec in specs])


async def shown(rig: Rig, path: str) -> api_pb2.AppReply:
    reply: api_pb2.AppReply = await rig.apps().Get(api_pb2.GetRequest(app=path), timeout=10)
    return reply


async def ended(rig: Rig, task: model_pb2.Task) -> model_pb2.Task:
    seen = [item async for item in rig.tasks().Watch(api_pb2.GetTaskRequest(id=task.id), timeout=20)]
    return seen[-1]


async def test_a_set_starts_in_order_and_says_what_it_waits_for_and_a_new_leader_goes_on(rig: Rig) -> None:
    agent = await rig.agent(broken=frozenset({"db:1"}))
    reply = await rig.apps().Launch(request(app("web", "db", image="web:1"), app("db", image="db:1")), timeout=10)
    assert [task.app for task in reply.tasks] == [DB, WEB]
    waits = f"waits for {DB}, of which 0 of 1 instances are healthy"
    await eventually(lambda: len(agent.running) == 1, "the database is started")
    web = await shown(rig, WEB)
    assert (web.app.state, web.app.message, len(web.instances)) == ("deploying", f"launch: {waits}", 0)
    task = await rig.tasks().Get(api_pb2.GetTaskRequest(id=reply.tasks[1].id), timeout=10)
    assert (task.steps[0].name, task.steps[0].message) == ("dependencies", waits)
    await rig.down()
    await rig.up()
    agent = await rig.agent(broken=frozenset({"db:1"}))
    await eventually(lambda: len(agent.running) == 1, "the database is started again")
    assert len((await shown(rig, WEB)).instances) == 0
    await rig.apps().Apply(request(app("db", image="db:2")), timeout=10)
    assert (await ended(rig, reply.tasks[1])).state == "succeeded"


async def test_mistakes_are_refused_and_nothing_changes(rig: Rig) -> None:
    await rig.agent()
    error = await refused(rig.apps().Launch(request(app("web", "db")), timeout=10))
    assert (error.kind, error.details[0].field) == (Kind.INVALID, "depends_on[0]")
    error = await refused(rig.apps().Launch(request(app("web", "db"), app("db", "web")), timeout=10))
    assert error.details[0].problem == f"makes a cycle: {WEB} -> {DB} -> {WEB}"
    assert error.details[0].field == "apps[0].depends_on[0]"
    assert len((await rig.apps().List(api_pb2.ListRequest(), timeout=10)).apps) == 0
    plan = await rig.apps().Plan(api_pb2.PlanRequest(apps=request(app("web", "db")).apps), timeout=10)
    assert f"depends_on[0]: there is no app {DB}; the change will be refused" in plan.apps[0].warnings
    plan = await rig.apps().Plan(api_pb2.PlanRequest(apps=request(app("web", "db"), app("db")).apps), timeout=10)
    assert [item.app for item in plan.apps] == [DB, WEB]
    assert f"nothing of it is started before {DB} is healthy" in plan.apps[1].notes


async def test_a_dependency_is_deleted_by_force_only(rig: Rig) -> None:
    await rig.agent()
    reply = await rig.apps().Launch(request(app("web", "db"), app("db")), timeout=10)
    assert (await ended(rig, reply.tasks[1])).state == "succeeded"
    error = await refused(rig.apps().Delete(api_pb2.DeleteRequest(app=DB), timeout=10))
    assert (error.kind, error.message) == (Kind.REFUSED, f"{DB} is not deleted: {WEB} depends on it")
    reply = await rig.apps().Delete(api_pb2.DeleteRequest(app=DB, force=True), timeout=10)
    assert (await ended(rig, reply.tasks[0])).state == "succeeded"


async def test_a_system_app_waits_and_is_waited_for_like_any_other(rig: Rig) -> None:
    await rig.agent(broken=frozenset({"db:1"}))
    everywhere = AppSpec.model_validate({"path": "/org/ws/env/agent", "kind": "system", "image": "agent:1", "depends_on": [DB]})
    web = app("web", "agent", image="web:1")
    reply = await rig.apps().Launch(request(web, everywhere, app("db", image="db:1")), timeout=10)
    assert [task.app for task in reply.tasks] == [DB, "/org/ws/env/agent", WEB]

    async def says(path: str, sentence: str) -> None:
        await rig.until_shown(sentence, lambda reply: sentence in reply.app.message, path)

    await says("/org/ws/env/agent", f"waits for {DB}, of which 0 of 1 instances are healthy")
    await says(WEB, "waits for /org/ws/env/agent, ")
    assert not (await shown(rig, "/org/ws/env/agent")).instances
    await rig.apps().Apply(request(app("db", image="db:2")), timeout=10)
    for task in reply.tasks[1:]:
        assert (await ended(rig, task)).state == "succeeded"
