"""One app whose routes cannot be worked out costs the others nothing, is told in the log, and is tried again, a few times."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections import Counter
from functools import partial

import pytest

from gestalt.coordinator import routing
from gestalt.coordinator.again import PAUSES, Again
from gestalt.coordinator.routing import Routing
from tests.unit.coordinator.told_world import PATHS, Office

ILL, WELL = PATHS[1], PATHS[2]
PAUSE = 0.05
SOON = 10


class Broken:
    """Has the routes of one app fail for some tries."""

    def __init__(self, patch: pytest.MonkeyPatch, times: int) -> None:
        self.left, self.tried, self._refresh = times, Counter[str](), Routing._refresh

        def refresh(worked_out: Routing, path: str) -> bool:
            return self._try(worked_out, path)

        patch.setattr(Routing, "_refresh", refresh)
        patch.setattr(routing, "Again", partial(Again, pauses=(PAUSE, PAUSE)))

    def _try(self, worked_out: Routing, path: str) -> bool:
        self.tried[path] += 1
        if path == ILL and self.left:
            self.left -= 1
            raise ValueError(f"the routes of {path} are beyond us")
        return self._refresh(worked_out, path)


async def routed(office: Office, path: str) -> bool:
    """Return whether all agents are told of the routes of an app, soon."""
    for _ in range(int(SOON / 0.005)):
        await asyncio.sleep(0.005)
        for agent in office.agents.values():
            agent.read()
        if all(any(route.app == path for route in agent.state.routes.values()) for agent in office.agents.values()):
            return True
    return False


async def quiet(broken: Broken) -> int:
    """Wait until nothing is tried any more; return how often it was."""
    before = -1
    while before != broken.tried[ILL]:
        before = broken.tried[ILL]
        await asyncio.sleep(4 * PAUSE)  # time has to pass: what is planned would be tried by now
    return before


@pytest.mark.parametrize("order", [(1, 2), (2, 1)], ids=["before it", "after it"])
async def test_the_others_are_told_and_it_is_tried_again(
    order: tuple[int, int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, office = Broken(monkeypatch, 2), Office()
    for which in order:  # the routes of both are worked out in one pass
        office.launch(which, 0)
    assert await routed(office, WELL)
    assert await routed(office, ILL)
    assert await quiet(broken) == 3
    told = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in told] == [f"the routes of {ILL}: failed {n} times: tried again in 0.05 s" for n in (1, 2)]
    assert all(record.exc_info for record in told), "with where it came from"


async def test_it_is_given_up_after_some_tries_until_something_changes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, office = Broken(monkeypatch, 3), Office()
    office.launch(1, 0)
    assert await quiet(broken) == 3
    assert caplog.records[-1].getMessage() == f"the routes of {ILL}: failed 3 times: not tried again until something about it changes"
    office.scale(1, 2)
    assert await routed(office, ILL)
    office.scale(1, 3)
    assert await quiet(broken) == 5, "what failed before is forgotten"


async def test_what_asks_meanwhile_takes_the_place_of_the_next_try(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[str] = []
    again = Again(asked.append, (PAUSE, PAUSE))
    again.failed("a", "a", ValueError())
    again.failed("a", "a", ValueError())
    await asyncio.sleep(3 * PAUSE)  # time has to pass: as above
    assert asked == ["a"], "one try is planned, not one for each failure"
    again.failed("b", "b", ValueError())
    again.succeeded("b")
    again.succeeded("c")
    await asyncio.sleep(3 * PAUSE)  # time has to pass: as above
    assert asked == ["a"]
    again.failed("b", "b", ValueError())
    assert caplog.records[-1].getMessage().startswith("b: failed 1 times"), "it began anew"
    assert sum(PAUSES) < 200


async def test_what_is_to_be_tried_again_keeps_nothing_of_an_office_that_has_ended() -> None:
    office = {PATHS[0]}
    again = Again(office.discard, pauses=(60.0,))
    again.failed(PATHS[0], "something", ValueError("once"))
    ended = weakref.ref(again)
    del again
    gc.collect()
    assert ended() is None
