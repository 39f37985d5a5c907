"""Autoscaling by a real leader with a real store: load is followed by the ordinary way of scaling, and what holds it back is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gestalt.coordinator import autoscaler
from gestalt.coordinator.changes import MAX_INSTANCES
from gestalt.coordinator.records import App
from gestalt.coordinator.state import decode, encode
from gestalt.coordinator.store.base import Put
from gestalt.coordinator.store.sqlite import SqliteStore
from gestalt.proto.v1 import api_pb2, api_pb2_grpc, model_pb2
from gestalt.wire import spec_to_wire
from tests.real.coordinator_rig import Rig, refused
from tests.unit.coordinator.world import PATH, spec

pytestmark = pytest.mark.real

CPU = {"kind": "cpu", "target": 50}
REQUESTS = {"kind": "requests", "target": 10}
ASKED = {"cpu": 1}


def scaling(*metrics: dict[str, Any], **fields: Any) -> dict[str, Any]:
    quick = {"window": 1, "cool_down_up": 0, "cool_down_down": 0, "max_step": 100}
    return {"min": 1, "max": 3, "metrics": list(metrics or (CPU,)), **quick, **fields}


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    started = Rig(tmp_path)
    await started.up()
    yield started
    await started.down()


async def app_until(rig: Rig, what: str, condition: Callable[[model_pb2.App], object]) -> model_pb2.App:
    """Return the app once a condition holds."""
    return (await rig.until_shown(what, lambda reply: condition(reply.app))).app


def told(rig: Rig, kind: str) -> list[str]:
    assert rig.service is not None
    return [event.message for event in rig.service.leader.events.after("0")[0] if event.kind == kind]


async def test_load_is_followed_up_and_down(rig: Rig) -> None:
    agent = await rig.agent(cores=1.2)
    await rig.outcome(await rig.launch(1, resources=ASKED, autoscale=scaling()))
    app = await app_until(rig, "three", lambda app: app.count == 3 and not app.task)
    assert app.version == 1, "scaling makes no version"
    assert len(agent.running) == 3
    task = (await rig.tasks().List(api_pb2.ListTasksRequest(), timeout=10)).tasks[0]
    assert (task.kind, task.state, task.requested_by) == ("scale", "succeeded", "autoscaler")
    assert told(rig, "app.scaled") == [f"autoscaler scaled {PATH} from 1 to 3: cpu 120 % of 50 %: 1 → 3"]
    assert rig.service is not None
    audits = [(item.actor, item.action) for item in rig.service.leader.ledger.state.audits.values() if item.actor == "autoscaler"]
    assert audits == [("autoscaler", f"scale {PATH}: cpu 120 % of 50 %: 1 → 3")]
    await app_until(rig, "rest", lambda app: app.autoscaling == "cpu 40 % of 50 %: 3 are right")
    agent.cores = 0.3
    await app_until(rig, "one", lambda app: app.count == 1 and not app.task)
    assert len(agent.running) == 1


async def test_dry_run_only_talks(rig: Rig) -> None:
    agent = await rig.agent(cores=1.2)
    await rig.outcome(await rig.launch(1, resources=ASKED, autoscale=scaling(dry_run=True)))
    app = await app_until(rig, "advice", lambda app: "→" in app.autoscaling)
    assert app.autoscaling == "dry run: cpu 120 % of 50 %: 1 → 3"
    agent.cores = 1.3
    app = await app_until(rig, "another look", lambda app: app.autoscaling == "dry run: cpu 130 % of 50 %: 1 → 3")
    assert told(rig, "app.autoscale") == [f"autoscaling would change {PATH} (dry run): cpu 120 % of 50 %: 1 → 3"]
    assert app.count == 1
    reply = await rig.apps().Scale(api_pb2.ScaleRequest(app=PATH, count=5), timeout=10)
    assert reply.tasks, "whoever only listens to it may scale as before"


async def test_who_scales_by_hand_says_where_it_begins_anew(rig: Rig) -> None:
    await rig.agent(cores=0.9)
    await rig.outcome(await rig.launch(2, resources=ASKED, autoscale=scaling(cool_down_down=3600)))
    refusal = await refused(rig.apps().Scale(api_pb2.ScaleRequest(app=PATH, count=4), timeout=10))
    assert refusal.message == (
        "count: 4 is outside of the bounds of autoscaling; allowed: 1 to 3; or change autoscale in the description;"
        " `gestaltctl stop` stops all"
    )
    await rig.outcome(await rig.apps().Scale(api_pb2.ScaleRequest(app=PATH, count=3), timeout=10))
    app = await app_until(rig, "a decision", lambda app: "earliest" in app.autoscaling)
    assert app.count == 3
    assert "3 → 2 in 5" in app.autoscaling


async def test_a_description_leaves_the_number_alone_and_its_bounds_count_at_once(rig: Rig) -> None:
    await rig.agent(cores=1.2)
    await rig.outcome(await rig.launch(1, resources=ASKED, autoscale=scaling()))
    await app_until(rig, "three", lambda app: app.count == 3 and not app.task)
    again = await rig.launch(1, resources=ASKED, autoscale=scaling())
    assert list(again.unchanged) == [PATH], "the same description again takes nothing back"
    described = spec_to_wire(spec("web:2", 1, resources=ASKED, autoscale=scaling()))
    (plan,) = (await rig.apps().Plan(api_pb2.PlanRequest(apps=[described]), timeout=10)).apps
    assert [item.action for item in plan.instances].count("start") == 3
    assert "autoscaling owns the number of instances: 3, not 1" in plan.notes
    reply = await rig.launch(1, resources=ASKED, autoscale=scaling(max=2))
    assert [task.kind for task in reply.tasks] == ["scale"], "bounds are no part of a version"
    app = (await rig.get()).app
    assert (app.count, app.version, app.spec.autoscale.max) == (2, 1, 2)
    await rig.outcome(await rig.launch(1, image="web:2", resources=ASKED, autoscale=scaling(max=2)))
    app = (await rig.get()).app
    assert (app.count, app.version) == (2, 2), "an update does not, either"
    await rig.outcome(await rig.launch(1, image="web:2", resources=ASKED))
    app = (await rig.get()).app
    assert (app.count, app.autoscaling) == (1, ""), "without autoscaling the description says how many"
    too_many = await refused(rig.launch(1, resources=ASKED, autoscale=scaling(max=MAX_INSTANCES + 1)))
    assert "autoscale.max" in too_many.message


async def test_what_holds_it_back_is_told(rig: Rig) -> None:
    agent = await rig.agent(cores=1.2)
    await rig.outcome(await rig.launch(1, resources=ASKED, autoscale=scaling()))
    control = api_pb2_grpc.ClusterStub(rig.channel())
    await control.Pause(api_pb2.PauseRequest(reason="for lunch"), timeout=10)
    app = await app_until(rig, "the pause", lambda app: "paused" in app.autoscaling)
    assert app.autoscaling.startswith("nothing is changed: replacement is paused")
    assert app.count == 1
    await control.Resume(api_pb2.PauseRequest(), timeout=10)
    await app_until(rig, "three", lambda app: app.count == 3 and not app.task)
    await rig.outcome(await rig.apps().Stop(api_pb2.AppRequest(app=PATH), timeout=10))
    agent.cores = 0.0
    app = await app_until(rig, "the stop", lambda app: "stopped" in app.autoscaling)
    assert (app.count, app.autoscaling) == (3, "nothing is changed: it is stopped")


async def test_who_hears_nothing_changes_nothing(rig: Rig) -> None:
    await rig.agent()
    await rig.outcome(await rig.launch(3, resources=ASKED, autoscale=scaling(CPU, REQUESTS)))
    app = await app_until(rig, "a decision", lambda app: "right" in app.autoscaling)
    assert (app.count, app.autoscaling) == (3, "cpu is not measured: 3 are right")


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Rig]:
    """Two nodes, and an app of three instances because of what the load balancer of the first did; now that is little."""
    started = Rig(tmp_path, members=("node-1", "node-2"), settings={"heartbeat": 0.5})
    await started.up()
    first, _ = [await started.agent(node_id=name, name=name) for name in started.members]
    first.requests = 25.0
    await started.outcome(await started.launch(2, autoscale=scaling(REQUESTS)))
    await app_until(started, "three", lambda app: app.count == 3 and not app.task)
    first.requests = 1.0
    yield started
    await started.down()


UNKNOWN = "0.333 requests a second of 10 (nothing is taken away: the load balancer of node-2 is unknown): 3 are right"


async def test_requests_are_those_of_all_load_balancers(pair: Rig) -> None:
    app = await app_until(pair, "less", lambda app: app.autoscaling == UNKNOWN)
    assert app.count == 3
    pair.agents[1].requests = 14.0
    await app_until(pair, "two", lambda app: app.count == 2 and not app.task)


async def test_a_node_that_is_not_heard_for_long_counts_no_more(pair: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await pair.agents[1].stop()
    app = await app_until(pair, "less", lambda app: app.autoscaling == UNKNOWN)
    assert app.count == 3, "it may pass on many requests"
    monkeypatch.setattr(autoscaler, "SILENT", 0.0)
    await app_until(pair, "one", lambda app: app.count == 1)


async def test_nothing_is_changed_during_a_change(rig: Rig) -> None:
    agent = await rig.agent(cores=0.0)
    await rig.outcome(await rig.launch(2, resources=ASKED, autoscale=scaling(cool_down_down=3600)))
    agent.broken = frozenset({"web:2"})
    await rig.launch(2, image="web:2", resources=ASKED, autoscale=scaling(cool_down_down=0))
    app = await app_until(rig, "the update", lambda app: "under way" in app.autoscaling)
    assert (app.count, app.autoscaling) == (2, "nothing is changed: its update is under way")


async def test_a_new_leader_measures_for_a_whole_window_first(rig: Rig) -> None:
    await rig.agent(cores=3.0)
    await rig.outcome(await rig.launch(1, resources=ASKED, autoscale=scaling(window=60)))
    await rig.down()
    await rig.up()
    await rig.agent(cores=3.0)
    app = await app_until(rig, "a look", lambda app: "measures" in app.autoscaling)
    assert app.count == 1
    assert app.autoscaling.endswith(" more before it decides")
    assert app.spec.autoscale.window == 60, "what was asked for is durable"


async def test_a_cool_down_goes_on_with_the_next_leader(rig: Rig) -> None:
    agent = await rig.agent(cores=1.2)
    await rig.outcome(await rig.launch(2, resources=ASKED, autoscale=scaling(cool_down_down="1h")))
    await app_until(rig, "three", lambda app: app.count == 3 and not app.task)
    agent.cores = 0.0
    app = await app_until(rig, "the cool-down", lambda app: "earliest" in app.autoscaling)
    assert "3 → 1 in 59m" in app.autoscaling
    await rig.down()
    await changed_before(rig, timedelta(minutes=30))
    await rig.up()
    await rig.agent(cores=0.0)
    app = await app_until(rig, "the cool-down", lambda app: "earliest" in app.autoscaling)
    assert "3 → 1 in 29m" in app.autoscaling
    await rig.down()
    await changed_before(rig, timedelta(minutes=30))
    await rig.up()
    await rig.agent(cores=0.0)
    await app_until(rig, "one", lambda app: app.count == 1)


async def test_the_cool_down_of_another_policy_goes_on_with_the_next_leader_too(rig: Rig) -> None:
    """Also if it comes with a canary, whose update may take for ever."""
    agent = await rig.agent(cores=0.0)
    await rig.outcome(await rig.launch(3, resources=ASKED, autoscale=scaling(cool_down_down="1h")))
    await rig.down()
    await changed_before(rig, timedelta(minutes=30))
    await rig.up()
    agent = await rig.agent(cores=0.0)
    await app_until(rig, "the cool-down of the launch", lambda app: "3 → 1 in 29m" in app.autoscaling)
    asked = {"resources": ASKED, "autoscale": scaling(cool_down_down="1h", max=4), "update": {"strategy": "canary", "canary": 1}}
    await rig.launch(3, image="web:2", **asked)
    await app_until(rig, "the canary", lambda app: len(agent.running) == 4 and "3 → 1 in 59m" in app.autoscaling)
    await rig.down()
    await rig.up()
    await rig.agent(cores=0.0)
    app = await app_until(rig, "the cool-down", lambda app: "earliest" in app.autoscaling)
    assert "3 → 1 in 59m" in app.autoscaling


async def changed_before(rig: Rig, ago: timedelta) -> None:
    """Have the last change of the app been done earlier than it was."""
    store = SqliteStore(rig.folder / "state.db", rig.cluster_id)
    await store.open()
    epoch = await store.take_office()
    (app,) = [record for document in (await store.load()).documents if isinstance(record := decode(document), App)]
    at = datetime.fromisoformat(app.changed_at) - ago
    await store.commit([Put("app", app.path, encode(replace(app, changed_at=at.isoformat())))], epoch)
    await store.close()


async def test_what_is_refused_is_told(rig: Rig) -> None:
    """A version to which somebody went back may forbid what autoscaling asks for."""
    agent = await rig.agent(cores=0.0)
    await rig.outcome(await rig.launch(1, resources=ASKED, placement={"exclusive": True}))
    await rig.outcome(await rig.launch(1, image="web:2", resources=ASKED, autoscale=scaling()))
    await rig.outcome(await rig.apps().Rollback(api_pb2.RollbackRequest(app=PATH, to_version=1), timeout=10))
    agent.cores = 1.2
    app = await app_until(rig, "the refusal", lambda app: "refused" in app.autoscaling)
    assert app.count == 1
    assert app.autoscaling.startswith("was to be scaled, but that was refused: instances: 3 of version 1, which is exclusive")


async def test_canaries_are_not_counted_and_a_pause_is_kept(rig: Rig) -> None:
    agent = await rig.agent(cores=1.0)
    asked = {"resources": ASKED, "autoscale": scaling(), "update": {"strategy": "canary", "canary": 1}}
    await rig.outcome(await rig.launch(2, **asked))
    agent.cores = 1.5
    await rig.launch(2, image="web:2", **asked)
    app = await app_until(rig, "the canary", lambda app: len(agent.running) == 3 and app.autoscaling.startswith("cpu 50 %"))
    assert (app.count, app.autoscaling) == (2, "cpu 50 % of 50 %: 2 are right")
    await api_pb2_grpc.ChangesStub(rig.channel()).Pause(api_pb2.AppRequest(app=PATH), timeout=10)
    agent.cores = 3.0
    app = await app_until(rig, "the pause", lambda app: "paused" in app.autoscaling)
    assert (app.count, app.autoscaling) == (
        2,
        f"nothing is changed: it is paused by alice: nothing is started or stopped for it until `gestaltctl resume {PATH}`",
    )
