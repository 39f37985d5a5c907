"""What a change of an app whose instances were stopped for others waits for, and what it does not."""

from __future__ import annotations

import asyncio

from gestalt.coordinator import changes
from gestalt.coordinator.records import TaskState
from tests.unit.coordinator.crowd import AREA, Begin, Crowd, app

BRIEF = {"progress_deadline": "2s", "health_deadline": "1s", "min_healthy_time": "200ms"}


URGENT = app("urgent", 1, 1, priority=80, preempt=True)


async def go_by(crowd: Crowd, seconds: float) -> None:
    """Let time pass in which the apps are looked at again and again, as in a cluster where something always happens."""
    for _ in range(round(seconds / 0.1)):
        await asyncio.sleep(0.1)
        crowd.decider.wake(crowd.state.apps)
        await crowd.settle()


async def test_an_update_whose_additional_instance_was_stopped_waits_for_room(begin: Begin) -> None:
    crowd = await begin(3)
    rolling = BRIEF | {"max_surge": 1, "max_unavailable": 0, "min_healthy_time": "500ms"}
    await crowd.apply(app("other", 2, update=rolling))
    await crowd.until(lambda: crowd.of("other").stable == 1)
    await crowd.apply(app("other", 2, image="web:2", update=rolling))
    await crowd.apply(URGENT)
    assert len(crowd.told("instance.preempted")) == 1
    assert crowd.on("other") == {"n1": 2}, "as many as are wanted"
    await go_by(crowd, 2.5)
    task = crowd.state.tasks[crowd.of("other").task]
    assert (crowd.of("other").version, task.state, task.rolling_back) == (2, TaskState.RUNNING, "")
    assert AREA + "urgent" in crowd.why("other")
    await crowd.ask(changes.stop, AREA + "urgent")
    await crowd.until(lambda: crowd.of("other").stable == 2)
    assert (crowd.of("other").gave_way, crowd.on("other")) == ("", {"n1": 2})


async def test_a_canary_that_was_stopped_is_not_held_against_its_version(begin: Begin) -> None:
    crowd = await begin(4)
    tried = BRIEF | {"strategy": "canary", "promote": "manual"}
    await crowd.apply(app("other", 2, 1.5, update=tried))
    await crowd.until(lambda: crowd.of("other").stable == 1)
    await crowd.apply(app("other", 2, 1, image="web:2", update=tried))
    await crowd.until(lambda: len(crowd.placed("other")) == 3)
    await crowd.apply(URGENT)
    assert [(item.serial, item.version) for item in crowd.placed("other")] == [(1, 1), (2, 1)]
    await go_by(crowd, 2.5)
    assert (crowd.of("other").canary, crowd.state.tasks[crowd.of("other").canary_task].state) == (2, TaskState.RUNNING)
    assert AREA + "urgent" in crowd.why("other")
    await crowd.ask(changes.stop, AREA + "urgent")
    assert [item.version for item in crowd.placed("other")] == [1, 1, 2]
    assert (crowd.of("other").canary, crowd.of("other").gave_way) == (2, "")


async def test_a_migration_of_what_had_others_stopped_ends_by_its_deadline(begin: Begin) -> None:
    crowd = await begin(1, 1)
    await crowd.apply(app("other", 2, update=BRIEF))
    await crowd.until(lambda: crowd.of("other").stable == 1)
    await crowd.apply(URGENT)
    left = crowd.placed("other")[0].node
    await crowd.ask(lambda draft, asked: changes.migrate(draft, AREA + "other", crowd.state.nodes[left], None, asked))
    task = crowd.of("other").task
    assert crowd.of("other").moving
    await go_by(crowd, 2.5)
    assert crowd.state.tasks[task].state is TaskState.FAILED
    assert "too few cores left" in crowd.state.tasks[task].message or "0 of 1 cores left" in crowd.state.tasks[task].message
    assert (crowd.on("other"), crowd.of("other").moving) == ({left: 1}, ())
    assert crowd.of("other").gave_way, "one of it still waits for room"
