"""Docker Swarm on the nodes of a lab, behind the HAProxy configuration that Gestalt writes.

Swarm tells no HAProxy where its tasks are: the service has one host port, every node is a server, and HAProxy looks every 200 ms which of
them answer. The first three nodes manage, the first has the proxy; tasks run on the others.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cluster import MANAGERS
from gestalt.clock import monotonic
from gestalt.model import HttpService, Route, Server
from gestalt.plugins.loadbalancer.haproxy_config import Options, render
from tests.cluster.lab.engine import WEB_IMAGE
from tests.cluster.lab.lab import Lab
from tests.cluster.lab.nodes import File, LabError, Node

HTTP_PORT = 80
_ENGINE = {"storage-driver": "overlay2", "log-driver": "json-file"}  # without live-restore, which Swarm refuses
_CHECK = " check inter 200ms fall 3 rise 1"
_PORT = 8001
_CONFIGURATION = "/etc/gestalt-lab/haproxy.cfg"


@dataclass
class Swarm:
    """One Swarm. `heartbeat`: how often nodes say that they live; "" = Docker's default of 5 s."""

    lab: Lab
    heartbeat: str = ""

    @property
    def name(self) -> str:
        return f"Docker Swarm, {f'heartbeat {self.heartbeat}' if self.heartbeat else 'default'}, node lost"

    @property
    def _first(self) -> Node:
        return self.lab.nodes[0]

    def front(self) -> Node:
        """Return the node with the proxy."""
        return self._first

    async def victim(self, homes: Sequence[str]) -> Node:
        """Return the node to be lost: one of those that run tasks."""
        return random.choice([node for node in self.lab.nodes if node.name in homes])

    async def lost(self, victim: Node) -> float:
        """Swarm needs nobody to tell it."""
        return 0.0

    @property
    def workers(self) -> Sequence[Node]:
        return self.lab.nodes[MANAGERS:]

    async def start(self) -> None:
        """Make a Swarm of all nodes, with HAProxy on the first."""
        daemon = {"/etc/docker/daemon.json": File(json.dumps(_ENGINE).encode())}
        for node in self.lab.nodes:
            await node.put(daemon)
        for node in self.lab.ensemble.servers:
            await node.do("systemctl", "--quiet", "disable", "--now", "zookeeper")
        await asyncio.gather(*(node.do("systemctl", "restart", "docker") for node in self.lab.nodes))
        pace = ("--dispatcher-heartbeat", self.heartbeat) if self.heartbeat else ()
        await self._first.do("docker", "swarm", "init", "--advertise-addr", self._first.address, *pace)
        await self._join("manager", self.lab.nodes[1:MANAGERS])
        await self._join("worker", self.workers)

    async def _join(self, role: str, nodes: Sequence[Node]) -> None:
        token = await self._first.do("docker", "swarm", "join-token", "--quiet", role)
        for node in nodes:
            await node.do("docker", "swarm", "join", "--token", token, f"{self._first.address}:2377")

    async def deploy(self, host: str, instances: int) -> None:
        """Run so many tasks behind a host name."""
        await self._first.do(
            "docker", "service", "create", "--detach", "--quiet", "--no-resolve-image", "--name", host.partition(".")[0],
            "--replicas", str(instances), "--constraint", "node.role==worker",
            "--env", "GESTALT_NODE={{.Node.Hostname}}", "--env", "GESTALT_INSTANCE={{.Task.ID}}",
            "--publish", f"mode=host,target=80,published={_PORT}", WEB_IMAGE,
        )  # fmt: skip
        await self._first.put({_CONFIGURATION: File(self._configuration(host).encode())})
        await self._first.do("sh", "-c", f"mkdir -p /run/lab && exec haproxy -W -D -p /run/lab/haproxy.pid -f {_CONFIGURATION}")

    async def until_whole(self, limit: float = 60.0) -> None:
        """Wait until all nodes are back and every service has all its tasks.

        Raises:
            LabError: they have not within `limit` seconds.
        """
        deadline = monotonic() + limit
        while not await self._is_whole():
            if monotonic() > deadline:
                raise LabError(await self._first.do("docker", "node", "ls"))
            await asyncio.sleep(0.2)

    async def _is_whole(self) -> bool:
        nodes = await self._first.do("docker", "node", "ls", "--format", "{{.Status}}")
        there, wanted = (await self._first.do("docker", "service", "ls", "--format", "{{.Replicas}}")).split()[0].split("/")
        return nodes.split() == ["Ready"] * len(self.lab.nodes) and there == wanted

    def _configuration(self, host: str) -> str:
        servers = tuple(Server(f"task-{number}", node.address, _PORT, ready=True) for number, node in enumerate(self.workers))
        route = Route("/bench/web:http", "/bench/web", "http", HttpService((host,), "/"), None, servers)
        lines = render([route], Options("*", HTTP_PORT, 0, 2000, 60.0, Path("/run/lab/haproxy.sock"))).text.splitlines()
        return "\n".join(line + _CHECK if line.startswith("    server ") else line for line in lines) + "\n"
