"""What every change promises at every step, whatever comes in between: enough are healthy, no more than allowed run, and it ends well."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from math import ceil, floor

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gestalt.coordinator import changes, steering
from gestalt.coordinator.canary import number
from gestalt.coordinator.records import Placed, TaskState
from gestalt.errors import GestaltError
from gestalt.model import Health
from tests.unit.coordinator.world import PATH, World, spec

BROKEN = frozenset({"web:bad"})
STRATEGIES = ("rolling", "canary", "blue_green", "recreate")
LOOKS = ("decide", "agent", "decide", "agent", "agent", "time", "restart", "sick")
ASKS = ("scale", "update", "broken", "pause", "resume", "cancel", "promote")
STEPS = st.lists(st.tuples(st.sampled_from((*LOOKS, *ASKS)), st.integers(0, 11)), min_size=15, max_size=80)
VERBS = {"pause": steering.pause, "resume": steering.resume, "cancel": steering.cancel, "promote": steering.promote}


class Witness:
    """A world in which every look of the coordinator is compared with what was promised."""

    def __init__(self, strategy: str, count: int, auto: bool) -> None:
        self.strategy, self.promote = strategy, "auto" if auto else "manual"
        self.world = World(broken=BROKEN)
        self.made = 1
        self.update("web:1", count)
        self.world.settle()

    def update(self, image: str, count: int) -> None:
        update = {"strategy": self.strategy, "canary": "50%", "promote": self.promote, "promote_after": 20}
        self.world.apply(spec(image, instances=count, update=update))

    def happen(self, what: str, which: int) -> None:
        world = self.world
        match what:
            case "decide":
                self.decide()
            case "scale":
                world.ask(changes.scale, PATH, which % 6 + 1)
            case "update":
                self.made += 1
                self.update(f"web:{self.made}", world.app.count)
            case "broken":
                self.update("web:bad", world.app.count)
            case "pause" | "resume" | "cancel" | "promote":
                self.steer(what)
            case "sick":
                self.sicken(which)
            case _:
                world.happen(what, which)

    def steer(self, what: str) -> None:
        ready = sum(item.version == self.world.app.canary for item in self.world.ready())
        verb, arguments = VERBS[what], ("" if ready else "not well",) if what == "promote" else ()
        with suppress(GestaltError):
            self.world.ask(verb, PATH, *arguments)

    def sicken(self, which: int) -> None:
        """Let one that is healthy fail its checks, until its agent has made it well again."""
        world = self.world
        if ready := world.ready():
            placed = ready[which % len(ready)]
            seen = replace(world._observed(placed), ready=False, health=Health.UNHEALTHY)
            world.running[seen.instance] = seen
            world.tracker.observed(world.view, [seen], ())

    def split(self) -> tuple[list[Placed], list[Placed]]:
        """Return what is to stay: of the wanted version and those before it, and canaries."""
        staying = [item for item in self.world.placed if not item.stop]
        return [item for item in staying if not self.world.app.tries(item)], [item for item in staying if self.world.app.tries(item)]

    def serving(self) -> int:
        ready = {item.serial for item in self.world.ready()}
        return sum(item.serial in ready for item in self.split()[0])

    def decide(self) -> None:
        """Let the coordinator take one look, and hold it against the promises."""
        world, app = self.world, self.world.app
        (main, canaries), serving = self.split(), self.serving()
        trial = world.state.version(PATH, app.canary).spec if app.canary else None
        world.decide()
        if world.app.version != app.version:
            return  # promoted, or rolled back: other rules from the next look on
        (after, canaries_after), serving_after = self.split(), self.serving()
        old = sum(item.version != app.version for item in main)
        surge = old if self.strategy == "blue_green" else 1
        assert len(after) <= max(len(main), app.wanted + surge)
        assert len(canaries_after) <= max(len(canaries), number(app, trial) if trial is not None else 0)
        if self.strategy in ("rolling", "canary"):
            assert serving_after >= min(serving, app.wanted), "fewer serve than was promised"
        if app.paused:
            assert {item.serial for item in main} <= {item.serial for item in after}, "stopped during a pause"
            assert len(after) <= max(len(main), app.at_pause)

    def end(self) -> None:
        """Let the operator be content, and everything come to rest."""
        if self.world.app.paused:
            self.world.ask(steering.resume, PATH)
        for _ in range(8):
            self.world.settle()
            self.world.pass_time(301)


@settings(max_examples=300)
@given(STEPS, st.sampled_from(("update", "broken", "scale")), st.sampled_from(STRATEGIES), st.integers(1, 5), st.booleans())
def test_changes_keep_what_they_promise_and_end_in_an_allowed_state(
    steps: list[tuple[str, int]], first: str, strategy: str, count: int, auto: bool
) -> None:
    witness = Witness(strategy, count, auto)
    witness.happen(first, count + 1)
    for what, which in steps:
        witness.happen(what, which)
    witness.end()
    world, app = witness.world, witness.world.app
    running = [task for task in world.state.tasks.values() if task.state is TaskState.RUNNING]
    if app.canary:
        template = world.state.version(PATH, app.canary).spec
        assert [task.id for task in running] == [app.canary_task]
        assert template.image != "web:bad"
        assert template.update.promote == "manual"
        canaries = number(app, template)
    else:
        assert running == []
        canaries = 0
    assert sorted(item.version for item in world.placed) == sorted([app.version] * app.count + [app.canary] * canaries)
    assert len(world.ready()) == app.count + canaries
    assert world.state.version(PATH, app.version).spec.image != "web:bad"
    assert (app.paused, app.task) == ("", "")
    told = {task.state: task.message for task in world.state.tasks.values()}
    assert all(message for state, message in told.items() if state is not TaskState.RUNNING)


BETWEEN = st.lists(st.tuples(st.sampled_from(("decide", "agent", "agent", "restart", "time")), st.integers(0, 9)), max_size=60)
SHARE = st.one_of(st.integers(0, 4).map(str), st.sampled_from(("0%", "10%", "25%", "34%", "50%", "100%")))


def part(share: str, count: int) -> Fraction:
    return Fraction(int(share[:-1]) * count, 100) if share.endswith("%") else Fraction(share)


@settings(max_examples=300)
@given(BETWEEN, SHARE, SHARE, st.integers(1, 9), st.sampled_from(("web:2", "web:bad")))
def test_a_rolling_update_keeps_to_its_numbers_at_every_step(
    between: list[tuple[str, int]], surge: str, unavailable: str, count: int, image: str
) -> None:
    """Surge is rounded up and what may be missing down; if both come to nothing, one more may run."""
    assume(int(surge.rstrip("%")) or int(unavailable.rstrip("%")))
    more, fewer = ceil(part(surge, count)), floor(part(unavailable, count))
    world = World(broken=BROKEN)
    update = {"max_surge": surge, "max_unavailable": unavailable}
    for wanted in ("web:1", image):
        world.apply(spec(wanted, instances=count, update=update))
        if wanted == "web:1":
            world.settle()
    for what, which in between:
        world.happen(what, which)
        assert len(world.ready()) >= count - fewer, "fewer are healthy than was promised"
        assert sum(not item.stop for item in world.placed) <= count + (more or not fewer), "more run than was promised"
    for _ in range(8):
        world.settle()
        world.pass_time(301)
    assert (len(world.ready()), len(world.placed)) == (count, count), "as many as are wanted, no more"
    assert {item.version for item in world.placed} == {2 if image == "web:2" and world.app.version == 2 else 1}
    assert world.last_task.state is (TaskState.SUCCEEDED if world.app.version == 2 else TaskState.FAILED)
