"""Gestalt on the nodes of a lab, as the benchmarks use it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gestalt.clock import monotonic
from gestalt.proto.v1 import api_pb2
from tests.cluster.lab.cluster import Cluster, web
from tests.cluster.lab.install import install
from tests.cluster.lab.lab import Lab
from tests.cluster.lab.nodes import LabError, Node

MANAGERS = 3
"""How many nodes decide, here and in what is compared."""

_MOVES = 12


@dataclass
class Gestalt:
    """One cluster: coordinators and ZooKeeper on the first three nodes, which take no instances.

    `session`: the length of ZooKeeper's sessions; "" = the default of 2 s. `fields`: what else the app's description says.
    """

    lab: Lab
    session: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    label: str = "node lost"

    @property
    def name(self) -> str:
        return f"Gestalt, {f'session {self.session}' if self.session else 'default'}, {self.label}"

    async def start(self) -> None:
        """Make a cluster of all nodes."""
        self.cluster = await cluster_of(self.lab, self.session)
        await self._settle()

    async def _settle(self) -> None:
        for node in self.lab.nodes[:MANAGERS]:
            await self.cluster.ctl("node", "cordon", node.name)

    async def deploy(self, host: str, instances: int) -> None:
        """Run so many instances behind a host name."""
        self.path = f"/bench/lab/test/{host}"
        await self.cluster.launch(web(self.path, instances=instances, **self.fields))

    async def victim(self, homes: Sequence[str]) -> Node:
        """Return the node to be lost: one of those that run instances."""
        return random.choice([node for node in self.lab.nodes if node.name in homes])

    def front(self) -> Node:
        """Return a node that lives whatever node is lost; what came before may have changed it."""
        return self.lab.nodes[0]

    async def lost(self, victim: Node) -> float:
        """Do what is to be done once the power is gone; return from when on the time counts."""
        return 0.0

    async def until_whole(self) -> None:
        """Wait until all nodes are back and everything is as wanted, listed and real alike."""
        for server in self.lab.ensemble.servers:
            await self.lab.ensemble.until_serving(server)

        async def back() -> bool:
            try:
                states = await self.cluster.states()
            except LabError:
                return False
            return set(states.values()) <= {"ready", "cordoned"}

        await self.cluster.until("all nodes to be back", back)
        await self.cluster.until_converged()


class WithLeader(Gestalt):
    """All nodes have an instance; the one that is lost has the leader and the leader of ZooKeeper, too."""

    async def _settle(self) -> None:
        """Every node takes instances."""

    def front(self) -> Node:
        return self.lab.nodes[-1]

    async def until_whole(self) -> None:
        """Wait as ever, and have every node take its part again: a node that returns is given nothing by itself."""
        await super().until_whole()
        if len({item.node for item in await self.cluster.listed()}) < len(self.lab.nodes):
            await self.cluster.ctl("stop", self.path)
            await self.cluster.ctl("start", self.path)
            await self.cluster.until_converged()

    async def victim(self, homes: Sequence[str]) -> Node:
        """Have the lead move to where ZooKeeper's is, and return that node."""
        for _ in range(_MOVES):
            wanted, leader = await self.lab.ensemble.leader(), await self.cluster.leader()
            if wanted == leader:
                return wanted
            await self.cluster.ctl("cluster", "step-down", "--reason", "benchmark")
        raise LabError(f"the lead does not come to {wanted.name}, where ZooKeeper's is")


class Confirmed(Gestalt):
    """An operator says that the lost node is dead as soon as it counts as lost; from then on the time counts."""

    async def lost(self, victim: Node) -> float:
        async def is_lost() -> bool:
            return (await self.cluster.states())[victim.name] == "lost"

        await self.cluster.until(f"{victim.name} to be lost", is_lost)
        begun = monotonic()
        await self.cluster.ask(lambda api: api.nodes.ConfirmDead, api_pb2.NodeRequest(node=victim.name))
        return begun


async def cluster_of(lab: Lab, session: str = "") -> Cluster:
    """Install Gestalt on a lab."""
    begun = monotonic()
    cluster = await install(lab, init=("--session", session) if session else (), coordinators=MANAGERS)
    print(f"a cluster of {len(lab.nodes)} nodes after {monotonic() - begun:.0f} s", flush=True)
    return cluster
