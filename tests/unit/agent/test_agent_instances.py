"""The workers of a node on a runtime in memory: every interruption replayed, every fault that a runtime may show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gestalt.agent.desired import Desired
from gestalt.agent.exclusive import NoFence, Standing
from gestalt.clock import boottime
from gestalt.model import Grant, NodeState, Phase
from gestalt.plugin.runtime import AttemptState, AttemptStatus, Launch
from gestalt.spec.schema import Restart
from gestalt.spec.template import template_hash
from tests.unit.agent.agent_life import ONE, STRAY, TWO, Life, key, spec, wish
from tests.unit.agent.memory_runtime import World


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Callable[..., Life]]:
    lives: list[Life] = []

    def make(world: World, dies_at: int = 0, boot: str = "boot-1", grace: float = 0.05) -> Life:
        lives.append(Life(world, tmp_path, dies_at, boot, grace))
        return lives[-1]

    yield make
    for life in lives:
        await life.kill()


Live = Callable[..., Life]


async def bring_up(life: Life, *instances: str, **fields: object) -> None:
    await life.begin(wish(*instances, **fields))
    for item in instances:
        await life.until(f"{item} to run", lambda item=item: life.at(item, Phase.RUNNING, 1))


@pytest.mark.parametrize("dies_at", range(1, 14))
async def test_dies_anywhere_while_launching(live: Live, dies_at: int) -> None:
    world = World()
    first = live(world, dies_at)
    await first.begin(wish(ONE))
    await first.until("the first life to run it or to die", lambda: first.at(ONE, Phase.RUNNING, 1))
    await first.kill()
    second = live(world)
    await second.begin(wish(ONE))
    await second.until("it to run", lambda: second.at(ONE, Phase.RUNNING, 1))
    assert world.running(ONE) == [1]
    assert world.starts[ONE] == 1, "it was started more often than needed"
    assert len(world.of(ONE)) == 1


@pytest.mark.parametrize("dies_at", range(1, 14))
async def test_dies_anywhere_while_restarting(live: Live, dies_at: int) -> None:
    """The end of an attempt is counted once, and followed by one more attempt, wherever the agent dies meanwhile."""
    world = World()
    await bring_up(zero := live(world), ONE)
    await zero.end()
    first = live(world, dies_at)
    await first.begin(wish(ONE))
    await first.until("it to be adopted", lambda: first.at(ONE, Phase.RUNNING, 1))
    world.end(key(ONE), 1)
    await first.until("the second attempt", lambda: first.at(ONE, Phase.RUNNING, 2) and len(world.of(ONE)) == 1)
    await first.kill()
    second = live(world)
    await second.begin(wish(ONE))
    await second.until("the second attempt alone", lambda: second.at(ONE, Phase.RUNNING, 2) and len(world.of(ONE)) == 1)
    assert (world.running(ONE), world.starts[ONE]) == ([2], 2)
    assert second.saw(ONE).restarts == 1


async def stopped_by_two(live: Live, world: World, dies_at: int, is_done: Callable[[Life, str], bool], **fields: bool) -> Life:
    """Have one of two instances stopped by an agent that dies, and then by another one, which is returned."""
    await bring_up(zero := live(world), ONE, TWO)
    await zero.end()
    first = live(world, dies_at, grace=60.0)  # nobody wants the neighbour
    await first.begin(wish(ONE, stop=True, **fields))
    await first.until("it to be done", lambda: is_done(first, ONE))
    await first.kill()
    second = live(world)
    await second.begin(wish(ONE, stop=True, complete=False, **fields))
    await second.until("it to be done", lambda: is_done(second, ONE))
    return second


@pytest.mark.parametrize("dies_at", range(1, 10))
async def test_dies_anywhere_while_stopping(live: Live, dies_at: int) -> None:
    world = World()
    second = await stopped_by_two(live, world, dies_at, Life.gone)
    assert world.of(ONE) == []
    assert ONE not in second.records.load()
    assert (world.running(TWO), world.starts[TWO]) == ([1], 1), "its neighbour was touched"


@pytest.mark.parametrize("dies_at", range(1, 10))
async def test_dies_anywhere_while_ending_what_is_kept_for_its_log(live: Live, dies_at: int) -> None:
    world = World()
    second = await stopped_by_two(live, world, dies_at, lambda life, instance: bool(seen := life.saw(instance)) and seen.ended, keep=True)
    assert (world.running(ONE), world.starts[ONE]) == ([], 1)
    assert [item.state for item in world.of(ONE)] == [AttemptState.EXITED], "its log is there"
    second.instances.set_desired(wish(ONE, stop=True))
    await second.until("it to be gone", lambda: second.gone(ONE))


async def test_adopts_what_runs_and_restarts_nothing(live: Live) -> None:
    world = World()
    await bring_up(first := live(world), ONE, TWO)
    both_ran = boottime()
    await first.records.flush()
    await first.kill()
    second = live(world)
    await second.begin(wish(ONE, TWO))
    await second.until("both to be adopted", lambda: second.at(ONE, Phase.RUNNING, 1) and second.at(TWO, Phase.RUNNING, 1))
    assert world.starts == {ONE: 1, TWO: 1}
    at_least = boottime() - both_ran
    assert all(item.age >= at_least for item in second.board.inventory().instances), "their age began anew with the agent"


async def test_adopts_without_any_record(live: Live, tmp_path: Path) -> None:
    world = World()
    await bring_up(first := live(world), ONE)
    await first.end()
    for file in (tmp_path / "instances").iterdir():
        file.write_text("{")
    second = live(world)
    await second.begin(wish(ONE))
    await second.until("it to be adopted", lambda: second.at(ONE, Phase.RUNNING, 1))
    assert world.starts == {ONE: 1}


async def test_another_boot_restarts_at_once_and_forgives(live: Live) -> None:
    world = World()
    rules = Restart(backoff=500, backoff_max=1000)
    await bring_up(first := live(world), ONE, restart=rules)
    world.end(key(ONE), 1)
    await first.until("the second attempt", lambda: first.at(ONE, Phase.RUNNING, 2))
    world.end(key(ONE, 2), 1)
    await first.until("the back-off", lambda: first.at(ONE, Phase.FAILED, 2))
    await first.end()
    second = live(world, boot="boot-2")
    await second.begin(wish(ONE, restart=rules))
    await second.until("the third attempt", lambda: second.at(ONE, Phase.RUNNING, 3))


async def test_what_ended_with_the_machine_is_started_again_whatever_its_exit_code(live: Live) -> None:
    world = World()
    rules = Restart(policy="on-failure")
    await bring_up(first := live(world), ONE, restart=rules)
    await first.end()
    world.end(key(ONE), 0)
    second = live(world, boot="boot-2")
    await second.begin(wish(ONE, restart=rules))
    await second.until("the second attempt", lambda: second.at(ONE, Phase.RUNNING, 2))


async def test_back_off_survives_the_agent(live: Live) -> None:
    world = World()
    rules = Restart(backoff=500, backoff_max=1000)
    await bring_up(first := live(world), ONE, restart=rules)
    world.end(key(ONE), 1)
    await first.until("the second attempt", lambda: first.at(ONE, Phase.RUNNING, 2))
    world.end(key(ONE, 2), 1)
    await first.until("the back-off", lambda: first.at(ONE, Phase.FAILED, 2))
    await first.end()
    second = live(world)
    await second.begin(wish(ONE, restart=rules))
    await second.until("the back-off again", lambda: second.at(ONE, Phase.FAILED, 2))
    wire = second.board.inventory().instances[0]
    assert 490 < wire.back_off <= 500
    assert world.starts[ONE] == 2


async def test_crash_loop_is_told_with_its_last_words(live: Live) -> None:
    world = World()
    life = live(world)
    await bring_up(life, ONE, restart=Restart(backoff=0.01, backoff_max=500, crash_loop=3, window=60))
    for number in (1, 2, 3):
        await life.until(f"attempt {number}", lambda number=number: life.at(ONE, Phase.RUNNING, number))
        world.end(key(ONE, number), 137, oom=number == 3)
    await life.until("the verdict", lambda: life.at(ONE, Phase.FAILED, 3))
    seen = life.saw(ONE)
    assert (seen.crash_loop, seen.oom_killed, seen.exit_code, seen.restarts) == (True, True, 137, 2)
    assert "memory" in seen.reason
    assert len(seen.log_tail) == 20
    assert seen.log_tail[-1].endswith("of attempt 3")


@pytest.mark.parametrize(
    ("policy", "code", "phase"), [("never", 0, Phase.STOPPED), ("never", 3, Phase.FAILED), ("on-failure", 0, Phase.STOPPED)]
)
async def test_ends_for_good(live: Live, policy: str, code: int, phase: Phase) -> None:
    world = World()
    life = live(world)
    await bring_up(life, ONE, restart=Restart.model_validate({"policy": policy}))
    world.end(key(ONE), code)
    await life.until("the end", lambda: life.at(ONE, phase, 1))
    assert life.saw(ONE).exit_code == code
    assert world.starts[ONE] == 1
    assert len(world.of(ONE)) == 1, "its logs are gone"


async def test_refused_launch_is_told_and_tried_again(live: Live) -> None:
    world = World()
    world.images.clear()
    life = live(world)
    await life.begin(wish(ONE, restart=Restart(backoff=0.05, backoff_max=0.1)))
    await life.until("the refusal", lambda: life.at(ONE, Phase.FAILED, 1))
    assert life.saw(ONE).reason == "the image web:1 is absent"
    world.images.add("web:1")
    await life.until("it to run", lambda: life.saw(ONE).phase is Phase.RUNNING)
    assert life.saw(ONE).restarts == 0
    assert not life.saw(ONE).crash_loop


async def test_a_registry_that_is_away_is_asked_again_and_stays_the_reason(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else changes between two tries: that must not be taken for a step without an effect, nor hide the reason."""
    monkeypatch.setattr("gestalt.agent.worker._RETRY_FIRST", 0.001)
    world = World()
    world.registry_down = True
    life = live(world)
    await life.begin(wish(ONE))
    await life.until("three tries", lambda: world.registry_asked > 2)
    assert life.saw(ONE).reason == "the registry does not answer"
    world.registry_down = False
    await life.until("it to run", lambda: life.at(ONE, Phase.RUNNING, 1))


