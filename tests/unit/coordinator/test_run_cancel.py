"""A single run of a job is cancelled: it ends and says by whom, what it had at work is stopped, and nothing else is touched."""

from __future__ import annotations

import pytest

from gestalt.coordinator import changes, run_cancel, steering
from gestalt.coordinator.records import Run, RunState, Step, Task, TaskState, Verb
from gestalt.errors import GestaltError, Kind
from tests.unit.coordinator.job_world import JobWorld
from tests.unit.coordinator.test_steering import launched
from tests.unit.coordinator.world import PATH


def two_runs(**fields: object) -> tuple[JobWorld, Run, Run]:
    world = JobWorld(job={"completions": 4, "parallelism": 2} | fields)
    one, other = world.run(), world.run()
    for _ in range(3):
        world.go()
    assert len(world.at_work()) == 4
    return world, one, other


def cancel(world: JobWorld, run: str) -> Task | None:
    return world.ask(run_cancel.cancel, PATH, run)


def now(world: JobWorld, task: Task | None) -> Task:
    assert task is not None
    return world.state.tasks[task.id]


def test_a_cancelled_run_ends_and_what_it_had_at_work_is_stopped() -> None:
    world, one, other = two_runs()
    world.end(world.live(one)[0])
    world.go()
    asked = cancel(world, one.id)
    assert now(world, asked).kind is Verb.CANCEL
    world.decide_all()
    ended = world.of(one.id)
    assert (ended.state, ended.message) == (RunState.CANCELLED, "cancelled by tester: 1 of 4 had ended well")
    assert (world.task_of(one).state, world.task_of(one).message) == (TaskState.SUPERSEDED, ended.message)
    assert now(world, asked).state is TaskState.RUNNING, "until agents say that nothing is left"
    assert all(item.stop for item in world.live(one))
    (step,) = run_cancel.steps_of(world.state, now(world, asked))
    assert (step.state, step.total) == ("running", 2)
    assert step.message.startswith(f"run {one.id}: 2 at work on n")
    world.obey()
    world.decide_all()
    assert (now(world, asked).state, now(world, asked).message) == (TaskState.SUCCEEDED, f"nothing of run {one.id} is at work any more")
    assert now(world, asked).steps == (Step("stop", "done", 0, 0, ""),)
    assert world.live(one) == []
    assert len(world.live(other)) == 2
    world.finish()
    assert world.of(other.id).state is RunState.SUCCEEDED
    assert world.of(one.id) == ended


def test_cancelling_again_gives_the_same_task_and_afterwards_changes_nothing() -> None:
    world, one, _ = two_runs()
    asked = cancel(world, one.id)
    assert cancel(world, one.id) == asked
    world.go()
    assert cancel(world, one.id) == asked
    world.go()
    world.go()
    assert now(world, asked).state is TaskState.SUCCEEDED
    assert cancel(world, one.id) is None


def test_a_run_that_has_not_begun_is_cancelled_as_well() -> None:
    world = JobWorld()
    run = world.run()
    asked = cancel(world, run.id)
    world.decide_all()
    assert world.of(run.id).state is RunState.CANCELLED
    assert now(world, asked).state is TaskState.SUCCEEDED
    assert not world.placed


def test_what_ended_well_in_the_same_moment_has_ended_well() -> None:
    world = JobWorld()
    run = world.run()
    world.go()
    world.end(world.at_work()[0])
    asked = cancel(world, run.id)
    world.decide_all()
    assert world.of(run.id).state is RunState.SUCCEEDED
    assert (now(world, asked).state, now(world, asked).message) == (
        TaskState.SUCCEEDED,
        f"run {run.id} succeeded: 1 of 1 ended well, before it was cancelled",
    )


def test_what_is_cut_off_is_waited_for_also_by_the_next_leader_and_the_run_is_kept_until_then() -> None:
    world, one, _ = two_runs(keep={"runs": 1, "time": "1s"})
    node = world.live(one)[0].node
    world.cut(node)
    asked = cancel(world, one.id)
    for _ in range(3):
        world.go()
    world.pass_time(2)
    world.restart_coordinator()
    world.cut(node)
    world.go()
    assert now(world, asked).state is TaskState.RUNNING
    assert run_cancel.steps_of(world.state, now(world, asked))[0].message.endswith(f" at work on {node}")
    world.connect(node)
    for _ in range(3):
        world.go()
    assert now(world, asked).state is TaskState.SUCCEEDED
    assert world.live(one) == []


@pytest.mark.parametrize("verb", [changes.stop, changes.delete])
def test_a_job_that_is_stopped_or_deleted_meanwhile_leaves_no_task_behind(verb: object) -> None:
    world, one, _ = two_runs()
    asked = cancel(world, one.id)
    world.ask(verb, PATH)
    for _ in range(4):
        world.go()
    assert now(world, asked).state is TaskState.SUCCEEDED
    assert not world.at_work()
    assert (PATH in world.state.apps) == (verb is changes.stop)


def test_what_cannot_be_cancelled_is_refused_with_what_to_do() -> None:
    world, one, _ = two_runs()
    refused(world, "nothing", Kind.NOT_FOUND, f"{PATH} has no run 'nothing'")
    world.finish()
    refused(world, one.id, Kind.REFUSED, f"run {one.id} of {PATH} is over: it succeeded: 4 of 4 ended well")
    run = world.run()
    world.ask(changes.stop, PATH)
    world.go()
    refused(world, run.id, Kind.REFUSED, f"run {run.id} of {PATH} is over: it was stopped: the job was stopped: 0 of 4 had ended well")
    service = launched()
    with pytest.raises(GestaltError) as caught:
        service.ask(run_cancel.cancel, PATH, "x")
    assert (caught.value.kind, caught.value.message) == (Kind.REFUSED, f"{PATH} is no job, but a service: it has no runs")


def refused(world: JobWorld, run: str, kind: Kind, message: str) -> None:
    before = world.state.runs_of(PATH)
    with pytest.raises(GestaltError) as caught:
        cancel(world, run)
    assert (caught.value.kind, caught.value.message) == (kind, message)
    assert caught.value.hint
    assert world.state.runs_of(PATH) == before


def test_cancelling_the_job_itself_says_how_a_run_is_cancelled() -> None:
    world, _, _ = two_runs()
    with pytest.raises(GestaltError) as caught:
        world.ask(steering.cancel, PATH)
    assert caught.value.hint == f"end one of its runs: gestaltctl cancel {PATH} --run RUN"
