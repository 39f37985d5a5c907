"""A node that held something exclusive loses the coordinators and ZooKeeper, and nothing else: the others refuse it until it is back.

Its own fence ends what it holds in time; here a program of it that nobody ends plays one that did not hear of that: what it writes to the
others must not arrive any more when the replacement starts.
"""

from __future__ import annotations

import asyncio

import pytest

from .lab.cluster import Cluster, web
from .lab.ensemble import PORT
from .lab.invariants import double_holders
from .lab.nodes import Node, can_run
from .lab.observer import Observer
from .lab.scene import others

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(240),
    pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static"),
]

APP = "/lab/main/prod/ledger"
STORAGE = 24007
CONTROL = (PORT, 2888, 3888, 7400, 7401)

_STORAGE = f"""
import socket, time
server = socket.create_server(("0.0.0.0", {STORAGE}))
while True:
    link = server.accept()[0]
    while link.recv(100):
        open("/run/lab-storage", "w").write(str(time.monotonic()))
"""
_ZOMBIE = f"""
import socket, sys, time
link = socket.create_connection((sys.argv[1], {STORAGE}))
while True:
    link.send(b"write")
    time.sleep(0.02)
"""


async def in_background(node: Node, unit: str, program: str, *arguments: str) -> None:
    await node.do("systemd-run", "--quiet", "--collect", f"--unit={unit}", "/usr/bin/python3", "-c", program, *arguments)


async def last_write(node: Node) -> float:
    """Return when a node's storage was written to last, on the clock that all nodes share."""
    return float((await node.run("cat", "/run/lab-storage")).stdout or 0)


async def refuses(node: Node, other: Node) -> bool:
    return other.address in (await node.run("nft", "list", "table", "inet", "gestalt")).stdout.decode()


async def holder(cluster: Cluster) -> Node:
    """Have the app on a node without the leader; return it."""
    await cluster.launch(web(APP, placement={"exclusive": True}))
    (name,) = [item.node for item in await cluster.listed() if item.app == APP]
    while (await cluster.leader()).name == name:
        await cluster.ctl("cluster", "step-down")
    return next(node for node in cluster.lab.nodes if node.name == name)


async def first_elsewhere(cluster: Cluster, observer: Observer, node: Node) -> float:
    """Wait until a copy runs on another node; return when that was seen."""

    def seen() -> list[float]:
        return [sample.at for sample in observer.samples for copy in sample.copies if copy.app == APP and copy.node != node.name]

    async def so() -> bool:
        return bool(seen())

    await cluster.until("a replacement", so)
    return seen()[0]


async def test_a_lost_holder_is_refused_before_its_replacement_starts_and_let_in_when_it_is_back(cluster: Cluster) -> None:
    lost = await holder(cluster)
    peers = others(cluster, lost)
    for number, peer in enumerate(peers):
        await in_background(peer, "lab-storage", _STORAGE)
        await in_background(lost, f"lab-zombie-{number}", _ZOMBIE, peer.address)

    async def written() -> bool:
        return all([await last_write(peer) for peer in peers])

    async def lifted() -> bool:
        return not any([await refuses(peer, lost) for peer in peers])

    try:
        await cluster.until("what the node writes to arrive", written)
        async with await cluster.observer() as observer:
            await cluster.lab.faults.cut_ports(lost, *CONTROL)
            started = await first_elsewhere(cluster, observer, lost)
            assert [await refuses(peer, lost) for peer in peers] == [True, True]
            assert max([await last_write(peer) for peer in peers]) < started - 1.0
            await cluster.lab.faults.heal()
            await cluster.until_ready()
            await cluster.until("the node to be let in again", lifted)
            await cluster.until_converged()
        assert double_holders(observer.samples, {APP}) == []
    finally:
        await asyncio.gather(*(node.run("systemctl", "stop", "lab-storage", "lab-zombie-0", "lab-zombie-1") for node in cluster.lab.nodes))


async def test_nodes_know_each_other_by_name(cluster: Cluster) -> None:
    """In a container /etc/hosts is mounted there, so that it is written in place."""
    for node in cluster.lab.nodes:
        listed = (await node.do("cat", "/etc/hosts")).splitlines()
        assert listed.count(f"{node.address}\t{node.name}") == 1, "what Docker says of the node itself stays, and nothing is added to it"
        for peer in others(cluster, node):
            assert f"{peer.address}\t{peer.name}" in listed
