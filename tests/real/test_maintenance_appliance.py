"""The only node of an appliance in maintenance: its time ends it, also under a coordinator that was started again meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gestalt.proto.v1 import api_pb2, api_pb2_grpc
from tests.real.coordinator_rig import Rig, eventually, refused

pytestmark = pytest.mark.real


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path)
    await made.up()
    yield made
    await made.down()


def admin(rig: Rig) -> str:
    assert rig.service is not None
    return rig.service.leader.ledger.state.nodes[rig.node_id].admin


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_the_time_of_a_maintenance_ends_it(rig: Rig, is_restarted: bool) -> None:
    await rig.agent()
    await rig.outcome(await rig.launch(1))
    nodes = api_pb2_grpc.NodesStub(rig.channel())
    error = await refused(nodes.Maintain(api_pb2.MaintenanceRequest(node=rig.node_id, lasts=60)))
    assert "is the only node" in error.message
    await nodes.Maintain(api_pb2.MaintenanceRequest(node=rig.node_id, keep=True, lasts=1), timeout=10)
    assert admin(rig) == "maintenance"
    waiting = await rig.launch(2)
    if is_restarted:
        await rig.down()
        await rig.up()
        assert admin(rig) == "maintenance"
        await rig.agent()
    await eventually(lambda: admin(rig) == "ready", "the maintenance is over")
    assert (await rig.outcome(waiting)).state == "succeeded", "what waited for the node is placed"
