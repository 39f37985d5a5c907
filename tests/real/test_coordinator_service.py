"""The coordinator as a whole: real gRPC, mutual TLS and store; only the instances are simulated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from gestalt.errors import GestaltError, Kind
from gestalt.pki import Role
from gestalt.proto.v1 import api_pb2, api_pb2_grpc
from gestalt.wire import spec_to_wire
from tests.real.coordinator_rig import Rig, eventually, refused
from tests.unit.coordinator.world import PATH, spec


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    await rig.up()
    yield rig
    await rig.down()


async def test_launch_to_healthy_and_delete_to_nothing(rig: Rig) -> None:
    agent = await rig.agent()
    task = await rig.outcome(await rig.launch())
    assert (task.state, task.message) == ("succeeded", "3 instances of version 1 are healthy")
    assert [(step.name, step.state) for step in task.steps] == [
        ("place", "done"),
        ("start", "done"),
        ("healthy", "done"),
        ("stop others", "done"),
    ]
    reply = await rig.get()
    assert (reply.app.state, reply.app.healthy, len(reply.instances)) == ("running", 3, 3)
    assert set(agent.state.routes) == {f"{PATH}:http"}
    assert {server.instance for server in agent.state.routes[f"{PATH}:http"].servers} == set(agent.running)
    assert (await rig.outcome(await rig.apps().Delete(api_pb2.AppRequest(app=PATH)))).state == "succeeded"
    await eventually(
        lambda: not agent.state.instances and not agent.state.routes and not agent.state.templates, "the node is told of nothing"
    )
    assert (await refused(rig.get())).kind is Kind.NOT_FOUND


async def test_a_launch_waits_for_a_node_and_says_so(rig: Rig) -> None:
    reply = await rig.launch()
    assert any("3 of 3 instances cannot be placed now: no node has joined yet" in warning for warning in reply.warnings)
    app = (await rig.get()).app
    assert "no node has joined yet" in app.message
    await rig.agent()
    assert (await rig.outcome(reply)).state == "succeeded"


async def test_update_and_failed_update(rig: Rig) -> None:
    agent = await rig.agent(broken=frozenset({"web:bad"}))
    await rig.outcome(await rig.launch())
    task = await rig.outcome(await rig.launch(image="web:2"))
    assert task.state == "succeeded"
    await eventually(lambda: {item.version for item in agent.state.instances.values()} == {2}, "the node is told of version 2 alone")
    task = await rig.outcome(await rig.launch(image="web:bad", update={"health_deadline": 1}))
    assert task.state == "failed"
    assert task.message.startswith("rolled back to version 2: an instance did not become healthy within 1 s")
    assert "check http-1: connection refused" in task.message
    history = await rig.apps().History(api_pb2.GetRequest(app=PATH))
    assert [(item.number, item.current, item.stable) for item in history.versions] == [
        (3, False, False),
        (2, True, True),
        (1, False, False),
    ]
    assert [change.field for change in history.versions[0].changes] == ["image", "update.health_deadline"]


async def test_a_new_coordinator_goes_on_where_the_old_one_stopped(rig: Rig) -> None:
    agent = await rig.agent()
    await rig.outcome(await rig.launch(identity="launch-1"))
    running = dict(agent.running)
    await rig.down()
    await rig.up()
    before = await rig.get()
    assert before.app.count == 3, "it knows everything before it has heard an agent"
    assert (await rig.launch(identity="launch-1")).tasks, "a retry is answered as the first time"
    agent = await rig.agent(running=running)
    await eventually(lambda: len(agent.state.instances) == 3, "the agent is told")
    assert agent.running == running, "nothing was restarted"
    assert agent.welcome is not None
    assert agent.welcome.epoch == 2
    assert agent.received[:2] == ["welcome", "full"]


async def test_stopped_in_mid_update_it_is_finished_by_the_next_one(rig: Rig) -> None:
    agent = await rig.agent(stuck=True)
    await rig.outcome(await rig.launch())
    reply = await rig.launch(image="web:2")
    await eventually(lambda: any(item.stop for item in agent.state.instances.values()), "the first old one is to stop")
    running = dict(agent.running)
    await rig.down()
    await rig.up()
    await rig.agent(running=running)
    assert (await rig.outcome(reply)).state == "succeeded"
    assert {item.version for item in (await rig.get()).instances} == {2}


async def test_the_loss_of_the_stream_stops_nothing(rig: Rig) -> None:
    agent = await rig.agent()
    await rig.outcome(await rig.launch())
    await agent.stop()
    nodes = api_pb2_grpc.NodesStub(rig.channel())
    state = ""
    async with asyncio.timeout(10):
        while state != "unreachable":
            state = (await nodes.List(api_pb2.ListNodesRequest())).nodes[0].state
    reply = await rig.get()
    assert [item.serial for item in reply.instances] == [1, 2, 3]
    assert not any(item.stopping for item in reply.instances)
    status = await api_pb2_grpc.ClusterStub(rig.channel()).Status(api_pb2.StatusRequest())
    assert status.state == "degraded"
    assert list(status.problems) == ["node node-1 is unreachable: it is not connected"]


async def test_every_change_takes_a_request_id_once(rig: Rig) -> None:
    await rig.agent()
    first = await rig.launch(identity="x")
    assert (await rig.launch(identity="x")).tasks[0].id == first.tasks[0].id
    error = await refused(rig.launch(identity="x", instances=9))
    assert error.kind is Kind.EXISTS
    assert "used for another request" in error.message


async def test_invalid_descriptions_are_refused_with_every_mistake(rig: Rig) -> None:
    message = spec_to_wire(spec())
    message.path = "/../../etc/passwd"
    message.ports[0].container_port = 70000
    error = await refused(rig.apps().Launch(api_pb2.LaunchRequest(apps=[message])))
    assert error.kind is Kind.INVALID
    assert {detail.field for detail in error.details} >= {"apps[0].path", "apps[0].ports[0].container_port"}


async def test_several_apps_are_launched_all_or_none(rig: Rig) -> None:
    await rig.launch()
    other = spec_to_wire(spec().model_copy(update={"path": "/org/ws/env/other", "ports": (), "checks": ()}))
    error = await refused(rig.apps().Launch(api_pb2.LaunchRequest(apps=[other, spec_to_wire(spec())])))
    assert error.kind is Kind.EXISTS
    assert [app.path for app in (await rig.apps().List(api_pb2.ListRequest())).apps] == [PATH]


async def test_a_service_of_another_app_is_not_taken(rig: Rig) -> None:
    await rig.agent()
    await rig.outcome(await rig.launch())
    thief = spec_to_wire(spec().model_copy(update={"path": "/org/ws/env/thief"}))
    (plan,) = (await rig.apps().Plan(api_pb2.PlanRequest(apps=[thief]))).apps
    assert any(f"http any host / belongs to {PATH}; the change will be refused" in warning for warning in plan.warnings)
    error = await refused(rig.apps().Launch(api_pb2.LaunchRequest(apps=[thief])))
    assert error.kind is Kind.CONFLICT
    assert error.details[0].field == "ports[0].http"
    await rig.outcome(await rig.apps().Stop(api_pb2.AppRequest(app=PATH)))
    await rig.outcome(await rig.apps().Launch(api_pb2.LaunchRequest(apps=[thief])))
    assert (await refused(rig.apps().Start(api_pb2.AppRequest(app=PATH)))).kind is Kind.CONFLICT


async def test_what_was_not_heard_yet_is_unknown_and_not_failed(rig: Rig) -> None:
    await rig.agent()
    await rig.outcome(await rig.launch())
    await rig.down()
    await rig.up()
    assert (await rig.get()).app.state == "unknown"
    status = await api_pb2_grpc.ClusterStub(rig.channel()).Status(api_pb2.StatusRequest())
    assert (status.state, list(status.problems)) == (
        "degraded",
        ["node node-1 is unreachable: it is not connected", f"{PATH}: its node has not reported yet"],
    )


async def test_plan_tells_what_would_change_and_changes_nothing(rig: Rig) -> None:
    await rig.agent()
    await rig.outcome(await rig.launch())
    wanted = spec_to_wire(spec("web:2", 4))
    (plan,) = (await rig.apps().Plan(api_pb2.PlanRequest(apps=[wanted]))).apps
    assert plan.action == "update"
    assert [change.field for change in plan.changes] == ["image", "instances"]
    assert [item.action for item in plan.instances] == ["start"] * 4 + ["stop"] * 3
    assert list(plan.notes) == []
    for strategy, note in (
        ("recreate", "all old instances stop before"),
        ("blue_green", "4 new instances are started beside"),
    ):
        wanted = spec_to_wire(spec("web:2", 4, update={"strategy": strategy}))
        (plan,) = (await rig.apps().Plan(api_pb2.PlanRequest(apps=[wanted]))).apps
        assert note in plan.notes[0]
    assert (await rig.get()).app.version == 1


async def test_events_resume_after_a_token(rig: Rig) -> None:
    await rig.agent()
    await rig.outcome(await rig.launch())
    stub = api_pb2_grpc.EventsStub(rig.channel())
    kinds = [item.kind async for batch in stub.Watch(api_pb2.WatchEventsRequest(after="0")) for item in batch.events]
    assert [kind for kind in kinds if kind.startswith(("app", "task"))] == ["app.launched", "app.placed", "task.succeeded"]
    tokens = [item.token async for batch in stub.Watch(api_pb2.WatchEventsRequest(after="0")) for item in batch.events]
    rest = [item.token async for batch in stub.Watch(api_pb2.WatchEventsRequest(after=tokens[1])) for item in batch.events]
    assert rest[: len(tokens) - 2] == tokens[2:]
    only = [item.kind async for batch in stub.Watch(api_pb2.WatchEventsRequest(after="0", kinds=["task"])) for item in batch.events]
    assert only == ["task.succeeded"]


async def test_logs_and_exec_go_through_the_agent(rig: Rig) -> None:
    await rig.agent()
    await rig.outcome(await rig.launch(instances=2))
    lines = [(chunk.instance[-1], chunk.data) async for chunk in rig.apps().Logs(api_pb2.LogsRequest(app=PATH))]
    assert sorted(lines) == [("1", b"one\n"), ("1", b"two\n"), ("2", b"one\n"), ("2", b"two\n")]
    instance = (await rig.get()).instances[0].id
    inputs = [
        api_pb2.ExecInput(open=api_pb2.ExecInput.Open(instance=instance, command=["cat"])),
        api_pb2.ExecInput(stdin=b"hello"),
        api_pb2.ExecInput(stdin_closed=True),
    ]
    outputs = [output async for output in rig.apps().Exec(iter(inputs))]
    assert [output.WhichOneof("kind") for output in outputs] == ["stdout", "exit_code"]
    assert (outputs[0].stdout, outputs[1].exit_code) == (b"hello", 7)


async def test_logs_of_what_is_not_there_or_not_reachable(rig: Rig) -> None:
    async def logs(request: api_pb2.LogsRequest) -> None:
        async for _ in rig.apps().Logs(request):
            pass

    assert (await refused(logs(api_pb2.LogsRequest(instance="web-abcdef-1")))).kind is Kind.NOT_FOUND
    agent = await rig.agent()
    await rig.outcome(await rig.launch())
    await agent.stop()
    await eventually(lambda: rig.service is not None and rig.service.leader.link(rig.node_id) is None, "the session is over")
    assert (await refused(logs(api_pb2.LogsRequest(app=PATH)))).kind is Kind.UNAVAILABLE


class TestWhoIsAdmitted:
    async def test_a_client_without_a_certificate(self, rig: Rig) -> None:
        ca = rig.tls(Role.USER, "alice").ca.read_bytes()
        async with grpc.aio.secure_channel(f"127.0.0.1:{rig.port}", grpc.ssl_channel_credentials(ca)) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await api_pb2_grpc.AppsStub(channel).List(api_pb2.ListRequest(), timeout=3)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    @pytest.mark.parametrize("fields", [{"authority": "other"}, {"life": timedelta(seconds=-60)}])
    async def test_a_certificate_of_another_authority_or_an_expired_one(self, rig: Rig, fields: dict[str, object]) -> None:
        stub = rig.apps(rig.tls(Role.USER, "mallory", **fields))  # type: ignore[arg-type]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.List(api_pb2.ListRequest(), timeout=3)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    async def test_a_client_in_clear(self, rig: Rig) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await api_pb2_grpc.AppsStub(channel).List(api_pb2.ListRequest(), timeout=3)

    async def test_a_node_is_no_user(self, rig: Rig) -> None:
        stub = rig.apps(rig.tls(Role.NODE, rig.node_id))
        assert (await refused(stub.List(api_pb2.ListRequest(), timeout=3))).kind is Kind.UNAUTHENTICATED

    async def refusal(self, rig: Rig, **fields: object) -> GestaltError:
        agent = await rig.agent(**fields)
        await agent.ended()
        assert agent.error is not None, "the session was admitted"
        error = agent.error

        async def again() -> None:
            raise error

        return await refused(again())

    async def test_a_node_with_another_nodes_id(self, rig: Rig) -> None:
        error = await self.refusal(rig, node_id="someone-else", tls=rig.tls(Role.NODE, rig.node_id))
        assert error.kind is Kind.UNAUTHENTICATED

    async def test_a_second_live_claimant_of_an_id(self, rig: Rig) -> None:
        first = await rig.agent()
        await eventually(lambda: first.welcome, "the first is admitted")
        error = await self.refusal(rig)
        assert error.kind is Kind.EXISTS
        assert first.error is None

    async def test_a_second_node_of_an_appliance(self, rig: Rig) -> None:
        first = await rig.agent()
        await eventually(lambda: first.welcome, "the first is admitted")
        error = await self.refusal(rig, node_id="11111111-2222")
        assert error.kind is Kind.REFUSED
        assert "gestaltctl cluster export" in error.hint

    async def test_an_agent_that_has_seen_a_higher_epoch(self, rig: Rig) -> None:
        assert (await self.refusal(rig, highest_epoch=99)).kind is Kind.REFUSED

    async def test_an_agent_of_another_protocol(self, rig: Rig) -> None:
        assert (await self.refusal(rig, protocol=2)).kind is Kind.REFUSED


async def test_reports_on_what_is_not_placed_there_are_ignored(rig: Rig) -> None:
    agent = await rig.agent()
    await rig.outcome(await rig.launch(instances=1))
    (seen,) = agent.running.values()
    agent.report(replace(seen, instance="web-ffffff-99"))
    agent.report(replace(seen, attempt=2, reason="marker"))
    await rig.until_reason("marker")
    assert len((await rig.get()).instances) == 1


async def test_a_phase_never_goes_back(rig: Rig) -> None:
    agent = await rig.agent()
    await rig.outcome(await rig.launch(instances=1))
    (seen,) = agent.running.values()
    agent.report(replace(seen, attempt=3))
    agent.report(replace(seen, attempt=2, reason="from the past"))
    agent.report(replace(seen, attempt=3, reason="marker"))
    await rig.until_reason("marker")
    assert (await rig.get()).instances[0].observed.attempt == 3
