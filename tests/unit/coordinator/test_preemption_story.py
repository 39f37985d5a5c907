"""Whatever happens in whatever order: nothing is over-committed, nobody is stopped by an equal, and in the end nobody waits in vain."""

from __future__ import annotations

import asyncio
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator import changes
from gestalt.coordinator.eviction import Lower, makes_room
from gestalt.coordinator.scheduler.fleet import released
from gestalt.coordinator.scheduler.obstacles import room_obstacle
from gestalt.coordinator.scheduler.place import place
from gestalt.spec.schema import AppSpec
from tests.unit.coordinator.crowd import AREA, Crowd, app

NAMES = ("a", "b", "c", "d")
PRIORITIES = (10, 15, 25, 60, 69)


def apps(*names: str, first: int = 0) -> st.SearchStrategy[AppSpec]:
    """Return descriptions. `first`: which of the priorities is the simplest one."""
    return st.builds(
        lambda name, instances, cpu, priority, preempt: app(name, instances, cpu, priority=priority, preempt=preempt),
        st.sampled_from(names),
        st.sampled_from([3, 4, 2]),
        st.sampled_from([2.0, 1.0, 3.0]),
        st.sampled_from([*PRIORITIES[first:], *PRIORITIES[:first]]),
        st.sampled_from([True, True, False]),
    )


_BEGIN = st.tuples(*(apps(name, first=number) for number, name in enumerate(NAMES))).map(lambda found: [("apply", spec) for spec in found])
_EVENT = st.one_of(
    st.tuples(st.just("apply"), apps(*NAMES)),
    st.tuples(st.sampled_from(["stop", "start"]), st.sampled_from(NAMES)),
    st.tuples(st.sampled_from(["slow", "let", "cordon", "open"]), st.sampled_from(["n1", "n2"])),
    st.tuples(st.just("leader"), st.none()),
)


async def happen(crowd: Crowd, what: str, which: object) -> None:
    name = str(which)
    match what:
        case "apply":
            assert isinstance(which, AppSpec)
            await crowd.apply(which)
        case "stop" | "start" if AREA + name in crowd.state.apps:
            await crowd.ask(changes.stop if what == "stop" else changes.start, AREA + name)
        case "slow":
            crowd.machines[name].slow = True
        case "let":
            await crowd.let(name)
        case "cordon" | "open":
            await crowd.put_node(name, admin="cordoned" if what == "cordon" else "ready")
        case "leader":
            await crowd.change_leader()


async def tell(story: list[tuple[str, object]]) -> None:
    crowd = Crowd(4, 3)
    await crowd.begin()
    try:
        for what, which in story:
            await happen(crowd, what, which)
        for name in crowd.machines:
            await crowd.put_node(name)
            await crowd.let(name)
        await crowd.settle()
        await crowd.until(lambda: crowd.decider.preemption.is_idle, "every search is done, or knows that it is in vain")
        await crowd.settle()
        look_at(crowd)
        stopped = len(crowd.told("instance.preempted"))
        await crowd.change_leader()
        assert len(crowd.told("instance.preempted")) == stopped, "it is at rest"
        look_at(crowd)
    finally:
        await crowd.end()


def look_at(crowd: Crowd) -> None:
    for message in crowd.told("instance.preempted"):
        found = re.search(r"\(priority (\d+) over (\d+)\)", message)
        assert found is not None
        assert int(found[1]) - int(found[2]) >= 10
    for path, found_app in crowd.state.apps.items():
        spec = crowd.state.version(path, found_app.version).spec
        missing = found_app.wanted - len(crowd.placed(path.removeprefix(AREA)))
        assert len(found_app.claims) == 0, "all that was to stop has stopped"
        assert bool(found_app.gave_way) <= bool(crowd.why(path.removeprefix(AREA)))
        if missing > 0:
            assert_it_waits_for_good_reason(crowd, path, spec)


def assert_it_waits_for_good_reason(crowd: Crowd, path: str, spec: AppSpec) -> None:
    ground = crowd.decider.ground(path)
    assert place(spec, 1, ground).missing
    lower = Lower(crowd.state, path, spec.placement.priority)
    for node in ground if makes_room(spec) else ():
        left = node
        for victim in lower.on(node.id):
            left = released(left, victim.ports, victim.kind.resources)
        assert room_obstacle(spec, left) is not None, f"{path} could have room on {node.name}"


@settings(max_examples=60, deadline=None)
@given(st.lists(_EVENT, max_size=2), _BEGIN, st.lists(_EVENT, max_size=8))
def test_whatever_happens_nobody_waits_in_vain_and_nothing_goes_round_in_circles(
    before: list[tuple[str, object]], begin: list[tuple[str, object]], after: list[tuple[str, object]]
) -> None:
    asyncio.run(tell([*before, *begin, *after]))
