"""Gestalt on the nodes of a lab: coordinators and ZooKeeper on the first three, instances on the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gestalt.clock import monotonic
from tests.cluster.lab.cluster import Cluster, web
from tests.cluster.lab.install import install
from tests.cluster.lab.lab import Lab
from tests.cluster.lab.nodes import Node

MANAGERS = 3
"""How many nodes decide and run nothing, here and in what is compared."""


@dataclass
class Gestalt:
    """One cluster. `session`: the length of ZooKeeper's sessions; "" = the default of 2 s."""

    lab: Lab
    session: str = ""

    @property
    def name(self) -> str:
        return f"Gestalt, session {self.session}" if self.session else "Gestalt, default"

    @property
    def front(self) -> Node:
        return self.lab.nodes[0]

    @property
    def workers(self) -> Sequence[Node]:
        return self.lab.nodes[MANAGERS:]

    async def start(self) -> None:
        """Make a cluster of all nodes; the first three take no instances."""
        self._cluster = await cluster_of(self.lab, self.session)
        for node in self.lab.nodes[:MANAGERS]:
            await self._cluster.ctl("node", "cordon", node.name)

    async def deploy(self, host: str, instances: int) -> None:
        """Run so many instances behind a host name."""
        await self._cluster.launch(web(f"/bench/lab/test/{host}", instances=instances))

    async def until_whole(self) -> None:
        """Wait until all nodes are back and everything is as wanted, listed and real alike."""
        names = [node.name for node in self.workers]

        async def back() -> bool:
            states = await self._cluster.states()
            return all(states[name] == "ready" for name in names)

        await self._cluster.until("all nodes to be back", back)
        await self._cluster.until_converged()


async def cluster_of(lab: Lab, session: str = "") -> Cluster:
    """Install Gestalt on a lab."""
    begun = monotonic()
    cluster = await install(lab, init=("--session", session) if session else (), coordinators=MANAGERS)
    print(f"a cluster of {len(lab.nodes)} nodes after {monotonic() - begun:.0f} s", flush=True)
    return cluster
