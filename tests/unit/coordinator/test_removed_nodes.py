"""What the leader keeps of a node in memory goes with it, whether its agent was there when it was removed or not."""

from __future__ import annotations

from collections.abc import Container

import pytest

from gestalt.coordinator import dispatch
from gestalt.coordinator.dispatch import Link
from gestalt.coordinator.membership import Life
from gestalt.coordinator.state import Draft
from gestalt.coordinator.usage import Usages
from gestalt.model import Observed, Phase
from gestalt.proto.v1 import agent_pb2
from tests.unit.coordinator.told_world import Office, OnDemand

NODE = "n3"


def keepers(thing: object, node: str) -> set[str]:
    """Return the attributes in which something keeps anything under the id of a node."""
    return {name for name, value in vars(thing).items() if isinstance(value, Container) and node in value}


def remove(office: Office) -> None:
    draft = Draft(office.state)
    draft.delete("node", NODE)
    office.commit(draft)
    office.flush()


@pytest.mark.parametrize("is_there", [True, False], ids=["its session ends with it", "its session ended before"])
def test_nothing_is_kept_of_what_it_was_told_and_how_it_stood(is_there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "Pace", OnDemand)
    office = Office()
    office.flush()
    view, agent, record = office.tracker.node(NODE, NODE), office.agents.pop(NODE), office.state.nodes[NODE]
    office.tracker.connected(view)
    office.tracker.inventory(view, (), [Observed("x", 1, Phase.RUNNING)])
    assert not office.tracker.standing(NODE).is_gone
    assert "_standings" in keepers(office.tracker, NODE)
    assert agent.state.revision == 1
    office.launch(0, 3)

    def leave() -> None:
        office.dispatcher.detach(agent.link)
        office.tracker.disconnected(view)

    for step in (remove, lambda _: leave()) if is_there else (lambda _: leave(), remove):
        step(office)
    assert keepers(office.dispatcher, NODE) == set()
    assert keepers(office.tracker, NODE) == {"nodes"}, "its membership may still count for grants"

    office.state.nodes[NODE] = record
    office.dispatcher.attach(again := Link(NODE, "10.0.0.3"))
    assert again.outbox.get_nowait().full.revision == 1


@pytest.mark.parametrize("is_heard", [True, False])
def test_how_a_removed_node_stands_is_not_kept_whoever_asks(is_heard: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "Pace", OnDemand)
    office = Office()
    view = office.tracker.node(NODE, NODE)
    if is_heard:
        office.tracker.connected(view)
        office.tracker.inventory(view, (), ())
    else:
        office.tracker.member(view, None)
    assert (office.tracker.standing(NODE).life is Life.READY) is is_heard
    assert "_standings" in keepers(office.tracker, NODE)
    remove(office)
    assert office.tracker.standing(NODE).life is Life.LEFT
    assert keepers(office.tracker, NODE) == {"nodes"}


def test_an_agent_that_comes_back_is_told_under_the_next_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "Pace", OnDemand)
    office = Office()
    office.launch(0, 3)
    office.flush()
    agent = office.agents.pop(NODE)
    office.dispatcher.detach(agent.link)
    office.launch(1, 3)
    office.flush()
    office.dispatcher.attach(again := Link(NODE, "10.0.0.3"))
    assert again.outbox.get_nowait().full.revision == agent.state.revision + 1


async def test_reports_of_usage_that_say_nothing_any_more_are_forgotten() -> None:
    now = [1000.0]
    usages = Usages(lambda: now[0])
    usages.take(NODE, agent_pb2.UsageReport(interval=5))
    now[0] += 100
    usages.take("n1", agent_pb2.UsageReport(interval=5))
    await usages.gather()
    assert not any(NODE in value for value in (getattr(usages, name) for name in usages.__slots__) if isinstance(value, dict))
    assert usages.balanced("n1") is False
    usages.take(NODE, agent_pb2.UsageReport(interval=5, balanced=True))
    assert usages.balanced(NODE)
