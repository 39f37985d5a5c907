"""Room is made for apps that may have others stopped: in order of priority, once for each instance, and by the next leader, too."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from gestalt.coordinator import changes, preemption, runs, steering
from gestalt.coordinator.records import Switches
from tests.unit.coordinator.crowd import AREA, Begin, app, urgent


async def test_the_smallest_set_is_stopped_and_its_room_is_taken_when_it_is_free(begin: Begin) -> None:
    crowd = await begin(4, 4)
    await crowd.apply(app("large", 2, 3), app("small", 2, 1))
    crowd.machines["n1"].slow = crowd.machines["n2"].slow = True
    await crowd.apply(urgent(1, 3))
    assert (crowd.on("large"), crowd.leaving("large"), crowd.on("urgent")) == ({"n2": 1}, 1, {}), "nothing starts before the room is free"
    assert crowd.of("urgent").claims == ("n1",)
    assert crowd.why("urgent") == "room is kept for it on node n1, when 1 instance has stopped there"
    assert crowd.told("instance.preempted") == [
        f"large-{crowd.of('large').uid}-1 is stopped to make room for {AREA}urgent (priority 80 over 50)"
    ]
    await crowd.let("n1")
    assert (crowd.on("urgent"), crowd.of("urgent").claims, crowd.why("urgent")) == ({"n1": 1}, (), "")
    assert (crowd.on("large"), crowd.on("small")) == ({"n2": 1}, {"n1": 1, "n2": 1})
    assert crowd.why("large") == (
        f"it had to make room for {AREA}urgent (priority 80 over 50);"
        " 2 nodes: too few cores left (n1 has 0 of 4 cores left, 3 are asked for)"
    )


@pytest.mark.parametrize(
    ("mine", "theirs", "stops"),
    [
        ({"priority": 80}, {"priority": 71}, False),
        ({"priority": 80}, {"priority": 70}, True),
        ({"priority": 50}, {}, False),
        ({"priority": 80, "preempt": False}, {"priority": 0}, False),
        ({"priority": 80}, {"placement": {"exclusive": True}}, False),
        ({"priority": 80}, {"kind": "system", "instances": 0, "update": {"max_surge": "0", "max_unavailable": "1"}}, False),
    ],
)
async def test_who_is_stopped_for_whom(begin: Begin, mine: dict[str, object], theirs: dict[str, object], stops: bool) -> None:
    crowd = await begin(1)
    await crowd.apply(app("other", **theirs))  # type: ignore[arg-type]
    await crowd.apply(urgent(**mine))
    assert crowd.on("urgent") == ({"n1": 1} if stops else {})
    assert len(crowd.told("instance.preempted")) == stops
    if not stops:
        assert crowd.on("other") == {"n1": 1}


async def test_a_run_of_a_job_is_not_stopped(begin: Begin) -> None:
    crowd = await begin(1)
    await crowd.apply(app("job", 0, kind="job", priority=0, checks=[]))
    await crowd.ask(runs.begin, AREA + "job", {})
    await crowd.apply(urgent())
    assert (crowd.on("job"), crowd.on("urgent")) == ({"n1": 1}, {})


async def test_nothing_is_stopped_when_even_all_of_it_would_not_do(begin: Begin) -> None:
    crowd = await begin(4, 2)
    await crowd.apply(app("important", 1, 3, priority=80), app("other", 3))
    assert crowd.on("important") == {"n1": 1}
    await crowd.apply(urgent(1, 3))
    assert (crowd.on("other"), crowd.of("urgent").claims, crowd.told("instance.preempted")) == ({"n1": 1, "n2": 2}, (), [])
    assert crowd.why("urgent").endswith("; stopping what has a lower priority would not make room")
    await crowd.ask(changes.scale, AREA + "important", 0)
    assert crowd.on("urgent") == {"n1": 1}
    assert crowd.told("instance.preempted") == []


async def test_each_missing_instance_has_room_made_for_it_once(begin: Begin) -> None:
    crowd = await begin(4, 4)
    await crowd.apply(app("other", 8))
    for machine in crowd.machines.values():
        machine.slow = True
    await crowd.apply(urgent(3))
    for _ in range(3):
        crowd.decider.wake([AREA + "urgent", AREA + "other"])
        await crowd.settle()
    assert (crowd.leaving("other"), len(crowd.of("urgent").claims)) == (3, 3)
    await crowd.let("n1")
    assert len(crowd.placed("urgent")) == 3 - len(crowd.of("urgent").claims) > 0
    await crowd.let("n2")
    assert (len(crowd.placed("urgent")), len(crowd.placed("other")), crowd.leaving("other")) == (3, 5, 0)
    await crowd.ask(changes.scale, AREA + "urgent", 4)
    assert (len(crowd.placed("urgent")), len(crowd.placed("other"))) == (4, 4)
    await crowd.ask(changes.scale, AREA + "urgent", 0)
    assert len(crowd.placed("other")) == 8
    assert (crowd.of("other").gave_way, crowd.why("other")) == ("", "")


@pytest.mark.parametrize(("operator", "racks"), [("unique", {"r1": 1, "r2": 1}), ("group-by", {"r1": 2, "r2": 1}), ("cluster", {"r1": 3})])
async def test_limits_on_how_instances_are_distributed_are_kept(begin: Begin, operator: str, racks: dict[str, int]) -> None:
    crowd = await begin(2, 2, 2)
    for name, machine in crowd.machines.items():
        machine.labels = {"rack": "r2" if name == "n3" else "r1"}
    await crowd.change_leader()
    await crowd.apply(app("other", 6))
    await crowd.apply(urgent(3, placement={"constraints": [{"attribute": "rack", "operator": operator}]}))
    await crowd.settle()
    found = Counter(crowd.machines[item.node].labels["rack"] for item in crowd.placed("urgent"))
    assert (found, len(crowd.placed("other"))) == (racks, 6 - sum(racks.values()))


async def test_what_stops_anyhow_is_waited_for_and_nobody_else_is_stopped(begin: Begin) -> None:
    crowd = await begin(2)
    await crowd.apply(app("other"), app("equal", priority=80))
    crowd.machines["n1"].slow = True
    await crowd.ask(changes.stop, AREA + "equal")
    await crowd.apply(urgent())
    assert (crowd.told("instance.preempted"), crowd.on("urgent")) == ([], {})
    await crowd.let("n1")
    assert (crowd.on("urgent"), crowd.on("other")) == ({"n1": 1}, {"n1": 1})


async def test_nobody_gets_between_an_app_and_the_room_that_was_made_for_it(begin: Begin) -> None:
    crowd = await begin(2)
    await crowd.apply(app("other", 2))
    crowd.machines["n1"].slow = True
    await crowd.apply(urgent(1, 2), app("a", 1, 1), app("urgent-as-well", 1, 2, priority=80, preempt=True))
    crowd.machines["n1"].quick = {f"other-{crowd.of('other').uid}-1"}
    await crowd.settle()
    assert (crowd.leaving("other"), crowd.on("other"), crowd.of("a").next_serial) == (1, {}, 1), "one core is free, and kept"
    await crowd.let("n1")
    assert (crowd.on("urgent"), crowd.on("a"), crowd.on("urgent-as-well"), crowd.on("other")) == ({"n1": 1}, {}, {}, {})


async def test_who_waits_gets_room_in_order_of_priority(begin: Begin) -> None:
    crowd = await begin(2)
    await crowd.apply(app("now", 1, 2, priority=100), app("a", 1, 1, priority=10), app("b", 1, 2, priority=90), app("c", 1, 2, priority=60))
    await crowd.ask(changes.stop, AREA + "now")
    assert (crowd.on("a"), crowd.on("b"), crowd.on("c")) == ({}, {"n1": 1}, {})


async def test_of_two_that_make_room_the_more_important_one_does_first(begin: Begin) -> None:
    crowd = await begin(2)
    await crowd.apply(app("other", 2, 1), app("a", 1, 1, priority=70), app("b", 1, 2, priority=75))
    crowd.machines["n1"].slow = True
    async with crowd.ledger.draft("tester", "change") as draft:
        for number, spec in enumerate((app("a", 1, 1, priority=70, preempt=True), app("b", 1, 2, priority=75, preempt=True))):
            changes.describe(draft, None, spec, (), changes.Asked("tester", "2026-01-01T00:00:00+00:00", 0, f"t{number}", f"{number}"))
    await crowd.settle()
    await crowd.let("n1")
    assert (crowd.on("b"), crowd.on("a"), crowd.on("other")) == ({"n1": 1}, {}, {})


async def test_the_evicted_go_elsewhere_or_evict_others_in_turn_but_never_back(begin: Begin) -> None:
    crowd = await begin(2, 1)
    await crowd.apply(app("high", 1, 2, priority=60, preempt=True), app("low", 1, 1, priority=20))
    await crowd.apply(urgent(1, 2))
    assert (crowd.on("urgent"), crowd.on("high"), crowd.on("low")) == ({"n1": 1}, {}, {"n2": 1})
    await crowd.ask(changes.delete, AREA + "high")
    await crowd.apply(app("mid", 1, 1, priority=40, preempt=True))
    assert (crowd.on("urgent"), crowd.on("mid"), crowd.on("low")) == ({"n1": 1}, {"n2": 1}, {})
    assert len(crowd.told("instance.preempted")) == 2


@pytest.mark.parametrize("deaf_to", ["", "n1"])
async def test_a_new_leader_goes_on_where_the_one_before_stopped(begin: Begin, monkeypatch: pytest.MonkeyPatch, deaf_to: str) -> None:
    monkeypatch.setattr(preemption, "PATIENCE", 0.3)
    crowd = await begin(2, 2)
    await crowd.apply(app("other", 2, 2))
    crowd.machines["n1"].slow = crowd.machines["n2"].slow = True
    await crowd.apply(urgent(1, 2))
    assert crowd.of("urgent").claims == ("n1",)
    await crowd.change_leader(deaf_to=deaf_to)
    assert crowd.of("urgent").claims == ("n1",)
    await crowd.apply(app("a", 1, 1))
    if deaf_to:
        crowd.hear(deaf_to)
    await crowd.let("n1", "n2")
    assert (crowd.on("urgent"), crowd.on("other"), crowd.on("a")) == ({"n1": 1}, {"n2": 1}, {})
    assert len(crowd.told("instance.preempted")) == 1


async def test_a_leader_that_has_not_heard_all_nodes_waits_before_it_has_anybody_stopped(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preemption, "PATIENCE", 0.2)
    crowd = await begin(2, 1)
    await crowd.apply(app("other", 1, 2))
    await crowd.change_leader(deaf_to="n2")
    await crowd.apply(urgent())
    assert crowd.told("instance.preempted") == []
    crowd.hear("n2")
    await crowd.settle()
    assert (crowd.on("urgent"), crowd.told("instance.preempted")) == ({"n2": 1}, [])
    await crowd.change_leader(deaf_to="n2")
    await crowd.ask(changes.scale, AREA + "urgent", 2)
    assert crowd.told("instance.preempted") == []
    await crowd.until(lambda: len(crowd.told("instance.preempted")) == 1)
    assert crowd.on("urgent") == {"n1": 1, "n2": 1}


async def test_room_on_a_node_that_is_lost_is_made_elsewhere(begin: Begin) -> None:
    crowd = await begin(2, 2, 2)
    await crowd.apply(app("other", 3, 2))
    for machine in crowd.machines.values():
        machine.slow = True
    await crowd.apply(urgent(1, 2))
    assert crowd.of("urgent").claims == ("n1",)
    crowd.lose("n1")
    await crowd.until(lambda: crowd.of("urgent").claims == ("n2",))
    await crowd.let("n2")
    assert (crowd.on("urgent"), crowd.on("other")) == ({"n2": 1}, {"n3": 1})


async def test_nobody_is_stopped_while_the_brakes_hold_or_the_change_is_paused(begin: Begin) -> None:
    crowd = await begin(1)
    await crowd.apply(app("other"))
    async with crowd.ledger.draft("tester", "pause") as draft:
        draft.put(Switches(paused="by tester"))
    await crowd.apply(urgent())
    assert crowd.on("other") == {"n1": 1}
    assert crowd.why("urgent").endswith("; nobody is stopped to make room: replacement is paused by tester")
    await crowd.ask(steering.pause, AREA + "urgent")
    async with crowd.ledger.draft("tester", "resume") as draft:
        draft.put(Switches())
    await asyncio.sleep(1.1)  # time has to pass: it would be tried again by now
    await crowd.settle()
    assert crowd.on("other") == {"n1": 1}
    await crowd.ask(steering.resume, AREA + "urgent")
    assert (crowd.on("urgent"), crowd.on("other")) == ({"n1": 1}, {})


async def test_what_is_paused_is_not_stopped_for_others(begin: Begin) -> None:
    crowd = await begin(2)
    await crowd.apply(app("other", 3))
    await crowd.ask(steering.pause, AREA + "other")
    await crowd.apply(urgent())
    assert (crowd.on("urgent"), crowd.on("other")) == ({}, {"n1": 2})
    await crowd.ask(steering.resume, AREA + "other")
    await crowd.until(lambda: crowd.on("urgent") == {"n1": 1})


async def test_who_waits_is_not_forgotten_when_the_brakes_are_off(begin: Begin) -> None:
    crowd = await begin(1)
    await crowd.apply(app("other"))
    async with crowd.ledger.draft("tester", "pause") as draft:
        draft.put(Switches(paused="by tester"))
    await crowd.apply(urgent())
    async with crowd.ledger.draft("tester", "resume") as draft:
        draft.put(Switches())
    await crowd.until(lambda: crowd.on("urgent") == {"n1": 1})


async def test_who_does_not_want_it_any_more_leaves_the_room_to_others(begin: Begin) -> None:
    crowd = await begin(1)
    await crowd.apply(app("other"))
    crowd.machines["n1"].slow = True
    await crowd.apply(urgent())
    await crowd.ask(changes.stop, AREA + "urgent")
    assert crowd.of("urgent").claims == ()
    await crowd.let("n1")
    assert (crowd.on("other"), crowd.on("urgent"), crowd.why("other")) == ({"n1": 1}, {}, "")


async def test_a_fixed_host_port_is_waited_for_until_its_holder_is_gone(begin: Begin) -> None:
    crowd = await begin(4)
    fixed = [{"name": "http", "container_port": 80, "host_port": 8080}]
    await crowd.apply(app("other", ports=fixed))
    crowd.machines["n1"].slow = True
    await crowd.apply(urgent(ports=fixed), app("a", ports=fixed))
    assert (crowd.on("urgent"), crowd.leaving("other"), crowd.of("urgent").claims) == ({}, 1, ("n1",))
    await crowd.change_leader()
    assert crowd.on("urgent") == {}
    await crowd.let("n1")
    assert (crowd.on("urgent"), crowd.on("a")) == ({"n1": 1}, {})


async def test_nobody_is_stopped_for_what_is_still_at_work(begin: Begin) -> None:
    crowd = await begin(2, 2)
    await crowd.apply(urgent(1, 2), app("other", 1, 2))
    await crowd.apply(urgent(1, 2, image="web:2"))
    assert crowd.told("instance.preempted") == []
    await crowd.put_node("n1", admin="draining", drain="task")
    assert (len(crowd.placed("urgent")), crowd.told("instance.preempted")) == (1, [])


async def test_what_was_lost_with_its_node_gets_room_on_another(begin: Begin) -> None:
    crowd = await begin(2, 2, 2, 2)
    await crowd.apply(urgent(2, 2), app("other", 2, 2))
    gone = next(iter(crowd.on("urgent")))
    crowd.lose(gone)
    await crowd.settle()
    assert (len(crowd.on("urgent")), len(crowd.placed("other"))) == (2, 1)
    assert gone not in crowd.on("urgent")


async def test_an_update_of_what_was_stopped_waits_for_room_and_does_not_fail(begin: Begin) -> None:
    crowd = await begin(2)
    await crowd.apply(app("other", 2, update={"progress_deadline": "2s", "health_deadline": "1s"}))
    await crowd.apply(urgent())
    before = crowd.of("other")
    await crowd.apply(app("other", 2, image="web:2", update={"progress_deadline": "2s", "health_deadline": "1s", "max_unavailable": 1}))
    assert crowd.of("other").gave_way
    await asyncio.sleep(2.5)  # time has to pass: the deadline of the update is over
    await crowd.settle()
    assert crowd.of("other").version == before.version + 1
    assert crowd.state.tasks[crowd.of("other").task].rolling_back == ""
    await crowd.ask(changes.stop, AREA + "urgent")
    assert crowd.on("other") == {"n1": 2}
    assert crowd.of("other").gave_way == ""
