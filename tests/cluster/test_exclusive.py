"""An app that must never run twice, while its node dies, is cut off or hangs: judged by the processes on all nodes, seen from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from gestalt.clock import monotonic
from gestalt.cluster.secrets import node_identity, node_secret, read_secret, write_secret
from gestalt.config import TimingSettings, ZooKeeperSettings
from gestalt.proto.v1 import api_pb2
from gestalt.zk.client import Zk, ZkError
from gestalt.zk.grants import parse_lease
from gestalt.zk.paths import Paths

from .lab.cluster import SECRET, Cluster, web
from .lab.invariants import Sample, double_holders, working
from .lab.nodes import Node, can_run
from .lab.observer import Observer
from .lab.scene import SOLO, move_solo

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(240),
    pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static"),
]

APP = SOLO
TIMING = TimingSettings()
WAIT = TIMING.lease + TIMING.kill + TIMING.margin
COORDINATOR = "/etc/gestalt/coordinator.yaml"


@asynccontextmanager
async def watched(cluster: Cluster, on: Node | None = None) -> AsyncIterator[tuple[Observer, Node]]:
    """Have the app at work, on a certain node if it is given, and watch all nodes; gives the observer and the node that holds it."""
    await cluster.launch(web(APP, placement={"exclusive": True}))
    await cluster.until_converged()
    if on is not None:
        await move_solo(cluster, on)
    async with await cluster.observer() as observer:
        await until(cluster, "samples", lambda: bool(observer.samples))
        (name,) = working(observer.samples[-1], APP)
        yield observer, next(node for node in cluster.lab.nodes if node.name == name)


async def until(cluster: Cluster, what: str, condition: Callable[[], bool]) -> None:
    async def holds() -> bool:
        return condition()

    await cluster.until(what, holds)


async def until_elsewhere(cluster: Cluster, observer: Observer, holder: Node) -> float:
    """Wait until the app is at work on another node; return when it was seen there first."""
    found: list[float] = []

    def so() -> bool:
        found[:] = [sample.at for sample in observer.samples if working(sample, APP) - {holder.name}]
        return bool(found)

    await until(cluster, f"{APP} to be at work on another node than {holder.name}", so)
    return found[0]


def ended(samples: Iterable[Sample], holder: Node) -> float:
    """Return when the app was last seen at work on a node."""
    return max(sample.at for sample in samples if holder.name in working(sample, APP))


async def test_a_killed_holder_is_replaced_when_its_lease_must_be_over(cluster: Cluster) -> None:
    async with watched(cluster) as (observer, holder):
        killed = monotonic()
        await cluster.lab.faults.kill(holder)
        assert await until_elsewhere(cluster, observer, holder) - killed >= WAIT
        await cluster.until_converged([node for node in cluster.lab.nodes if node != holder])
        await cluster.lab.faults.boot(holder)
        await cluster.until_ready()
        await cluster.until_converged()
    assert double_holders(observer.samples, {APP}) == []


async def test_a_holder_that_is_cut_off_has_ended_before_the_next_begins(cluster: Cluster) -> None:
    async with watched(cluster) as (observer, holder):
        cut = monotonic()
        await cluster.lab.faults.isolate(holder)
        began = await until_elsewhere(cluster, observer, holder)
        assert began - cut >= WAIT
        assert TIMING.lease / 2 < ended(observer.samples, holder) - cut < WAIT, "its fence ended it, at the end of the lease"
        await cluster.lab.faults.heal()
        await cluster.until_ready()
        await cluster.until_converged()
    assert double_holders(observer.samples, {APP}) == []


async def test_a_holder_that_hung_is_ended_as_soon_as_it_moves_again(cluster: Cluster) -> None:
    async with watched(cluster) as (observer, holder):
        hung = monotonic()
        await cluster.lab.faults.pause(holder)
        assert await until_elsewhere(cluster, observer, holder) - hung >= WAIT
        moved = monotonic()
        await cluster.lab.faults.unpause(holder)
        await cluster.until_ready()
        await cluster.until_converged()
    before = [sample for sample in observer.samples if sample.at < moved]
    assert double_holders(before, {APP}) == []
    assert ended(observer.samples, holder) - moved < TIMING.kill + TIMING.margin, "no fence can act while its machine does not move"


async def test_the_judge_finds_two_where_the_leader_believes_in_shorter_leases(cluster: Cluster, tmp_path: Path) -> None:
    """The checker is checked: coordinators with shorter leases than the fences, and a lie about what the holder's fence told."""
    wrong = {"lease": 2.0, "kill": 0.1, "margin": 0.1}
    before = await asyncio.gather(*(node.do("cat", COORDINATOR) for node in cluster.coordinators))
    await asyncio.gather(*(_configure(node, text, wrong) for node, text in zip(cluster.coordinators, before, strict=True)))
    try:
        await cluster.until_ready()
        leaders = [await cluster.lab.ensemble.leader(), await cluster.leader()]  # without them an election would take as long as the lease
        async with watched(cluster, next(node for node in cluster.lab.nodes if node not in leaders)) as (observer, holder):
            async with _liar(cluster, holder, tmp_path / "secret") as lie:
                await cluster.lab.faults.isolate(holder)
                await cluster.until("ZooKeeper to take the lie", lambda: lie(wrong["lease"], wrong["kill"]))
            await until_elsewhere(cluster, observer, holder)
            await until(cluster, "the old copy to end", lambda: holder.name not in working(observer.samples[-1], APP))
        assert double_holders(observer.samples, {APP})
    finally:
        await cluster.lab.faults.heal()
        await asyncio.gather(*(_configure(node, text, {}) for node, text in zip(cluster.coordinators, before, strict=True)))
        await cluster.until_ready()


@asynccontextmanager
async def _liar(cluster: Cluster, holder: Node, secret: Path) -> AsyncIterator[Callable[[float, float], Awaitable[bool]]]:
    """Gives what has the lease of a node say, in its own name, another length and kill than its fence wrote; returns whether it does.

    To be used when the fence is cut off, and cannot write it anew, and before its membership ends: then the leader reads it.
    """
    reply = await cluster.ask(lambda api: api.nodes.List, api_pb2.ListNodesRequest())
    node = next(item.id for item in reply.nodes if item.name == holder.name)
    write_secret(secret, node_secret(read_secret(cluster.client.with_name(SECRET)), node))
    hosts = tuple(host for host in cluster.lab.ensemble.hosts if host.rpartition(":")[0] != holder.address)
    access = ZooKeeperSettings(hosts=hosts, identity=node_identity(node), secret_file=secret)
    path = Paths(access.root).lease(node)
    zk = await Zk.connect(access, session=10.0, name="liar")

    async def lie(length: float, kill: float) -> bool:
        with suppress(ZkError):
            found = await zk.get(path)
            mark = parse_lease(found[0]) if found is not None else None
            assert mark is not None, f"the lease of {holder.name} says {found}"
            await zk.set(path, replace(mark, length=length, kill=kill).encode())
            return True
        return False

    try:
        yield lie
    finally:
        await zk.close()


async def _configure(node: Node, text: str, timing: dict[str, float]) -> None:
    """Have a coordinator with other times at work."""
    document = yaml.safe_load(text)
    document["timing"] = {**document.get("timing", {}), **timing}
    await node.do("sh", "-c", f"cat >{COORDINATOR}", stdin=yaml.safe_dump(document).encode())
    await node.do("systemctl", "restart", "gestalt-coordinator")