async def test_a_pull_is_told_and_given_up_when_it_is_to_stop(live: Live) -> None:
    world = World()
    world.slow = asyncio.Event()
    life = live(world)
    await life.begin(wish(ONE))
    await life.until("the progress", lambda: life.at(ONE, Phase.STARTING, 1) and "50 %" in life.saw(ONE).reason)
    life.instances.set_desired(wish(ONE, stop=True))
    await life.until("it to be gone", lambda: life.gone(ONE))
    assert world.starts[ONE] == 0


async def test_runtime_down_at_the_start_keeps_everything(live: Live) -> None:
    world = World()
    await bring_up(first := live(world), ONE)
    await first.end()
    world.down = True
    second = live(world)
    await second.begin(wish(ONE, TWO))
    await second.until("the assumption", lambda: second.board.get(ONE) is not None and second.board.get(TWO) is not None)
    assert second.at(ONE, Phase.RUNNING, 1)
    assert second.at(TWO, Phase.PLACED, 0)
    assert second.saw(ONE).ready, "unknown is not unhealthy"
    assert second.board.problems() == ("the runtime does not answer: start it",)
    world.down = False
    world.tell(None)
    await second.until("both to run", lambda: second.at(TWO, Phase.RUNNING, 1))
    assert second.board.problems() == ()
    assert world.starts == {ONE: 1, TWO: 1}


