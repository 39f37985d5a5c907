"""Making room when much is asked for at once, or something changes in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gestalt.coordinator import changes, steering
from gestalt.coordinator.canary import as_goal
from gestalt.coordinator.eviction import MANY, in_parts
from gestalt.coordinator.planner import Planner
from gestalt.coordinator.records import App, Switches
from gestalt.coordinator.scheduler.preempt import Kind, Room, Victim
from gestalt.spec.schema import Resources
from tests.unit.coordinator.crowd import AREA, Begin, Crowd, app, urgent
from tests.unit.coordinator.world import AT


@pytest.mark.parametrize("sizes", [[], [1] * 250, [30] * 10, [99, 2, 98], [5, 250, 5], [0] * 150])
def test_rooms_are_made_in_parts_that_a_document_can_tell_of(sizes: list[int]) -> None:
    kind = Kind(50, Resources())
    rooms = [Room(f"n{at}", tuple(Victim(f"{at}-{number}", kind) for number in range(size))) for at, size in enumerate(sizes)]
    parts = in_parts(rooms)
    assert [room for part in parts for room in part] == rooms
    for part in parts:
        assert part
        assert len(part) == 1 or sum(max(1, len(room.victims)) for room in part) <= MANY


async def test_many_are_stopped_by_several_commits_none_of_which_is_too_large(begin: Begin) -> None:
    crowd = await begin(90, 90)
    await crowd.apply(app("other", 180, 1))
    crowd.machines["n1"].slow = crowd.machines["n2"].slow = True
    await crowd.apply(urgent(16, 10))
    assert (crowd.leaving("other"), len(crowd.of("urgent").claims)) == (160, 16)
    assert len(crowd.told("instance.preempted")) == 160
    stopped = [sum(event.kind == "instance.preempted" for event in audit.events) for audit in crowd.state.audits.values()]
    assert max(stopped) <= MANY
    await crowd.let("n1", "n2")
    assert (len(crowd.placed("urgent")), len(crowd.placed("other"))) == (16, 20)


def meanwhile(crowd: Crowd, monkeypatch: pytest.MonkeyPatch, act: Callable[[], Awaitable[None]]) -> None:
    """Have something happen between the first search and what is done with its result."""
    search, happened = crowd.decider.preemption._search, list[bool]()

    async def searched(found: App, number: int) -> list[Room]:
        rooms = await search(found, number)
        if not happened:
            happened.append(True)
            await act()
        return rooms

    monkeypatch.setattr(crowd.decider.preemption, "_search", searched)


async def test_who_was_forestalled_while_it_searched_searches_again(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = await begin(3, 3)
    await crowd.apply(app("big", 1, 3), app("other", 1, 1))

    async def forestall() -> None:
        async with crowd.ledger.draft("tester", "change") as draft:
            changes.describe(draft, None, app("small", 2, 1, priority=90), (), changes.Asked("tester", AT, 0, "t", "ffffff"))
        for _ in range(20):
            await asyncio.sleep(0)  # the leader places it

    meanwhile(crowd, monkeypatch, forestall)
    await crowd.apply(urgent(1, 3))
    assert (crowd.on("small"), crowd.told("instance.preempted")) == ({"n2": 2}, [])
    await crowd.until(lambda: crowd.on("urgent") == {"n1": 1})


async def test_who_searched_when_replacement_was_paused_has_room_when_it_goes_on(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = await begin(1)
    await crowd.apply(app("other"))

    async def switch(by: str = "by tester") -> None:
        async with crowd.ledger.draft("tester", "pause") as draft:
            draft.put(Switches(paused=by))

    meanwhile(crowd, monkeypatch, switch)
    await crowd.apply(urgent())
    assert crowd.on("other") == {"n1": 1}
    await switch("")
    await crowd.until(lambda: crowd.on("urgent") == {"n1": 1})


async def test_room_that_is_kept_for_an_app_keeps_those_away_that_are_apart_from_it(begin: Begin) -> None:
    crowd = await begin(4, 4)
    await crowd.apply(app("other", 4), app("x", 4, priority=75))
    crowd.machines["n1"].slow = crowd.machines["n2"].slow = True
    await crowd.apply(urgent(), app("apart", 1, 1, priority=80, preempt=True, placement={"apart_from": [AREA + "urgent"]}))
    assert (crowd.of("urgent").claims, crowd.of("apart").claims) == (("n1",), ("n2",))
    await crowd.let("n1", "n2")
    assert (crowd.on("urgent"), crowd.on("apart")) == ({"n1": 1}, {"n2": 1})
    assert len(crowd.told("instance.preempted")) == 2


async def test_nobody_who_is_apart_from_an_app_takes_the_node_where_room_is_kept_for_it(begin: Begin) -> None:
    crowd = await begin(8, 8)
    fixed = [{"name": "http", "container_port": 80, "host_port": 8080}]
    await crowd.apply(app("other", 2, ports=fixed), app("full", 2, 3, priority=90, placement=_on("n2")))
    crowd.machines["n1"].slow = crowd.machines["n2"].slow = True
    await crowd.apply(urgent(ports=fixed))
    assert crowd.of("urgent").claims == ("n1",)
    await crowd.apply(app("apart", 1, 2, priority=0, placement={"apart_from": [AREA + "urgent"], **_on("n1")}))
    assert (crowd.on("apart"), crowd.of("urgent").claims) == ({}, ("n1",))
    assert f"keeps room for {AREA}urgent, from which it is kept apart" in crowd.why("apart")
    await crowd.let("n1", "n2")
    assert (crowd.on("urgent"), len(crowd.told("instance.preempted"))) == ({"n1": 1}, 1)
    assert f"has an instance of {AREA}urgent, from which it is kept apart" in crowd.why("apart")
    await crowd.ask(changes.stop, AREA + "urgent")
    assert crowd.on("apart") == {"n1": 1}


def _on(node: str) -> dict[str, object]:
    return {"constraints": [{"attribute": "node.name", "value": node}]}


async def test_a_canary_does_not_take_the_room_that_is_kept_for_the_wanted_version(begin: Begin) -> None:
    crowd = await begin(1)
    await crowd.apply(app("other"))
    crowd.machines["n1"].slow = True
    await crowd.apply(urgent())
    assert crowd.of("urgent").claims == ("n1",)
    assert as_goal(crowd.of("urgent"), crowd.state.version(AREA + "urgent", 1).spec).kept_room == ()


async def test_a_plan_names_nobody_twice_and_nobody_for_what_does_not_start(begin: Begin) -> None:
    crowd = await begin(2)
    planner = Planner(crowd.ledger, crowd.decider)
    await crowd.apply(app("other", 2))
    plan, other = app("urgent", 1, 1, priority=80, preempt=True), f"other-{crowd.of('other').uid}"
    named: set[str] = set()
    for name, number in (("a", 1), ("b", 2)):
        (told,) = await planner.preempted(app(name, 1, 1, priority=80, preempt=True), named)
        assert told.startswith(f"to make room, 1 instance of lower priority would be stopped: {other}-{number} of {AREA}other")
    assert await planner.preempted(plan, named) == [], "none is left"
    assert await planner.preempted(plan, set())
    await crowd.apply(app("urgent", 3, 1))
    await crowd.ask(steering.pause, AREA + "urgent")
    assert await planner.preempted(plan, set()) == []
    await crowd.ask(steering.resume, AREA + "urgent")
    assert await planner.preempted(plan, set())
    await crowd.ask(changes.stop, AREA + "urgent")
    assert await planner.preempted(plan, set()) == []


async def test_a_plan_foresees_who_is_stopped_for_those_that_do_not_fit_beside_the_others(begin: Begin) -> None:
    crowd = await begin(2)
    await crowd.apply(app("other"))
    plan = app("urgent", 2, 1, priority=80, preempt=True)
    assert len(await Planner(crowd.ledger, crowd.decider).preempted(plan, set())) == 1
    await crowd.apply(plan)
    await crowd.until(lambda: (crowd.on("urgent"), crowd.on("other")) == ({"n1": 2}, {}))
