"""Runs of jobs: how many are at work, what counts, what is tried again, what is kept; whatever is lost or interrupted."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator import changes, run_cancel
from gestalt.coordinator.dependencies import Needed, wait_for
from gestalt.coordinator.jobs import back_off
from gestalt.coordinator.records import Run, RunState, TaskState
from gestalt.coordinator.reservations import Reservations
from gestalt.errors import GestaltError
from gestalt.spec.schema import Restart
from gestalt.units import show_duration
from tests.unit.coordinator.job_world import PATH, JobWorld, job
from tests.unit.coordinator.world import spec


def started(**fields: object) -> tuple[JobWorld, Run]:
    """A world with one run under way, its first instances at work."""
    world = JobWorld(job=fields)
    run = world.run()
    world.go()
    return world, run


def test_a_launch_starts_nothing_and_says_how() -> None:
    world = JobWorld()
    assert world.placed == ()
    assert world.last_task.state is TaskState.SUCCEEDED
    assert world.last_task.message == f"a run is started by: gestaltctl run {PATH}"


def test_a_run_ends_well_when_its_instance_did() -> None:
    world, run = started()
    (item,) = world.at_work()
    world.end(item)
    world.go()
    after, task = world.of(run.id), world.task_of(run)
    assert (after.state, after.succeeded, after.failed) == (RunState.SUCCEEDED, 1, 0)
    assert (task.state, task.message, task.kind) == (TaskState.SUCCEEDED, "1 of 1 ended well", "run")
    assert [(result.state, result.exit_code, result.node) for result in after.results] == [("succeeded", 0, item.node)]
    assert world.app.stable == 1


def test_what_ended_frees_its_room_at_once_and_keeps_its_log() -> None:
    world, _ = started()
    (item,) = world.at_work()
    assert world.state.reservations != Reservations()
    world.end(item)
    world.go()
    assert world.state.reservations == Reservations()
    (kept,) = world.placed
    assert (kept.serial, kept.ended, kept.stop) == (item.serial, True, False)
    assert world.state.placed_on(item.node)


def test_no_more_than_parallelism_are_at_work_and_completions_end_well() -> None:
    world, run = started(completions=7, parallelism=3)
    most = 0
    while world.of(run.id).state is RunState.RUNNING:
        most = max(most, len(world.at_work()))
        world.end(world.at_work()[-1])
        world.go()
    assert most == 3
    assert world.of(run.id).succeeded == 7
    assert len(world.placed) == 7


def test_a_failed_one_is_tried_again_after_its_back_off() -> None:
    world, run = started(retries=3)
    for delay in (0.0, 1.0, 2.0):
        world.end(world.at_work()[0], code=3)
        world.decide_all()
        if delay:
            assert not world.live(run)
            assert world.waits == f"run {run.id} has {world.of(run.id).failed} failures: the next instance starts in {show_duration(delay)}"
            assert world.wake_in == delay
            world.pass_time(delay)
        world.go()
        assert len(world.live(run)) == 1
    world.end(world.at_work()[0], code=3)
    world.go()
    after = world.of(run.id)
    assert (after.state, after.failed) == (RunState.FAILED, 4)
    assert after.message == "an instance failed: exited with code 3, 3 retries are used up"
    assert world.task_of(run).state is TaskState.FAILED


def test_back_off_doubles_up_to_its_limit() -> None:
    restart = Restart(backoff=2, backoff_max=10)
    assert [back_off(failed, restart) for failed in (0, 1, 2, 3, 4, 5, 400)] == [0, 0, 2, 4, 8, 10, 10]


def test_a_run_that_failed_ends_its_other_instances() -> None:
    world, run = started(completions=3, parallelism=3, retries=0)
    first, *others = world.at_work()
    world.end(first, code=1)
    world.decide_all()
    assert {item.serial for item in world.placed if item.stop} == {item.serial for item in others}
    world.go()
    assert world.at_work() == []
    assert world.of(run.id).message == "an instance failed: exited with code 1, and there are no retries"


def test_the_deadline_ends_a_run_also_under_the_next_leader() -> None:
    world, run = started(deadline=100)
    world.pass_time(60)
    world.restart_coordinator()
    for name in world.machines:
        world.connect(name)
    world.go()
    assert world.of(run.id).state is RunState.RUNNING
    assert world.wake_in == pytest.approx(40)
    world.pass_time(41)
    world.go()
    assert world.of(run.id).state is RunState.FAILED
    assert world.of(run.id).message == "the deadline of 1m40s is over: 0 of 1 had ended well"
    world.go()
    assert world.at_work() == []


def test_what_was_lost_with_its_node_runs_again_and_costs_no_retry() -> None:
    world, run = started(retries=0)
    (item,) = world.at_work()
    world.lose(item.node)
    world.go()
    (again,) = world.live(run)
    assert again.node != item.node
    assert (world.of(run.id).lost, world.of(run.id).failed) == (1, 0)
    world.finish()
    assert world.of(run.id).state is RunState.SUCCEEDED
    assert [result.message for result in world.of(run.id).results] == [f"node {item.node} was lost with it", ""]


def test_a_machine_that_went_down_costs_no_retry() -> None:
    world, run = started(retries=0)
    world.end(world.at_work()[0], code=143, interrupted=True)
    world.finish()
    assert (world.of(run.id).state, world.of(run.id).lost) == (RunState.SUCCEEDED, 1)


def test_while_replacement_is_held_lost_ones_wait_and_it_is_said() -> None:
    world, run = started()
    world.replaceable, world.held = 0, "replacement is paused by hand"
    world.lose(world.at_work()[0].node)
    world.go()
    assert world.of(run.id).lost == 0
    assert world.waits == "1 lost instances are not replaced: replacement is paused by hand"
    world.replaceable = 5
    world.go()
    assert world.of(run.id).lost == 1


def test_what_never_starts_counts_as_failed_in_time() -> None:
    world = JobWorld(job={"retries": 0})
    run = world.run()
    world.decide_all()
    world.pass_time(121)
    world.decide_all()
    assert world.of(run.id).message.startswith("an instance failed: it did not start within 2m: the agent has not started it")


def test_stop_ends_the_runs_and_start_begins_none() -> None:
    world, run = started()
    stop = world.ask(changes.stop, PATH)
    world.go()
    world.go()
    assert world.of(run.id).state is RunState.STOPPED
    assert world.task_of(run).state is TaskState.SUPERSEDED
    assert world.at_work() == []
    assert stop is not None
    assert (world.state.tasks[stop.id].state, world.state.tasks[stop.id].message) == (TaskState.SUCCEEDED, "no run is under way")
    with pytest.raises(GestaltError, match="is stopped"):
        world.run()
    world.ask(changes.start, PATH)
    world.go()
    assert world.at_work() == []
    world.run()
    world.finish()
    assert Counter(item.state for item in world.state.runs_of(PATH)) == {RunState.STOPPED: 1, RunState.SUCCEEDED: 1}


def test_delete_leaves_nothing() -> None:
    world, _ = started()
    world.end(world.at_work()[0])
    world.go()
    world.run()
    world.go()
    world.ask(changes.delete, PATH)
    world.finish(5)
    assert PATH not in world.state.apps
    assert (world.state.runs, world.state.runs_by_app, world.state.placements, world.state.owners) == ({}, {}, {}, {})
    assert world.state.reservations == Reservations()


def test_runs_stay_with_their_version_and_their_parameters() -> None:
    world = JobWorld(job={"parameters": {"DAY": {"required": True}, "MODE": {"default": "fast"}}})
    run = world.run(DAY="today")
    world.apply(job("report:2"))
    world.go()
    assert {item.version for item in world.placed} == {1}
    assert world.of(run.id).parameters == {"DAY": "today", "MODE": "fast"}
    second = world.run()
    world.go()
    assert [item.version for item in world.live(second)] == [2]


@pytest.mark.parametrize(("parameters", "what"), [
    ({}, "parameters.DAY is missing, and required"),
    ({"DAY": "x", "NIGHT": "y"}, "parameters.NIGHT is not a parameter of the job"),
    ({"DAY": "x\0"}, "parameters.DAY is too long, or holds a zero byte"),
])  # fmt: skip
def test_parameters_that_do_not_fit_are_refused(parameters: dict[str, str], what: str) -> None:
    world = JobWorld(job={"parameters": {"DAY": {"required": True}}})
    with pytest.raises(GestaltError) as refusal:
        world.run(**parameters)
    assert refusal.value.message == what
    assert not world.state.runs


@pytest.mark.parametrize("change", [(changes.scale, PATH, 5), (changes.restart, PATH)])
def test_what_means_nothing_to_a_job_is_refused(change: tuple[object, ...]) -> None:
    with pytest.raises(GestaltError, match="is a job and cannot be"):
        JobWorld().ask(*change)


def test_only_jobs_have_runs() -> None:
    world = JobWorld()
    world.ask(changes.delete, PATH)
    world.finish(3)
    world.apply(spec())
    with pytest.raises(GestaltError, match="is no job, but a service"):
        world.run()


def test_the_newest_runs_are_kept_for_a_time() -> None:
    world = JobWorld(job={"keep": {"runs": 2, "time": 1000}})
    ids = []
    for _ in range(4):
        ids.append(world.run().id)
        world.finish(2)
    world.go()
    world.go()
    assert [run.id for run in world.state.runs_of(PATH)] == ids[-2:]
    assert {item.run for item in world.placed} == set(ids[-2:])
    world.pass_time(2000)
    world.finish(3)
    assert world.state.runs_of(PATH) == ()
    assert world.placed == ()
    assert all(not machine.running for machine in world.machines.values())


def test_a_drained_node_lets_runs_end_and_keeps_no_logs() -> None:
    world, run = started()
    (item,) = world.at_work()
    world.administer(item.node, "draining")
    world.go()
    assert world.at_work() == [item]
    assert world.waits.startswith(f"run {run.id} is at work on node {item.node}, which is being drained")
    world.finish(4)
    assert world.of(run.id).state is RunState.SUCCEEDED
    assert not world.state.placed_on(item.node)


def test_a_drain_whose_time_is_over_stops_what_is_at_work_and_it_runs_again_elsewhere() -> None:
    world, run = started(retries=0)
    (item,) = world.at_work()
    world.administer(item.node, "draining", forced=True)
    world.decide_all()
    assert [placed.stop for placed in world.placed if placed.serial == item.serial] == [True]
    assert len(world.live(run)) == 1, "the next one starts only when this one is gone"
    world.go()
    world.go()
    (again,) = world.live(run)
    assert again.node != item.node
    assert (world.of(run.id).lost, world.of(run.id).failed) == (1, 0)


def test_who_depends_on_a_job_waits_for_a_run_that_ends_well() -> None:
    world, _ = started()

    def wait() -> str:
        return wait_for([Needed(PATH, world.app, 1, proven=world.state.version(PATH, 1).proven, is_job=True)]).why

    assert wait() == f"waits for a run of version 1 of {PATH} that ends well"
    world.finish(3)
    assert wait() == ""


def test_an_exclusive_job_has_one_at_work_over_all_its_runs() -> None:
    world = JobWorld(placement={"exclusive": True}, job={"completions": 2})
    runs = [world.run(), world.run()]
    for _ in range(40):
        world.go()
        assert len(world.at_work()) <= 1
        assert sum(not item.ended for item in world.placed) <= 1
        for item in world.at_work():
            world.end(item)
    assert [world.of(run.id).state for run in runs] == [RunState.SUCCEEDED] * 2


def test_a_run_of_an_exclusive_version_goes_on_when_the_next_one_is_not() -> None:
    world = JobWorld(placement={"exclusive": True}, job={"completions": 2})
    run = world.run()
    world.go()
    world.apply(job("report:2", job={"completions": 2}))
    for _ in range(20):
        world.go()
        assert sum(item.version == 1 and not item.ended for item in world.placed) <= 1
        for item in world.at_work():
            world.end(item)
    assert world.of(run.id).state is RunState.SUCCEEDED


def test_the_times_of_runs_that_are_gone_are_forgotten() -> None:
    world = JobWorld(job={"keep": {"runs": 0}})
    for _ in range(3):
        world.run()
        world.finish(2)
    world.go()
    assert (world.jobs._began, world.jobs._failures, world.state.runs) == ({}, {}, {})


def test_too_many_runs_at_once_are_refused() -> None:
    world = JobWorld()
    for _ in range(50):
        world.run()
    with pytest.raises(GestaltError, match="50 runs under way"):
        world.run()


HAPPENINGS = [
    "decide",
    "obey",
    "well",
    "badly",
    "reboot",
    "lose",
    "back",
    "cut",
    "connect",
    "restart_coordinator",
    "time",
    "run",
    "drain",
    "stop",
    "start",
    "cancel",
]


def _happen(world: JobWorld, what: str, which: int) -> None:
    names, at_work = sorted(world.machines), world.at_work()
    name = names[which % len(names)]
    match what:
        case "well" | "badly" | "reboot" if at_work:
            world.end(at_work[which % len(at_work)], code=int(what != "well"), interrupted=what == "reboot")
        case "lose":
            world.lose(name, dead=bool(which % 2))
        case "back" | "cut" | "connect":
            getattr(world, what)(name)
        case "time":
            world.pass_time(which * 7.0)
        case "run":
            if not world.app.stopped:
                world.run()
        case "drain":
            world.administer(name, "draining" if which % 2 else "ready")
        case "stop" | "start" | "cancel":
            _ask(world, what, which)
        case "decide" | "obey" | "restart_coordinator":
            getattr(world, what)()


def _ask(world: JobWorld, what: str, which: int) -> None:
    going = [run for run in world.state.runs_of(PATH) if run.state is RunState.RUNNING]
    if what != "cancel":
        world.ask(changes.stop if what == "stop" else changes.start, PATH)
    elif going:
        world.ask(run_cancel.cancel, PATH, going[which % len(going)].id)


def _check(world: JobWorld, parallelism: int, completions: int) -> None:
    live = Counter(item.run for item in world.placed if not item.ended)
    assert max(live.values(), default=0) <= parallelism
    for run in world.state.runs_of(PATH):
        counted = Counter(result.state for result in run.results)
        assert (counted["succeeded"], counted["failed"], counted["lost"]) == (run.succeeded, run.failed, run.lost)
        assert len({result.serial for result in run.results}) == len(run.results)
        assert run.succeeded <= completions
    again = Reservations()
    for item in world.placed:
        if not item.ended:
            again.add(item.node, world.state.version(PATH, item.version).spec, item.ports)
    assert world.state.reservations == again


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(HAPPENINGS), st.integers(0, 20)), max_size=60), st.integers(1, 4), st.integers(1, 5))
def test_whatever_happens_each_completion_counts_once_and_every_run_ends(
    happenings: list[tuple[str, int]], parallelism: int, completions: int
) -> None:
    world = JobWorld(job={"completions": completions, "parallelism": parallelism, "retries": 2, "keep": {"runs": 1000}})
    world.run()
    for what, which in happenings:
        _happen(world, what, which)
        _check(world, parallelism, completions)
    for name in world.machines:
        world.back(name)
        world.administer(name, "ready")
    world.finish()
    _check(world, parallelism, completions)
    for run in world.state.runs_of(PATH):
        assert run.state is not RunState.RUNNING
        assert (run.state is RunState.SUCCEEDED) == (run.succeeded == completions)
        is_cancelled = bool(run.cancelled_by) and run.succeeded < completions
        assert (run.state is RunState.CANCELLED) == is_cancelled
        is_stopped = run.state is RunState.STOPPED  # also if too many have failed when its job is stopped
        assert (run.state is RunState.FAILED) == (run.failed > 2 and run.succeeded < completions and not (is_cancelled or is_stopped))
        assert world.task_of(run).state is not TaskState.RUNNING
    assert all(task.state is not TaskState.RUNNING for task in world.state.tasks.values())
    assert all(item.ended for item in world.placed)
    assert not world.app.task