async def test_runtime_goes_down_in_mid_life(live: Live) -> None:
    world = World()
    life = live(world)
    await bring_up(life, ONE)
    world.down = True
    world.tell(key(ONE))
    life.instances.set_desired(wish(ONE, TWO))
    await life.until("it to be put off", lambda: life.board.get(TWO) is not None and "answer" in life.saw(TWO).reason)
    world.down = False
    world.tell(None)
    await life.until("the other to run", lambda: life.at(TWO, Phase.RUNNING, 1))
    assert world.starts == {ONE: 1, TWO: 1}


def stray(world: World, instance: str = STRAY, number: int = 1, template: str = "f" * 16) -> None:
    world.put(AttemptStatus(key(instance, number), AttemptState.RUNNING, "stray", "/old", template))


async def test_orphans_go_after_the_first_full_state_only(live: Live) -> None:
    world = World()
    stray(world)
    life = live(world)
    await life.begin(wish(ONE, complete=False))
    await life.until("the orphan to be told", lambda: life.at(STRAY, Phase.RUNNING, 1) and life.at(ONE, Phase.RUNNING, 1))
    await life.instances.ensure()
    assert world.running(STRAY) == [1], "it was removed before a full state came"
    life.instances.set_desired(wish(ONE))
    assert world.running(STRAY) == [1], "it had no grace"
    await life.until("the orphan to be removed", lambda: not world.of(STRAY))
    assert world.running(ONE) == [1]


