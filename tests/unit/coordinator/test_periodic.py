"""Jobs that run by a schedule: each time once, whoever leads, whatever the clock does, and none on top of another."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator import changes
from gestalt.coordinator.periodic import LOOK_AGAIN, due, next_times, told
from gestalt.coordinator.records import RunState
from gestalt.spec.schema import Schedule
from tests.unit.coordinator.job_world import PATH, JobWorld, job
from tests.unit.coordinator.world import AT

START = datetime.fromisoformat(AT)


def hourly(**fields: object) -> JobWorld:
    """A job at each full hour; it is five seconds past one now."""
    world = JobWorld(job={"schedule": {"cron": "0 * * * *", **fields}, "keep": {"runs": 1000, "time": "365d"}})
    world.pass_time(5)
    world.decide_all()
    return world


def ids(world: JobWorld) -> list[str]:
    return [run.id.partition("-")[0] for run in world.state.runs_of(PATH)]


def test_each_time_starts_one_run_named_after_it() -> None:
    world = hourly()
    for _ in range(3):
        world.pass_time(3600)
        world.finish(2)
    assert ids(world) == ["20260101t0100z", "20260101t0200z", "20260101t0300z"]
    assert {(run.state, run.requested_by) for run in world.state.runs_of(PATH)} == {(RunState.SUCCEEDED, "schedule")}
    assert {world.task_of(run).state for run in world.state.runs_of(PATH)} == {"succeeded"}


def test_it_is_looked_at_again_when_the_next_time_comes_and_once_a_minute_for_the_sake_of_the_clock() -> None:
    world = hourly()
    assert world.wake_in == LOOK_AGAIN
    world.pass_time(3590 - (world.now - 1000))
    world.decide_all()
    assert world.wake_in == pytest.approx(10)


def test_a_new_leader_does_no_time_twice() -> None:
    world = hourly()
    world.pass_time(3600)
    world.decide_all()
    for _ in range(3):
        world.restart_coordinator()
        world.decide_all()
    assert ids(world) == ["20260101t0100z"]


@pytest.mark.parametrize(("missed", "expected"), [("run-once", ["20260101t0900z"]), ("skip", [])])
def test_what_was_missed_is_made_up_for_once_or_not_at_all(missed: str, expected: list[str]) -> None:
    world = hourly(missed=missed)
    world.pass_time(9 * 3600 + 300)
    world.decide_all()
    assert ids(world) == expected
    world.finish(2)
    world.pass_time(3600 - 422)
    world.decide_all()
    assert ids(world) == [*expected, "20260101t1000z"], "what comes in time is no matter of the policy"


@pytest.mark.parametrize(("overlap", "count"), [("forbid", 1), ("allow", 3)])
def test_a_run_that_is_under_way_keeps_the_next_one_away(overlap: str, count: int) -> None:
    world = hourly(overlap=overlap)
    for _ in range(3):
        world.pass_time(3600)
        world.go()
    assert len(ids(world)) == count
    world.finish(2)
    world.pass_time(3600 - 122)
    world.decide_all()
    assert len(ids(world)) == count + 1


def test_a_clock_that_is_put_back_a_little_does_nothing_twice_and_by_much_begins_anew() -> None:
    world = hourly()
    world.pass_time(3600)
    world.finish(1)
    world.pass_time(-600)
    world.decide_all()
    world.pass_time(600)
    world.decide_all()
    assert ids(world) == ["20260101t0100z"]
    world.pass_time(-2 * 3600)
    world.decide_all()
    world.pass_time(3590)
    world.decide_all()
    assert ids(world) == ["20260101t0100z", "20260101t0000z"], "what comes is done, although the clock was beyond it"
    world.finish(1)
    world.pass_time(3600)
    world.decide_all()
    assert [run.state for run in world.state.runs_of(PATH)] == [RunState.SUCCEEDED] * 2, "a time that comes again is the same"


def test_stopped_jobs_do_not_run_and_make_up_for_nothing() -> None:
    world = hourly()
    world.ask(changes.stop, PATH)
    world.pass_time(5 * 3600)
    world.decide_all()
    assert ids(world) == []


def test_a_new_schedule_begins_when_it_is_given() -> None:
    world = hourly()
    before = world.app.fired
    world.apply(job(job={"schedule": {"cron": "30 * * * *"}}))
    assert world.app.fired == AT
    world.apply(job("report:2", job={"schedule": {"cron": "30 * * * *"}}))
    assert world.app.fired == AT
    assert before


def test_the_next_times_are_told_in_the_zone_of_the_schedule() -> None:
    schedule = Schedule(cron="0 3 * * *", timezone="Europe/Berlin")
    assert told(schedule, next_times(schedule, START)) == "next runs: 2026-01-01 03:00, 2026-01-02 03:00, 2026-01-03 03:00 (Europe/Berlin)"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["time", "restart", "go", "finish"]), st.integers(0, 40)), max_size=30))
def test_whatever_comes_in_between_each_time_has_one_run_at_most_and_none_overlap(happenings: list[tuple[str, int]]) -> None:
    world = hourly()
    for what, minutes in happenings:
        match what:
            case "time":
                world.pass_time(minutes * 60)
                world.decide_all()
            case "restart":
                world.restart_coordinator()
                for name in world.machines:
                    world.connect(name)
            case "go":
                world.go()
            case "finish":
                world.finish(1)
        assert sum(run.state is RunState.RUNNING for run in world.state.runs_of(PATH)) <= 1
    found = ids(world)
    assert len(set(found)) == len(found)
    assert all(run.created_at >= (START + timedelta(hours=1)).isoformat() for run in world.state.runs_of(PATH))


def test_a_calendar_that_was_never_begun_begins_now() -> None:
    found = due(Schedule(cron="* * * * *"), "", START, "")
    assert (found.fired, found.run) == (START, None)
