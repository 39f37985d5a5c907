"""Jobs under a real leader: what agents are told of a run, what is shown of it, and that it goes on under the next leader."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from gestalt.clock import wall
from gestalt.model import Phase
from gestalt.proto.v1 import api_pb2, api_pb2_grpc, model_pb2
from gestalt.spec.schema import AppSpec
from gestalt.wire import spec_to_wire
from tests.real.coordinator_rig import Rig, eventually, refused
from tests.real.simulated_agent import SimulatedAgent
from tests.unit.coordinator.world import PATH

pytestmark = pytest.mark.real


class Jobs(Rig):
    """A coordinator with one agent, and a job."""

    async def launch_job(self, image: str = "report:1", **fields: Any) -> model_pb2.Task:
        described = spec_to_wire(AppSpec.model_validate({"path": PATH, "kind": "job", "image": image, "job": fields}))
        return await self.outcome(await self.apps().Apply(api_pb2.LaunchRequest(apps=[described]), timeout=10))

    def stub(self) -> api_pb2_grpc.JobsStub:
        return api_pb2_grpc.JobsStub(self.channel())

    async def run(self, identity: str = "", **parameters: str) -> api_pb2.ChangeReply:
        request = api_pb2.RunRequest(request=api_pb2.Request(id=identity), app=PATH, parameters=parameters)
        reply: api_pb2.ChangeReply = await self.stub().Run(request, timeout=10)
        return reply

    async def runs(self) -> list[model_pb2.Run]:
        return list((await self.stub().Runs(api_pb2.GetRequest(app=PATH), timeout=10)).runs)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Jobs]:
    made = Jobs(tmp_path)
    await made.up()
    yield made
    await made.down()


async def end_next(agent: SimulatedAgent, code: int = 0) -> str:
    """Wait for an instance at work, and have it end by itself."""
    await eventually(lambda: [item for item in agent.running.values() if not item.ended], "an instance is at work")
    seen = next(item for item in agent.running.values() if not item.ended)
    phase = Phase.FAILED if code else Phase.STOPPED
    agent.report(replace(seen, phase=phase, ready=False, exit_code=code, ended=True, reason=f"exited with code {code}"))
    return seen.instance


async def test_a_run_goes_from_its_start_to_its_outcome(rig: Jobs) -> None:
    agent = await rig.agent()
    assert (await rig.launch_job(completions=2, parameters={"DAY": {"required": True}})).state == "succeeded"
    shown = (await rig.get()).app
    assert (shown.state, shown.message, shown.count) == ("idle", "it never ran", 0)
    reply = await rig.run("once", DAY="today")
    assert (await rig.run("once", DAY="today")).tasks[0].id == reply.tasks[0].id
    first = await end_next(agent)
    assert agent.state.instances[first].env == {"DAY": "today", "GESTALT_RUN": reply.tasks[0].id}
    await eventually(lambda: agent.state.instances[first].ended, "its end is noted")
    assert (await rig.get()).app.message == f"run {reply.tasks[0].id}: 1 of 2 ended well"
    await end_next(agent)
    task = await rig.outcome(reply)
    assert (task.kind, task.state, task.message) == ("run", "succeeded", "2 of 2 ended well")
    (run,) = await rig.runs()
    assert (run.id, run.state, run.succeeded, run.running, dict(run.parameters)) == (task.id, "succeeded", 2, 0, {"DAY": "today"})
    assert [result.exit_code for result in run.results] == [0, 0]
    assert (await rig.get()).app.state == "idle"


async def test_a_failed_run_is_told_and_the_log_of_what_ended_is_there(rig: Jobs) -> None:
    agent = await rig.agent()
    await rig.launch_job(retries=1)
    reply = await rig.run()
    for _ in range(2):
        instance = await end_next(agent, code=3)
        await eventually(lambda name=instance: agent.state.instances[name].ended, "its end is noted")
    task = await rig.outcome(reply)
    assert (task.state, task.message) == ("failed", "an instance failed: exited with code 3, 1 retries are used up")
    shown = (await rig.get()).app
    assert (shown.state, shown.message) == ("degraded", f"the last run, {task.id}, failed: {task.message}")
    lines = [chunk async for chunk in rig.apps().Logs(api_pb2.LogsRequest(app=PATH, run=task.id), timeout=10)]
    assert {chunk.instance for chunk in lines} == {item.id for item in (await rig.get()).instances}
    assert "nothing is kept of a run" in (await _logs_refused(rig, "other")).message


async def _logs_refused(rig: Jobs, run: str) -> Any:
    async def read() -> None:
        async for _ in rig.apps().Logs(api_pb2.LogsRequest(app=PATH, run=run), timeout=10):
            pass

    return await refused(read())


async def test_a_run_goes_on_under_the_next_leader_and_nothing_is_counted_twice(rig: Jobs) -> None:
    agent = await rig.agent()
    await rig.launch_job(completions=2)
    reply = await rig.run()
    await end_next(agent)
    await eventually(lambda: len(agent.running) == 2, "the second is at work")
    ended = dict(agent.running)
    await rig.down()
    await rig.up()
    again = await rig.agent(running=ended)
    await eventually(lambda: again.state.instances, "the next leader tells it everything")
    await end_next(again)
    task = await rig.outcome(reply)
    assert (task.state, task.message) == ("succeeded", "2 of 2 ended well")
    (run,) = await rig.runs()
    assert (run.succeeded, run.failed, run.lost) == (2, 0, 0)


async def test_a_run_is_cancelled_once_however_often_it_is_asked_for(rig: Jobs) -> None:
    agent = await rig.agent()
    await rig.launch_job()
    run = (await rig.run()).tasks[0].id
    await eventually(lambda: agent.running, "it is at work")

    async def cancel(identity: str, run: str = run) -> api_pb2.ChangeReply:
        request = api_pb2.CancelRunRequest(request=api_pb2.Request(id=identity), app=PATH, run=run)
        reply: api_pb2.ChangeReply = await rig.stub().CancelRun(request, timeout=10)
        return reply

    reply = await cancel("once")
    task = await rig.outcome(reply)
    assert (task.kind, task.state, task.message) == ("cancel", "succeeded", f"nothing of run {run} is at work any more")
    (kept,) = agent.running.values()
    assert (kept.ended, agent.state.instances[kept.instance].ended, agent.state.instances[kept.instance].stop) == (True, True, False)
    lines = [chunk async for chunk in rig.apps().Logs(api_pb2.LogsRequest(app=PATH, run=run), timeout=10)]
    assert {chunk.instance for chunk in lines} == {kept.instance}
    assert (await cancel("once")).tasks[0].id == task.id
    again = await cancel("twice")
    assert (list(again.tasks), list(again.unchanged)) == ([], [PATH])
    (shown,) = await rig.runs()
    assert (shown.state, shown.cancelled_by, shown.message) == ("cancelled", "alice", "cancelled by alice: 0 of 1 had ended well")
    assert (await rig.get()).app.state == "idle"
    assert (await refused(cancel("other", "nothing"))).message == f"{PATH} has no run 'nothing'"


async def test_a_mistake_is_told_with_what_is_allowed(rig: Jobs) -> None:
    await rig.launch_job(parameters={"DAY": {"required": True}})
    error = await refused(rig.run(NIGHT="x"))
    assert [(item.field, item.allowed) for item in error.details] == [("parameters.NIGHT", "DAY"), ("parameters.DAY", "--set DAY=value")]
    restart = await refused(rig.apps().Restart(api_pb2.AppRequest(app=PATH), timeout=10))
    assert restart.hint == f"start a run: gestaltctl run {PATH}"


async def test_a_schedule_says_when_it_comes_next_and_a_wrong_one_what_is_allowed(rig: Jobs) -> None:
    schedule = {"cron": "0 3 * * *", "timezone": "Europe/Berlin"}
    await rig.launch_job(schedule=schedule)
    shown = (await rig.get()).app
    first, second, third = (item.ToDatetime() for item in shown.next_runs)
    assert first < second < third
    assert {item.astimezone(ZoneInfo("Europe/Berlin")).hour for item in (first.replace(tzinfo=UTC), third.replace(tzinfo=UTC))} == {3}
    assert shown.message.startswith("it never ran; next runs: ")
    described = spec_to_wire(AppSpec.model_validate({"path": PATH, "kind": "job", "image": "report:1", "job": {"schedule": schedule}}))
    (plan,) = (await rig.apps().Plan(api_pb2.PlanRequest(apps=[described]), timeout=10)).apps
    assert plan.action == "none"
    assert plan.notes[0].endswith("(Europe/Berlin)")
    described.job.schedule.cron = "0 25 * * *"
    (mistake,) = (await refused(rig.apps().Apply(api_pb2.LaunchRequest(apps=[described]), timeout=10))).details
    assert mistake.field == "apps[0].job.schedule.cron"
    assert mistake.allowed.startswith('minute, hour, day, month and weekday, like "0 3 * * *"')


async def test_a_time_that_comes_starts_a_run(rig: Jobs) -> None:
    """The calendar is set back as a leader finds it that was elected right after a time had come."""
    agent = await rig.agent()
    await rig.launch_job(schedule={"cron": "* * * * *"})
    assert rig.service is not None
    ledger = rig.service.leader.ledger
    async with ledger.draft("test", "back") as draft:
        draft.put_app(replace(ledger.state.apps[PATH], fired=(wall() - timedelta(seconds=70)).isoformat()))
    await end_next(agent)
    (run,) = await rig.runs()
    assert (run.requested_by, run.id.partition("-")[0][-1]) == ("schedule", "z")
    assert (await rig.tasks().Get(api_pb2.GetTaskRequest(id=run.id), timeout=10)).kind == "run"
