"""Apps that depend on others: what waits for what, in which words, and what comes of it when that fails."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator import changes
from gestalt.coordinator.records import TaskState, instance_id
from gestalt.errors import GestaltError, Kind
from gestalt.spec.dependencies import Cycle, in_order
from gestalt.spec.schema import AppSpec
from tests.unit.coordinator.shop import Shop, app

DB = "/org/ws/env/db"


def running(*specs: object) -> Shop:
    shop = Shop()
    shop.apply(*specs)  # type: ignore[arg-type]
    shop.settle()
    return shop


def test_what_is_needed_comes_first() -> None:
    needs = {"web": ["api", "cache"], "api": ["db"], "cache": [], "db": []}
    assert in_order(needs, needs.__getitem__) == ("db", "api", "cache", "web")
    with pytest.raises(Cycle, match=r"^b -> c -> b$"):
        in_order("ab", {"a": "b", "b": "c", "c": "b"}.__getitem__)
    chain = {number: [number + 1] if number < 5000 else [] for number in range(5001)}
    assert len(in_order(["0"], lambda text: [str(other) for other in chain[int(text)]])) == 5001


def test_an_app_starts_when_what_it_depends_on_is_healthy() -> None:
    shop = Shop()
    shop.apply(app("web", "db", "cache", instances=2), app("db", instances=2), app("cache"))
    for name in ("web", "db", "cache"):
        shop.decide(name)
    assert (len(shop.placed("db")), len(shop.placed("web"))) == (2, 0)
    assert shop.wait("web") == (
        "waits for /org/ws/env/db, of which 0 of 2 instances are healthy; for /org/ws/env/cache, of which 0 of 1 instances are healthy"
    )
    shop.settle(["db"])
    shop.decide("web")
    assert shop.wait("web") == "waits for /org/ws/env/cache, of which 0 of 1 instances are healthy"
    first = shop.steps("web")[0]
    assert (first.name, first.state, first.done, first.total, first.message) == ("dependencies", "running", 1, 2, shop.wait("web"))
    assert shop.placed("web") == ()
    shop.settle()
    assert (len(shop.placed("web")), shop.app("web").awaiting, shop.task("web").state) == (2, 0, TaskState.SUCCEEDED)


def test_an_update_of_a_set_goes_in_order_and_what_runs_is_kept_up_meanwhile() -> None:
    shop = running(app("db"), app("web", "db", instances=2))
    shop.apply(app("web", "db", image="two", instances=2), app("db", image="two"))
    shop.decide("web")
    assert shop.images("web") == ["one", "one"]
    assert shop.wait("web") == "waits for /org/ws/env/db, of which 0 of 1 instances are healthy"
    lost = instance_id(shop.app("web"), shop.placed("web")[0].serial)
    shop.running.pop(lost)
    shop.ask(changes.scale, "/org/ws/env/web", 3)
    shop.settle(["web"])
    assert shop.images("web") == ["one"] * 3, "scaling goes on, in the version that runs"
    assert shop.app("web").goal == 2
    shop.settle()
    assert (shop.images("db"), shop.images("web")) == (["two"], ["two"] * 3)


def test_the_update_of_what_depends_on_a_failed_update_fails_with_nothing_touched() -> None:
    shop = running(app("db"), app("web", "db"))
    before = shop.placed("web")
    shop.sick = frozenset({"bad"})
    shop.apply(app("web", "db", image="two"), app("db", image="bad"))
    shop.settle()
    assert shop.images("web") == ["one"]
    shop.now += 130
    shop.settle()
    assert shop.task("db").state is TaskState.FAILED
    assert (shop.task("web").state, shop.task("web").message) == (
        TaskState.FAILED, "/org/ws/env/db, on which it depends, went back to version 1; version 1 goes on",
    )  # fmt: skip
    assert (shop.placed("web"), shop.app("web").goal) == (before, 1)


def test_the_launch_of_what_depends_on_a_failed_launch_fails_and_starts_when_that_is_mended() -> None:
    shop = Shop(sick=frozenset({"bad"}))
    shop.apply(app("web", "db"), app("db", image="bad"))
    shop.settle()
    shop.now += 130
    shop.settle()
    assert shop.task("web").message == "/org/ws/env/db, on which it depends, did not become healthy"
    assert shop.placed("web") == ()
    shop.apply(app("db", image="good"))
    shop.settle()
    assert shop.images("web") == ["one"]


def test_what_is_ill_for_long_fails_the_change_that_waits_for_it() -> None:
    shop = running(app("db"))
    shop.sick = frozenset({"one"})
    shop.settle()
    shop.apply(app("web", "db", image="two"))
    shop.settle()
    assert shop.task("web").state is TaskState.RUNNING
    shop.now += 301
    shop.settle()
    waits = "it waits for /org/ws/env/db, of which 0 of 1 instances are healthy"
    assert shop.task("web").message == f"there was no progress for 300 s: {waits}"
    shop.sick = frozenset()
    shop.settle()
    assert shop.healthy("/org/ws/env/web")


def test_the_time_in_which_a_dependency_is_changed_is_no_standstill() -> None:
    shop = Shop()
    shop.apply(app("db", update={"health_deadline": "1h", "progress_deadline": "1h"}), app("web", "db"))
    shop.sick = frozenset({"one"})
    shop.settle()
    shop.now += 3000
    shop.settle()
    assert shop.task("web").state is TaskState.RUNNING
    shop.sick = frozenset()
    shop.settle()
    assert shop.task("web").state is TaskState.SUCCEEDED


def test_what_runs_is_not_held_back_by_a_sick_dependency() -> None:
    shop = running(app("db"), app("web", "db", instances=2))
    shop.sick = frozenset({"one"})
    shop.settle()
    shop.sick = frozenset()
    shop.running.pop(instance_id(shop.app("db"), shop.placed("db")[0].serial))
    shop.ask(changes.scale, "/org/ws/env/web", 4)
    shop.settle(["web"])
    assert len(shop.placed("web")) == 4
    shop.ask(changes.restart, "/org/ws/env/web")
    shop.settle(["web"])
    assert min(item.serial for item in shop.placed("web")) > 4


def test_what_was_stopped_waits_when_it_is_started_and_what_goes_back_does_not() -> None:
    shop = running(app("db"), app("web", "db"))
    shop.apply(app("web", "db", image="two"))
    shop.settle()
    shop.ask(changes.stop, "/org/ws/env/web")
    shop.settle()
    task = shop.ask(changes.stop, DB)
    assert task is not None
    assert task.warnings == ()
    shop.settle()
    shop.ask(changes.start, "/org/ws/env/web")
    shop.settle()
    assert (shop.placed("web"), shop.wait("web")) == ((), "waits for /org/ws/env/db, which is stopped")
    shop.ask(changes.start, DB)
    shop.settle()
    assert shop.images("web") == ["two"]
    task = shop.ask(changes.stop, DB)
    assert task is not None
    assert task.warnings == ("/org/ws/env/web depends on it and goes on without it",)
    shop.ask(changes.rollback, "/org/ws/env/web", 0)
    shop.settle()
    assert shop.images("web") == ["one"]


def test_an_update_that_waits_is_given_up_by_a_rollback_or_by_another() -> None:
    shop = running(app("db"), app("web", "db"))
    before = shop.placed("web")
    shop.ask(changes.stop, DB)
    shop.settle()
    shop.apply(app("web", "db", image="two"))
    shop.settle()
    shop.apply(app("web", "db", image="three"))
    shop.settle()
    assert (shop.app("web").version, shop.app("web").goal) == (1, 3)
    shop.ask(changes.rollback, "/org/ws/env/web", 0)
    shop.settle()
    assert (shop.app("web").goal, shop.placed("web"), shop.task("web").state) == (1, before, TaskState.SUCCEEDED)
    shop.apply(app("web", image="four"))
    shop.settle()
    assert shop.images("web") == ["four"], "what depends on nothing waits for nothing"


def test_what_there_is_not_is_named_with_what_there_is() -> None:
    shop = running(app("cache"))
    with pytest.raises(GestaltError) as refusal:
        shop.apply(app("web", "cache", "db"))
    error = refusal.value
    assert error.kind is Kind.INVALID
    assert error.message == "/org/ws/env/web: depends_on[1]: there is no app /org/ws/env/db"
    assert error.details[0].field == "depends_on[1]"
    assert error.details[0].allowed == "an app that exists (in /org/ws/env: /org/ws/env/cache), or one of the same request"


def test_a_cycle_over_apps_that_exist_is_named() -> None:
    shop = running(app("db"), app("api", "db"), app("web", "api"))
    with pytest.raises(GestaltError) as refusal:
        shop.apply(app("db", "web"))
    error = refusal.value
    way = "/org/ws/env/db -> /org/ws/env/web -> /org/ws/env/api -> /org/ws/env/db"
    assert (error.kind, error.details[0].problem) == (Kind.INVALID, f"makes a cycle: {way}")
    shop.apply(app("db", "web"), app("api"), app("web", "api"))  # turned around in one request
    shop.settle()
    assert shop.task("db").state is TaskState.SUCCEEDED


def test_what_others_depend_on_is_deleted_by_force_only() -> None:
    shop = running(app("db"), app("web", "db"))
    with pytest.raises(GestaltError) as refusal:
        shop.ask(changes.delete, DB)
    error = refusal.value
    assert (error.kind, error.message) == (Kind.REFUSED, "/org/ws/env/db is not deleted: /org/ws/env/web depends on it")
    assert error.hint == "delete /org/ws/env/web first, or take /org/ws/env/db out of depends_on there, or add --force"
    shop.ask(changes.delete, DB, force=True)
    shop.settle()
    assert DB not in shop.state.apps
    assert shop.healthy("/org/ws/env/web")
    shop.ask(changes.stop, "/org/ws/env/web")
    shop.settle()
    shop.ask(changes.start, "/org/ws/env/web")
    shop.settle()
    assert shop.wait("web") == "waits for /org/ws/env/db, which does not exist"
    shop.ask(changes.delete, "/org/ws/env/web")
    shop.settle()
    assert not shop.state.apps


def test_a_job_waits_for_nothing_and_a_run_of_it_is_waited_for() -> None:
    shop = running(app("db"))
    shop.ask(changes.stop, DB)
    shop.settle()
    job = AppSpec.model_validate({"path": "/org/ws/env/schema", "kind": "job", "image": "one", "depends_on": [DB]})
    shop.apply(app("web", "schema"), job)
    assert (shop.app("schema").awaiting, shop.app("web").awaiting) == (0, 1)
    assert shop.wait("web") == "waits for a run of version 1 of /org/ws/env/schema that ends well"


NAMES = ("a", "b", "c", "d")
HAPPENINGS = st.tuples(st.sampled_from(["decide", "decide", "work", "work", "office", "time"]), st.sampled_from(NAMES))


@settings(max_examples=150, deadline=None)
@given(
    edges=st.sets(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)).filter(lambda pair: pair[0] < pair[1])),
    happenings=st.lists(HAPPENINGS, max_size=80),
    is_update=st.booleans(),
)
def test_nothing_new_ever_begins_before_what_it_needs_is_healthy(
    edges: set[tuple[str, str]], happenings: list[tuple[str, str]], is_update: bool
) -> None:
    def specs(image: str) -> list[object]:
        patient = {"health_deadline": "1h", "progress_deadline": "1h"}
        return [app(name, *(b for a, b in sorted(edges) if a == name), image=image, update=patient) for name in NAMES]

    shop = running(*specs("one")) if is_update else Shop()
    shop.apply(*specs("two" if is_update else "one"))  # type: ignore[arg-type]
    wanted = 2 if is_update else 1
    for what, name in happenings:
        before = [item for item in shop.placed(name) if item.version == wanted]
        if what == "decide":
            shop.decide(name)
        elif what == "work":
            shop.work(name)
        elif what == "office":
            shop.take_office()
        else:
            shop.now += 20
        if not before and any(item.version == wanted for item in shop.placed(name)):
            for a, b in edges:
                assert a != name or (shop.healthy(f"/org/ws/env/{b}") and shop.app(b).version == wanted)
    shop.settle()
    assert all(shop.healthy(path) and found.version == wanted for path, found in shop.state.apps.items())


def test_who_waits_is_looked_at_only_when_it_is_something_to_them() -> None:
    shop = Shop()
    shop.apply(app("web", "db"), app("api", "db"), app("db", instances=2))
    shop.decide("web")
    shop.decide("api")
    assert shop.gate.woken(DB) == set()
    shop.decide("db")
    assert shop.gate.woken(DB) == set(), "that it was placed changes nothing"
    shop.work("db")
    assert shop.gate.woken(DB) == set(), "nor that it was started"
    shop.work("db")
    assert shop.gate.woken(DB) == {"/org/ws/env/web", "/org/ws/env/api"}
    assert shop.gate.woken(DB) == set()
    shop.decide("web")
    assert "1 of 2 instances are healthy" in shop.wait("web")
    shop.settle(["db"])
    assert shop.gate.woken(DB) == {"/org/ws/env/web"}