async def test_the_grace_of_orphans_can_change(live: Live) -> None:
    world = World()
    stray(world)
    life = live(world, grace=3600.0)
    await life.begin(wish(ONE))
    await life.until("the orphan to be told", lambda: life.at(STRAY, Phase.RUNNING, 1) and life.at(ONE, Phase.RUNNING, 1))
    await life.around.renew(life.around.settings.model_copy(update={"orphan_grace": 0.0}))
    await life.instances.ensure()
    await life.until("the orphan to be removed", lambda: not world.of(STRAY))


async def test_no_grace_is_no_reason_to_remove_before_a_full_state(live: Live) -> None:
    world = World()
    stray(world)
    life = live(world, grace=0.0)
    await life.begin(wish(ONE, complete=False))
    await life.until("the orphan to be told", lambda: life.at(STRAY, Phase.RUNNING, 1) and life.at(ONE, Phase.RUNNING, 1))
    await life.instances.ensure()
    world.end(key(ONE), 1)
    await life.until("something else to be done meanwhile", lambda: life.at(ONE, Phase.RUNNING, 2))
    assert life.at(STRAY, Phase.RUNNING, 1)
    life.instances.set_desired(wish(ONE))
    await life.until("the orphan to be removed", lambda: not world.of(STRAY))


async def test_what_a_recovering_leader_does_not_know_stays_and_is_told_with_its_app(live: Live) -> None:
    world = World()
    stray(world)
    life = live(world, grace=0.0)
    recovering = wish(ONE)
    await life.begin(replace(recovering, state=replace(recovering.state, recovering=True)))
    await life.until("the orphan to be told", lambda: life.at(STRAY, Phase.RUNNING, 1) and life.at(ONE, Phase.RUNNING, 1))
    await life.instances.ensure()
    world.end(key(ONE), 1)
    await life.until("something else to be done meanwhile", lambda: life.at(ONE, Phase.RUNNING, 2))
    assert world.running(STRAY) == [1]
    assert life.saw(STRAY).app
    assert not life.saw(ONE).app
    life.instances.set_desired(wish(ONE))
    await life.until("the orphan to be removed", lambda: not world.of(STRAY))


async def test_lost_answers_change_nothing(live: Live) -> None:
    world = World()
    life = live(world)
    world.answers_lost = 1
    await life.begin(wish(ONE))
    await life.until("it to run", lambda: life.at(ONE, Phase.RUNNING, 1))
    assert world.starts == {ONE: 1}
    world.answers_lost = 2
    life.instances.set_desired(wish(ONE, stop=True))
    await life.until("it to be gone", lambda: life.gone(ONE))
    assert world.of(ONE) == []


async def test_an_orphan_that_is_wanted_in_time_stays(live: Live) -> None:
    world = World()
    stray(world, TWO, template=template_hash(spec()))
    life = live(world)
    await life.begin(wish(ONE))
    life.instances.set_desired(wish(ONE, TWO))
    await life.until("it to be adopted", lambda: life.at(TWO, Phase.RUNNING, 1) and life.saw(TWO).reason == "")
    assert world.starts[TWO] == 0


async def test_a_refused_instance_is_left_alone(live: Live) -> None:
    world = World()
    life = live(world)
    await bring_up(life, ONE)
    refused = Desired(NodeState(1, 2), {ONE: "its template is not valid", TWO: "its template is not valid"}, complete=True)
    life.instances.set_desired(refused)
    await life.until("the reason to be told", lambda: life.at(TWO, Phase.FAILED, 0))
    await life.instances.ensure()
    assert world.running(ONE) == [1]
    life.instances.set_desired(wish(ONE, TWO))
    await life.until("both to run", lambda: life.at(TWO, Phase.RUNNING, 1))
    assert world.starts == {ONE: 1, TWO: 1}


