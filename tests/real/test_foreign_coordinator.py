"""A coordinator of another cluster that was pointed to this one's ZooKeeper and, worse, may write there."""

from __future__ import annotations

from pathlib import Path

import pytest

from gestalt.proto.v1 import api_pb2
from tests.real.agent_rig import until
from tests.real.coordinators_rig import Coordinators
from tests.real.zookeeper_lab import Ensemble

pytestmark = pytest.mark.real


async def test_a_coordinator_of_another_cluster_never_leads_here(ensemble: Ensemble, tmp_path: Path) -> None:
    """Also when it is the only one left: it says what is wrong, and our own leads again as soon as it is back."""
    folders = [tmp_path / name for name in ("ours", "theirs")]
    for folder in folders:
        folder.mkdir()
    ours = Coordinators(folders[0], ensemble, count=1)
    theirs = Coordinators(folders[1], ensemble, count=1, root=ours.root)
    try:
        await ours.up()
        async with ours.client(0) as client:
            before = await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest())
        theirs.start(0)
        ours.kill(0)

        async def refused() -> bool:
            return f"belongs to cluster {ours.cluster_id}, not {theirs.cluster_id}" in theirs.log(0)

        await until("the stranger to be refused", refused, 30)
        assert "took office" not in theirs.log(0)
        ours.start(0)
        await ours.settled()
        async with ours.client(0) as client:
            after = await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest())
        assert after.epoch == before.epoch + 1, "nobody else was in office"
        assert after.cluster_id == before.cluster_id
    finally:
        await ours.down()
        await theirs.down()
