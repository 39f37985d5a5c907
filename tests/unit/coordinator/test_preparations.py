"""What stops before its successor starts stops only when everything is there that the successor needs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator import changes
from gestalt.coordinator.advance import Case
from gestalt.coordinator.handover import ways
from gestalt.coordinator.nodes import Preparation
from gestalt.coordinator.reconcile import Decision, Outcome, View
from gestalt.coordinator.records import App, Placed, TaskState
from gestalt.spec.schema import AppSpec
from tests.unit.coordinator.shop import Shop, app
from tests.unit.coordinator.world import AT, node

WEB = "/org/ws/env/web"
FIXED = [{"name": "http", "container_port": 80, "host_port": 8080}]


def web(image: str, **fields: object) -> AppSpec:
    return app("web", image=image, **({"ports": FIXED} | fields))


def running(**fields: object) -> Shop:
    shop = Shop(prepares=True)
    shop.apply(web("one", **fields))
    shop.settle()
    assert shop.healthy(WEB)
    return shop


def stopping(shop: Shop) -> list[int]:
    return [item.serial for item in shop.placed("web") if item.stop]


def test_the_old_one_stops_when_the_node_has_the_image_of_the_new_one() -> None:
    shop = running()
    assert shop.preparations.of_node("n1") == []
    shop.apply(web("two"))
    for _ in range(3):
        shop.decide("web")
    assert (stopping(shop), shop.readiness.why) == (
        [], "nothing stops before its successor can start: waits for node n1, which prepares it",
    )  # fmt: skip
    ((version, number),) = shop.preparations.of_node("n1")
    assert version.spec.image == "two"
    shop.view.prepared = {version.hash: Preparation(number, reason="pulling two: 40 %")}
    shop.decide("web")
    assert (stopping(shop), shop.readiness.missing["n1"]) == ([], "node n1, which says: pulling two: 40 %")
    shop.prepare()
    shop.decide("web")
    assert stopping(shop) == [1]
    shop.settle()
    assert (shop.images("web"), shop.preparations.of_node("n1")) == (["two"], [])


@pytest.mark.parametrize("fields", [{}, {"update": {"strategy": "recreate"}, "ports": []}, {"placement": {"exclusive": True}, "ports": []}])
def test_an_update_to_an_image_that_nobody_has_touches_nothing(fields: dict[str, object]) -> None:
    shop = running(**fields)
    before = shop.placed("web")
    shop.absent = frozenset({"two"})
    shop.apply(web("two", **fields))
    shop.settle()
    assert shop.placed("web") == before
    assert shop.task("web").state is TaskState.FAILED
    assert shop.task("web").message == ("rolled back to version 1: node n1 cannot run it, and nothing was stopped for it: there is no two")
    assert shop.preparations.of_node("n1") == []
    shop.absent = frozenset()
    shop.apply(web("two", **fields))
    shop.settle()
    assert shop.images("web") == ["two"], "what was said of an earlier request does not count"


def test_an_update_fails_in_time_when_a_registry_does_not_answer_and_nothing_was_touched() -> None:
    shop = running()
    before = shop.placed("web")
    shop.apply(web("two"))
    shop.decide("web")
    shop.now += 301
    shop.decide("web")
    assert shop.task("web").rolling_back == "there was no progress for 300 s"
    assert shop.placed("web") == before


def test_without_rollback_the_old_one_goes_on_until_the_image_is_there() -> None:
    fields = {"update": {"auto_rollback": False}}
    shop = running(**fields)
    before = shop.placed("web")
    shop.absent = frozenset({"two"})
    shop.apply(web("two", **fields))
    shop.settle()
    assert (shop.task("web").state, shop.placed("web")) == (TaskState.FAILED, before)
    shop.absent = frozenset()
    shop.settle()
    assert shop.images("web") == ["two"]


def test_what_starts_beside_the_old_one_is_not_prepared_for() -> None:
    shop = running(ports=[])
    shop.absent = frozenset({"two"})
    shop.apply(web("two", ports=[]))
    shop.decide("web")
    assert shop.preparations.of_node("n1") == []
    assert len(shop.placed("web")) == 2


def test_an_agent_that_cannot_prepare_is_not_waited_for() -> None:
    shop = running()
    shop.view.prepares = False
    shop.apply(web("two"))
    shop.decide("web")
    assert stopping(shop) == [1]


def test_an_old_answer_is_not_taken_for_a_new_one_and_a_new_leader_asks_again() -> None:
    shop = running()
    shop.apply(web("two"))
    shop.decide("web")
    ((version, number),) = shop.preparations.of_node("n1")
    shop.view.prepared = {version.hash: Preparation(number - 1, done=True)}
    shop.decide("web")
    assert stopping(shop) == []
    shop.prepare()
    shop.asked += 1
    shop.take_office()
    shop.decide("web")
    assert stopping(shop) == []
    ((_, again),) = shop.preparations.of_node("n1")
    assert again > number
    shop.settle()
    assert shop.images("web") == ["two"]


def test_two_apps_of_one_template_wait_for_the_same() -> None:
    shop = running()
    other = [{"name": "http", "container_port": 80, "host_port": 8081}]
    shop.apply(app("api", ports=other))
    shop.settle()
    shop.apply(web("two"), app("api", image="two", ports=FIXED))
    for name in ("web", "api", "web", "api"):
        shop.decide(name)
        shop.prepare()
    assert [item.stop for name in ("web", "api") for item in shop.placed(name)] == [True, True]


def test_a_stopped_app_stops_whatever_is_prepared() -> None:
    shop = running()
    shop.apply(web("two"))
    shop.decide("web")
    shop.ask(changes.stop, WEB)
    shop.decide("web")
    assert stopping(shop) == [1]
    assert shop.preparations.of_node("n1") == []


def test_who_moves_is_prepared_for_where_it_goes() -> None:
    spec = web("one")
    found = App(WEB, "aaaaaa", 1, 1, 1, 1, 1, AT, moving=(1,))
    view = View(Placed(1, 1, "n1", (8080,)), None, heard=True, moving=True)
    case = Case(found, spec, (view,), AT)
    nodes = (replace(node("n1"), ready=False, ports=frozenset({8080})), node("n2"))
    decision = Decision(0, (1,), (), Outcome.GOING_ON)
    assert ways(case, decision, lambda: nodes, lambda placed: spec.resources) == {1: frozenset({"n2"})}
    forced = replace(case, views=(replace(view, forced=True),))
    assert ways(forced, decision, lambda: nodes, lambda placed: spec.resources) == {}


def test_a_system_app_is_prepared_for_where_it_is_replaced_now() -> None:
    spec = AppSpec(path=WEB, image="two", kind="system")
    found = App(WEB, "aaaaaa", 1, 2, 1, 2, 2, AT)
    views = tuple(View(Placed(serial, 1, f"n{serial}", ()), None, heard=True) for serial in (1, 2))
    decision = Decision(0, (2,), (), Outcome.GOING_ON)
    assert ways(Case(found, spec, views, AT), decision, tuple, lambda placed: spec.resources) == {2: frozenset({"n2"})}
    drained = replace(found, version=1)
    assert ways(Case(drained, spec, views, AT), decision, tuple, lambda placed: spec.resources) == {}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["decide", "decide", "work", "prepare", "office", "absent", "present"]), max_size=60))
def test_nothing_ever_stops_for_what_could_not_start(happenings: list[str]) -> None:
    patient = {"update": {"auto_rollback": False, "health_deadline": "1h", "progress_deadline": "1h"}}
    shop = running(**patient)
    shop.apply(web("two", **patient))
    prepared = False
    for what in happenings:
        before = stopping(shop)
        match what:
            case "office":
                shop.asked += 1
                shop.take_office()
            case "absent" | "present":
                shop.absent = frozenset({"two"}) if what == "absent" else frozenset()
            case "prepare":
                shop.prepare()
                prepared = prepared or bool(shop.preparations.of_node("n1") and not shop.absent)
            case _:
                getattr(shop, what)("web")
        assert stopping(shop) == before or prepared or not stopping(shop)
    shop.absent = frozenset()
    shop.settle()
    assert shop.images("web") == ["two"]