async def test_what_events_missed_a_round_finds(live: Live) -> None:
    world = World()
    life = live(world)
    await bring_up(life, ONE)
    listeners, world.listeners = world.listeners, []
    world.end(key(ONE), 1)
    world.listeners = listeners
    await life.instances.ensure()
    await life.until("the second attempt", lambda: life.at(ONE, Phase.RUNNING, 2))


async def test_a_removed_container_is_replaced(live: Live) -> None:
    world = World()
    life = live(world)
    await bring_up(life, ONE)
    del world.attempts[key(ONE)]
    world.tell(key(ONE))
    await life.until("the second attempt", lambda: life.at(ONE, Phase.RUNNING, 2))


async def test_a_late_creation_of_a_dead_agent_is_found(live: Live) -> None:
    """A `docker create` in flight when the agent dies may finish after the new agent's inventory."""
    world = World()
    first = live(world, dies_at=3)
    await first.begin(wish(ONE))
    await first.until("the death before the launch", lambda: False)
    await first.kill()
    world.slow = asyncio.Event()
    second = live(world)
    await second.begin(wish(ONE))
    await second.until("the image", lambda: second.at(ONE, Phase.STARTING, 1))
    app = spec()
    late = Launch(key(ONE), app.path, 1, template_hash(app), app, ())
    world.put(AttemptStatus(late.key, AttemptState.CREATED, "late", late.app, late.template))
    world.slow.set()
    await second.until("it to run", lambda: second.at(ONE, Phase.RUNNING, 1))
    assert (world.starts[ONE], len(world.of(ONE))) == (1, 1)


class YesFence(NoFence):
    """Says yes to everything, and remembers for whom."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}
        self.asked: list[str] = []

    def needed(self) -> bool:
        return True

    def standing(self, instance: str) -> Standing:
        return Standing(answers=True, held=self.held.get(instance, 0), fresh=True)

    def listed(self) -> Sequence[str]:
        return tuple(self.held)

    async def hold(self, instance: str, cgroups: Sequence[str], grant: Grant) -> str:
        self.asked.append(instance)
        self.held[instance] = grant.generation
        return ""

    async def release(self, instance: str) -> str:
        self.held.pop(instance, None)
        return ""


def granted(desired: Desired) -> Desired:
    wanted = {name: replace(item, grant=Grant("web", 1)) for name, item in desired.state.instances.items()}
    return replace(desired, state=replace(desired.state, instances=wanted))


async def test_what_is_exclusive_waits_for_its_grant_and_must_be_where_the_fence_finds_it(tmp_path: Path) -> None:
    """What runs elsewhere than the runtime said is stopped: nobody could end it."""
    world, fence = World(), YesFence()
    world.cgroups = ("/sys/fs/cgroup/pids/gestalt-never",)
    life = Life(world, tmp_path, exclusive=fence)
    desired = wish(ONE, placement={"exclusive": True})
    await life.begin(desired)
    await life.until("the reason", lambda: "waits for its grant" in life.saw(ONE).reason)
    assert not world.starts
    life.instances.set_desired(granted(desired))
    await life.until("the refusal", lambda: "not in the cgroups" in life.saw(ONE).reason)
    assert fence.asked
    assert not world.running(ONE)
    life.instances.set_desired(wish(ONE, stop=True, placement={"exclusive": True}))
    await life.until("it to be gone", lambda: life.gone(ONE))
    assert not fence.held
    await life.kill()


async def test_what_the_fence_holds_for_nobody_is_handed_back(tmp_path: Path) -> None:
    fence = YesFence()
    fence.held[STRAY] = 1
    life = Life(World(), tmp_path, exclusive=fence)
    await life.begin(Desired())
    assert not fence.held
    await life.kill()


async def test_a_runtime_that_names_no_cgroups_runs_nothing_exclusive(tmp_path: Path) -> None:
    world, fence = World(), YesFence()
    life = Life(world, tmp_path, exclusive=fence)
    await life.begin(granted(wish(ONE, placement={"exclusive": True})))
    await life.until("the reason", lambda: "cannot say in which cgroups" in life.saw(ONE).reason)
    assert not fence.asked
    assert not world.starts
    await life.kill()
