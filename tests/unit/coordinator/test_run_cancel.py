"""A single run of a job is cancelled: it ends and says by whom, what it had at work is stopped, and nothing else is touched."""

from __future__ import annotations

import pytest

from gestalt.coordinator import changes, run_cancel, steering
from gestalt.coordinator.records import Run, RunState, Step, Task, TaskState, Verb, instance_id
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
    assert all(item.stop and item.keep for item in world.live(one))
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


def logs(world: JobWorld, run: Run) -> int:
    return sum(item.run == run.id and item.ended and not item.stop for item in world.placed)


def test_the_logs_of_what_a_cancelled_run_had_at_work_are_kept_as_long_as_the_run() -> None:
    world, one, other = two_runs(keep={"time": "1m"})
    world.end(world.live(one)[0])
    world.go()
    cancel(world, one.id)
    for _ in range(3):
        world.go()
    assert logs(world, one) == 3, "of the one that ended by itself, and of those that were stopped"
    assert world.of(one.id).succeeded == len(world.of(one.id).results) == 1
    assert not any(item.stop or item.keep for item in world.placed)
    world.restart_coordinator()
    world.go()
    assert logs(world, one) == 3
    world.pass_time(61)
    for _ in range(3):
        world.go()
    assert {item.run for item in world.placed} == {other.id}
    assert one.id not in {run.id for run in world.state.runs_of(PATH)}


@pytest.mark.parametrize("ends", ["deadline", "stop", "failure"])
def test_a_run_that_ends_otherwise_keeps_the_logs_of_what_it_had_at_work(ends: str) -> None:
    world, one, other = two_runs(retries=0, deadline="10m" if ends == "deadline" else 0)
    if ends == "deadline":
        world.pass_time(601)
    elif ends == "stop":
        world.ask(changes.stop, PATH)
    else:
        for run in (one, other):
            world.end(world.live(run)[0], 3)
    for _ in range(3):
        world.go()
    assert world.of(one.id).state is (RunState.STOPPED if ends == "stop" else RunState.FAILED)
    assert (logs(world, one), logs(world, other)) == (2, 2)


def test_no_log_is_kept_on_a_node_that_is_drained_nor_of_a_job_that_is_deleted_or_of_what_never_ran() -> None:
    world, one, _ = two_runs()
    gone = world.live(one)[0]
    world.machines[gone.node].running.clear()
    world.tracker.inventory(world.view_of(gone.node), [instance_id(world.app, item.serial) for item in world.placed], ())
    cancel(world, one.id)
    world.go()
    world.go()
    assert logs(world, one) == sum(item.run == one.id and item.node != gone.node for item in world.placed)
    world, one, other = two_runs()
    cancel(world, one.id)
    world.decide_all()
    node = world.live(one)[0].node
    world.administer(node, "draining")
    world.decide_all()
    assert {item.node == node for item in world.live(one) if not item.keep} == {True}
    for _ in range(3):
        world.go()
    assert not any(item.node == node for item in world.placed if item.run == one.id)
    cancel(world, other.id)
    world.ask(changes.delete, PATH)
    for _ in range(4):
        world.go()
    assert PATH not in world.state.apps


def test_what_is_exclusive_makes_way_with_its_log() -> None:
    world = JobWorld(placement={"exclusive": True})
    run = world.run()
    world.go()
    world.go()
    cancel(world, run.id)
    world.decide_all()
    assert [(item.stop, item.keep) for item in world.live(run)] == [(True, False)]


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
