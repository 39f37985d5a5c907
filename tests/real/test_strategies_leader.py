"""A strategy for the apps of a pool, or of the whole cluster, that name none: said to a real leader, kept by the next one, and exported."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gestalt.coordinator.state import SWITCHES
from gestalt.errors import Kind
from gestalt.proto.v1 import api_pb2
from gestalt.wire import spec_to_wire
from tests.real.cluster_rig import Ended, command
from tests.real.coordinator_rig import refused
from tests.real.members_rig import Members
from tests.real.test_export import contexts, exported, held, imported, values, zookeeper_file
from tests.real.test_placement import label, well
from tests.real.zookeeper_lab import Ensemble, new_root
from tests.unit.coordinator.world import spec

pytestmark = pytest.mark.real

NODES = "abcd"


@pytest.fixture
async def rig(ensemble: Ensemble, tmp_path: Path) -> AsyncIterator[Members]:
    """Four nodes, two of them in the pool gpu."""
    rig = Members(tmp_path, ensemble=ensemble)
    await rig.up()
    for name in NODES:
        await rig.node(name)
    for name in "cd":
        await label(rig, name, pool="gpu")
    yield rig
    await rig.down()


async def said(rig: Members, *arguments: str) -> Ended:
    ended = await command("gestaltctl", "cluster", "strategy", *arguments, env=contexts(rig))
    assert ended.code in (0, 2), ended.err
    return ended


async def test_a_pool_and_the_cluster_have_a_strategy_and_the_next_leader_keeps_it(rig: Members) -> None:
    assert await well(rig, await rig.launch(2)) == {"a": 1, "b": 1}
    assert (await said(rig)).out == "the cluster: spread, the default\n"
    assert (await said(rig, "binpack")).out == "the cluster: binpack\n"
    told = json.loads((await said(rig, "spread", "--pool", "gpu", "-o", "json")).out)
    assert told == {"changed": True, "strategy": "binpack", "pools": {"gpu": "spread"}, "warnings": []}
    assert not json.loads((await said(rig, "spread", "--pool", "gpu", "-o", "json")).out)["changed"], "it was said already"
    assert rig.runs("a") == rig.runs("b") == 1, "what is placed stays where it is"
    request = api_pb2.LaunchRequest(
        apps=[
            spec_to_wire(spec(instances=2, path=f"/o/w/e/{pool}", ports=[], checks=[], placement={"pool": pool}))
            for pool in ("gpu", "default")
        ]
    )
    plans = (await rig.apps().Plan(api_pb2.PlanRequest(apps=request.apps), timeout=10)).apps
    assert [(plan.strategy, plan.strategy_from) for plan in plans] == [("spread", "pool"), ("binpack", "cluster")]
    notes = ["placement.strategy is spread, as was said for pool gpu", "placement.strategy is binpack, as was said for the whole cluster"]
    assert [note for plan in plans for note in plan.notes] == notes
    await rig.leave_office()
    ran = {name: await rig.disconnect(name) for name in NODES}
    await rig.take_office()
    for name, there in ran.items():
        await rig.connect(name)
        rig.by_name[name].running.update(there)
    status = await rig.status()
    assert (status.strategy, dict(status.pool_strategies)) == ("binpack", {"gpu": "spread"})
    for reply in (await rig.apps().Launch(request, timeout=10)).tasks:
        assert (await rig.outcome(api_pb2.ChangeReply(tasks=[reply]))).state == "succeeded"
    assert sorted((rig.runs("a"), rig.runs("b"))) == [1, 3], "packed"
    assert rig.runs("c") == rig.runs("d") == 1, "spread"
    found = {app.path: (app.strategy, app.strategy_from) for app in (await rig.apps().List(api_pb2.ListRequest(), timeout=10)).apps}
    assert found["/o/w/e/gpu"] == ("spread", "pool")
    assert found["/o/w/e/default"] == ("binpack", "cluster")
    assert json.loads((await said(rig, "--unset", "-o", "json")).out) == {
        "changed": True,
        "strategy": "",
        "pools": {"gpu": "spread"},
        "warnings": [],
    }
    assert rig.events("cluster.strategy") == [
        "alice: apps of the cluster that name no strategy are placed by binpack",
        "alice: apps of pool gpu that name no strategy are placed by spread",
        "alice: what was said of the cluster is taken back",
    ]
    assert rig.leader is not None
    actions = [audit.action for audit in rig.leader.ledger.state.audits.values() if audit.action.startswith("cluster.strategy")]
    assert actions == ["cluster.strategy the cluster", "cluster.strategy pool gpu", "cluster.strategy the cluster"]


async def test_a_request_is_answered_alike_and_what_makes_no_sense_is_refused(rig: Members) -> None:
    asked = api_pb2.StrategyRequest(request=api_pb2.Request(id="once"), strategy="binpack")
    first = await rig.cluster().SetStrategy(asked, timeout=10)
    assert first.changed
    await rig.cluster().SetStrategy(api_pb2.StrategyRequest(strategy="spread"), timeout=10)
    assert await rig.cluster().SetStrategy(asked, timeout=10) == first
    assert (await rig.status()).strategy == "spread"
    for wrong, words in (
        (api_pb2.StrategyRequest(strategy="pack"), "strategy: is 'pack'; allowed: spread or binpack, or nothing, to take it back"),
        (
            api_pb2.StrategyRequest(pool="G P", strategy="spread"),
            "pool: is 'G P'; allowed: a-z, 0-9 and inner dashes, at most 63 characters",
        ),
    ):
        error = await refused(rig.cluster().SetStrategy(wrong, timeout=10))
        assert (error.kind, error.message) == (Kind.INVALID, words)
    for arguments, complaint in ((("spread", "--unset"), "--unset stands beside"), (("--pool", "gpu"), "--pool stands alone")):
        ended = await said(rig, *arguments)
        assert ended.code == 2
        assert complaint in ended.err


async def test_a_pool_that_no_node_is_in_is_accepted_with_a_warning(rig: Members) -> None:
    typo = "no node is in pool gpuu: there are nodes in default, gpu"
    ended = await said(rig, "binpack", "--pool", "gpuu")
    assert (ended.code, ended.err) == (0, f"warning: {typo}\n")
    assert json.loads((await said(rig, "binpack", "--pool", "gpuu", "-o", "json")).out)["warnings"] == [typo], "also if it was said already"
    await label(rig, "d", pool="gpuu")
    assert (await said(rig, "spread", "--pool", "gpuu")).err == "", "it was prepared, and now a node is in it"
    assert (await said(rig, "--unset", "--pool", "gpuuu")).err == "warning: nothing was said of pool gpuuu: something was said of gpuu\n"


async def test_it_is_exported_and_imported(rig: Members, ensemble: Ensemble) -> None:
    await rig.cluster().SetStrategy(api_pb2.StrategyRequest(pool="gpu", strategy="binpack"), timeout=10)
    target = zookeeper_file(rig, ensemble, new_root())
    ended = await imported(await exported(rig), target)
    assert ended.code == 0, ended.err
    assert json.loads(values(await held(target), "switches")["switches", SWITCHES])["strategies"] == {
        "cluster": "",
        "pools": {"gpu": "binpack"},
    }
