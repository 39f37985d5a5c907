"""An app that must never run twice, while the parts of its node die or hang: it outlives agents and fences, and ends without Docker."""

from __future__ import annotations

import pytest

from .lab.cluster import Cluster, web
from .lab.invariants import double_holders
from .lab.nodes import can_run

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(240),
    pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static"),
]

APP = "/lab/main/prod/parts"


async def test_it_outlives_its_agent_and_fence_and_ends_with_its_lease_while_docker_hangs(cluster: Cluster) -> None:
    await cluster.launch(web(APP, placement={"exclusive": True}))
    await cluster.until_converged()
    (item,) = [item for item in await cluster.listed() if item.app == APP]
    holder = next(node for node in cluster.lab.nodes if node.name == item.node)
    async with await cluster.observer() as observer:

        async def moved() -> bool:
            return any(copy.app == APP and copy.node != holder.name for sample in observer.samples for copy in sample.copies)

        for part in ("agent", "fence", "agent"):
            await cluster.lab.faults.crash(holder, part)
            await cluster.until_ready()
            await cluster.until_converged()
        seen = {copy.name for sample in observer.samples for copy in sample.copies if copy.app == APP}
        assert len(seen) == 1, seen
        await cluster.lab.faults.freeze(holder, "docker")
        await cluster.lab.faults.crash(holder, "agent")
        await cluster.lab.faults.isolate(holder)
        await cluster.until("the app on another node", moved)
        await cluster.lab.faults.thaw(holder, "docker")
        await cluster.lab.faults.heal()
        await cluster.until_ready()
        await cluster.until_converged()
    assert double_holders(observer.samples, {APP}) == []
