"""Apps that are decided about in one commit: none of them is in another's way, and the commit stays small enough to be written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from gestalt.coordinator import changes, drain, ledger
from gestalt.coordinator.decider import Decider
from gestalt.coordinator.records import Audit
from gestalt.coordinator.state import Draft
from gestalt.coordinator.store.base import DOCUMENT_LIMIT, Change, Committed, Put, StoreError
from tests.unit.coordinator.crowd import AREA, Crowd, Memory, app
from tests.unit.coordinator.world import AT

NAMES = [f"app{number}" for number in range(8)]


class Picky(Memory):
    """A store that takes no document above the limit, and none of the placements of `refused`."""

    refused = ""
    commits = 0

    async def commit(self, changes: Sequence[Change], epoch: int) -> Committed:
        for change in changes:
            if isinstance(change, Put) and (
                len(change.value) > DOCUMENT_LIMIT or (change.kind == "placements" and change.key.startswith(f"{self.refused}@"))
            ):
                raise StoreError(f"{change.kind} {change.key} is not written")
        self.commits += 1
        return await super().commit(changes, epoch)


async def begun(*cores: float) -> tuple[Crowd, Picky]:
    crowd = Crowd(*cores)
    crowd.store = store = Picky()
    await crowd.begin()
    return crowd, store


async def scale_all(crowd: Crowd) -> None:
    """Scale all to two in one commit, so that all are to be looked at then."""
    async with crowd.ledger.draft("test", "scale") as draft:
        for number, name in enumerate(NAMES):
            changes.scale(draft, AREA + name, 2, changes.Asked("tester", AT, 0, f"scaling{number}", f"{number:06x}"))


async def test_one_that_cannot_be_written_does_not_keep_the_others_from_it() -> None:
    crowd, store = await begun(100, 100, 100)
    await crowd.apply(*(app(name) for name in NAMES))
    store.refused = AREA + NAMES[3]
    await scale_all(crowd)
    await crowd.until(lambda: all(len(crowd.placed(name)) == 2 for name in NAMES if name != NAMES[3]), "the others are scaled")
    assert len(crowd.placed(NAMES[3])) == 1
    store.refused = ""
    await crowd.until(lambda: len(crowd.placed(NAMES[3])) == 2, "it follows as soon as it can be written")
    await crowd.end()


async def test_a_commit_of_many_events_stays_small_enough_to_be_written() -> None:
    crowd, _ = await begun(*[1000.0] * 5)
    names = [f"{name}-with-a-long-name-as-is-usual" for name in NAMES[:3]]
    await crowd.apply(*(app(name, 900, 0.1) for name in names))
    for name in names:
        await crowd.ask(changes.stop, AREA + name)
    await crowd.until(lambda: not any(crowd.placed(name) for name in names), "all are stopped")
    audits = [record for record in crowd.state.audits.values() if isinstance(record, Audit)]
    assert max(len(audit.events) for audit in audits) == ledger.KEPT_EVENTS
    assert any("events of this commit were told" in event.message for audit in audits for event in audit.events)
    await crowd.end()


async def test_few_commits_do_for_many_apps() -> None:
    crowd, store = await begun(100, 100, 100)
    await crowd.apply(*(app(name) for name in NAMES))
    await crowd.settle()
    before = store.commits
    await scale_all(crowd)
    await crowd.settle()
    assert all(len(crowd.placed(name)) == 2 for name in NAMES)
    assert store.commits - before < 1 + len(NAMES)
    await crowd.end()


@pytest.mark.parametrize("port", [[], [{"name": "p", "container_port": 80, "host_port": 9090}]], ids=["in company", "alone"])
async def test_room_that_one_leaves_is_given_by_priority(port: list[dict[str, object]]) -> None:
    crowd, _ = await begun(1)
    await crowd.apply(app("m", 1, 1, priority=90, ports=port))
    fixed = [{"name": "p", "container_port": 80, "host_port": 8080}]
    await crowd.apply(app("high", 1, 1, priority=80), app("low", 1, 1, priority=10, ports=fixed))
    machine = crowd.machines["n1"]
    machine.slow = True
    await crowd.ask(changes.stop, AREA + "m")
    machine.quick = set(machine.running)
    crowd.decider.wake_unplaced()  # in the same turn something about a node changes
    await crowd.until(lambda: crowd.on("high") or crowd.on("low"), "somebody has the room")
    assert crowd.on("high")
    assert not crowd.on("low")
    await crowd.end()


async def test_who_waits_for_its_turn_to_leave_a_node_counts_when_there_are_too_many() -> None:
    crowd, _ = await begun(100, 100, 100, 100)
    crowd.check = lambda: None  # a drain is beyond what it knows
    quick = {"progress_deadline": 4, "health_deadline": 3}
    await crowd.apply(app("first", 4, 1, priority=90), app("web", 7, 1, update=quick))
    await crowd.until(lambda: crowd.state.apps[AREA + "web"].stable == 1, "it is well")
    node = next(name for name in crowd.machines if crowd.on("web")[name] == 1)
    crowd.machines[node].slow = True  # whoever leaves it takes long to stop
    async with crowd.ledger.draft("test", "drain") as draft:
        asked = changes.Asked("tester", AT, 0, "drain", "d")
        drain.begin(draft, crowd.state.nodes[node], "ready", asked, drain.Limits(parallel=1))
    crowd.decider.wake([AREA + "first"])  # as who keeps an eye on nodes does
    await crowd.until(lambda: crowd.leaving("first") == 1, "the place of the one that moves is taken")
    await crowd.ask(changes.scale, AREA + "web", 6)
    await crowd.until(lambda: sum(not item.stop for item in crowd.placed("web")) == 6, "one is stopped")
    await crowd.end()


async def test_what_is_lost_comes_before_what_is_merely_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd, _ = await begun(*[1000.0] * 4)
    await crowd.apply(*(app(name) for name in NAMES))
    looked_at: list[str] = []
    decide = Decider._decide

    def noted(self: Decider, draft: Draft, path: str) -> None:
        looked_at.append(path.removeprefix(AREA))
        decide(self, draft, path)

    monkeypatch.setattr(Decider, "_decide", noted)
    crowd.decider.wake([AREA + name for name in NAMES[:7]], urgent=False)
    crowd.decider.wake([AREA + NAMES[7]])
    await crowd.settle()
    assert looked_at == [NAMES[7], *NAMES[:7]]
    await crowd.end()


async def test_who_is_woken_again_before_its_turn_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd, _ = await begun(*[1000.0] * 4)
    await crowd.apply(*(app(name) for name in NAMES))
    looked_at: list[str] = []
    decide = Decider._decide

    def woken(self: Decider, draft: Draft, path: str) -> None:
        if not looked_at:
            self.wake([AREA + name for name in NAMES])  # another node is lost
        looked_at.append(path.removeprefix(AREA))
        decide(self, draft, path)

    monkeypatch.setattr(Decider, "_decide", woken)
    crowd.decider.wake([AREA + name for name in NAMES])
    await crowd.settle()
    assert looked_at == [*NAMES, NAMES[0]]
    await crowd.end()


async def test_what_is_urgent_again_and_again_does_not_keep_the_others_from_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd, _ = await begun(*[1000.0] * 4)
    await crowd.apply(*(app(name) for name in NAMES))
    looked_at = Counter[str]()
    decide = Decider._decide

    def never_done(self: Decider, draft: Draft, path: str) -> None:
        looked_at[path] += 1
        decide(self, draft, path)
        if sum(looked_at.values()) < 200:
            self.wake([AREA + NAMES[7]])

    monkeypatch.setattr(Decider, "_decide", never_done)
    crowd.decider.wake([AREA + NAMES[7]])
    crowd.decider.wake([AREA + name for name in NAMES[:7]], urgent=False)
    await crowd.until(lambda: sum(looked_at.values()) >= 30, "many looks")
    assert all(looked_at[AREA + name] for name in NAMES[:7])
    await crowd.end()


async def test_an_app_that_waits_for_news_is_looked_at_at_once_when_somebody_changes_it() -> None:
    crowd, _ = await begun(*[1000.0] * 2)
    await crowd.apply(app(NAMES[0]))
    crowd.machines.clear()  # what is placed from now on is reported by nobody
    for number in (2, 5, 3):
        await crowd.ask(changes.scale, AREA + NAMES[0], number)
        assert len(crowd.placed(NAMES[0])) == number, "without waiting for time to pass"
    await crowd.end()
