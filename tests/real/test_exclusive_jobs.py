"""An exclusive job with a real leader, ZooKeeper, fences and processes: what was lost runs again only when it is dead."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gestalt.clock import monotonic
from gestalt.proto.v1 import api_pb2, api_pb2_grpc
from gestalt.spec.schema import AppSpec
from gestalt.wire import spec_to_wire
from tests.real.guarded_rig import TIMING, WAIT, Exclusive, guarded
from tests.real.zookeeper_lab import Ensemble
from tests.unit.coordinator.world import PATH

pytestmark = pytest.mark.real
FIELDS = {"path": PATH, "kind": "job", "image": "web:1", "placement": {"exclusive": True}, "job": {"retries": 0}}


async def test_what_was_lost_runs_again_when_lease_kill_and_margin_are_over(ensemble: Ensemble, tmp_path: Path) -> None:
    settings = {"timing": TIMING, "unreachable_after": 1.0, "hands_off_share": 1.0}
    async with guarded(Exclusive(tmp_path, ensemble=ensemble, settings=settings), "a", "b") as rig:
        await rig.outcome(await rig.apps().Apply(api_pb2.LaunchRequest(apps=[spec_to_wire(AppSpec.model_validate(FIELDS))]), timeout=10))
        jobs = api_pb2_grpc.JobsStub(rig.channel())
        await jobs.Run(api_pb2.RunRequest(app=PATH), timeout=10)
        holder = await rig.holder()
        other, began = rig.other(holder), monotonic()
        losing = asyncio.create_task(rig.lost(holder))
        await rig.agent_of(holder.name).hang_up()
        holder.wire.cut()
        lost = await losing
        await rig.until(lambda: rig.watcher.first(other, began), f"it is at work on {other.name}")
        assert rig.watcher.first(other, began) - lost >= WAIT
        assert rig.watcher.doubles() == []
        (run,) = (await jobs.Runs(api_pb2.GetRequest(app=PATH), timeout=10)).runs
        assert (run.state, run.lost, run.failed, run.running) == ("running", 1, 0, 1)
