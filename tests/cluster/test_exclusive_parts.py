"""An app that must never run twice, while parts of its node or ZooKeeper fail: it outlives agents and fences, and ends without Docker."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
import yaml

from gestalt.clock import monotonic
from gestalt.config import TimingSettings

from .lab.cluster import Cluster, web
from .lab.invariants import double_holders, working
from .lab.nodes import Node, can_run

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(240),
    pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static"),
]

APP = "/lab/main/prod/parts"
OVER = TimingSettings().lease + TimingSettings().kill


async def lives_again(cluster: Cluster, node: Node, part: str, before: str) -> bool:
    return await cluster.lab.faults.life(node, part) not in ("", before)


async def test_it_outlives_its_agent_and_fence_and_ends_with_its_lease_while_docker_hangs(cluster: Cluster) -> None:
    await cluster.launch(web(APP, placement={"exclusive": True}))
    await cluster.until_converged()
    (item,) = [item for item in await cluster.listed() if item.app == APP]
    holder = next(node for node in cluster.lab.nodes if node.name == item.node)
    async with await cluster.observer() as observer:

        async def moved() -> bool:
            return any(copy.app == APP and copy.node != holder.name for sample in observer.samples for copy in sample.copies)

        for part in ("agent", "fence", "agent"):
            before = await cluster.lab.faults.life(holder, part)
            await cluster.lab.faults.crash(holder, part)
            await cluster.until(f"the next life of its {part}", partial(lives_again, cluster, holder, part, before))
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


async def failsafe(node: Node, *daemons: str, on: bool) -> None:
    """Set it for the agent, the fence or both of a node."""
    for daemon in daemons:
        file = f"/etc/gestalt/{daemon}.yaml"
        document = yaml.safe_load(await node.do("cat", file)) | {"failsafe": on}
        await node.do("sh", "-c", f"cat >{file}", stdin=yaml.safe_dump(document).encode())
        await node.do("systemctl", "restart", f"gestalt-{daemon}")


async def test_without_quorum_it_goes_on_while_every_coordinator_promises_and_ends_when_nobody_asks_them(cluster: Cluster) -> None:
    nodes, two = cluster.lab.nodes, cluster.lab.ensemble.servers[:2]
    await asyncio.gather(*(failsafe(node, "fence", "agent", on=True) for node in nodes))
    try:
        await cluster.until_ready()
        await cluster.launch(web(APP, placement={"exclusive": True}))
        await cluster.until_converged()
        (item,) = [item for item in await cluster.listed() if item.app == APP]
        holder = next(node for node in nodes if node.name == item.node)
        async with await cluster.observer() as observer:

            async def beyond_a_lease() -> bool:
                return monotonic() - cut > OVER + 2.0

            async def ended() -> bool:
                return not working(observer.samples[-1], APP)

            await asyncio.gather(*(cluster.lab.faults.stop(node, "zookeeper") for node in two))
            cut = monotonic()
            await cluster.until("more than a lease to pass", beyond_a_lease)
            assert {frozenset(working(sample, APP)) for sample in observer.samples} == {frozenset({holder.name})}
            await failsafe(holder, "agent", on=False)
            switched = monotonic()
            await cluster.until("its end", ended)
            assert monotonic() - switched < OVER + 1.0
            await asyncio.gather(*(cluster.lab.faults.start(node, "zookeeper") for node in two))
            await cluster.until_answering()
            await cluster.until_ready()
            await cluster.until_converged()
        assert double_holders(observer.samples, {APP}) == []
    finally:
        await asyncio.gather(*(failsafe(node, "fence", "agent", on=False) for node in nodes))
