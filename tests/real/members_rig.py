"""A leader of a cluster in this process with a real ZooKeeper, and nodes: a real membership each, and an agent that is simulated."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gestalt.config import CoordinatorSettings, StoreSettings
from gestalt.coordinator.leader import SERVICES, Leader, Seat
from gestalt.coordinator.office import Office
from gestalt.coordinator.reception import Reception
from gestalt.coordinator.records import Node
from gestalt.coordinator.store.zookeeper import ZookeeperStore
from gestalt.model import Server
from gestalt.pki import Role
from gestalt.proto.v1 import api_pb2, api_pb2_grpc
from gestalt.zk.client import Zk
from gestalt.zk.paths import Paths
from tests.real.coordinator_rig import Rig, eventually
from tests.real.simulated_agent import SimulatedAgent
from tests.real.zookeeper_lab import Ensemble, new_root


@dataclass
class Members(Rig):
    """Nodes by name. Their memberships are ours to make and delete, as a fence would, or the end of its session."""

    ensemble: Ensemble | None = None
    root: str = field(default_factory=new_root)
    ids: dict[str, str] = field(default_factory=dict)
    incarnations: dict[str, int] = field(default_factory=dict)
    boots: dict[str, str] = field(default_factory=dict)
    by_name: dict[str, SimulatedAgent] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    leader: Leader | None = None
    reception: Reception | None = None
    office: Office = field(default_factory=Office.for_life)

    def coordinator_settings(self) -> CoordinatorSettings:
        assert self.ensemble is not None
        return CoordinatorSettings(
            cluster_id=self.cluster_id,
            mode="cluster",
            tls=self.tls(Role.COORDINATOR, "one"),
            listen=f"127.0.0.1:{self.port}",
            store=StoreSettings(kind="zookeeper"),
            zookeeper=self.ensemble.settings(self.root),
            **({"heartbeat": 0.5, "unreachable_after": 1.0} | self.settings),
        )

    async def up(self) -> None:
        assert self.ensemble is not None
        self.fences = await Zk.connect(self.ensemble.settings(self.root), session=20.0, name="fences")
        await self.take_office()

    async def take_office(self) -> None:
        """Have a leader at work; memberships and agents are as they are."""
        settings = self.coordinator_settings()
        assert settings.zookeeper is not None
        self.zk = await Zk.connect(settings.zookeeper, session=20.0, name="leader")
        self.paths = Paths(self.root)
        await self.zk.ensure(self.paths.nodes)
        self.office = Office.for_life()
        store = ZookeeperStore(self.zk, self.paths, self.cluster_id)
        self.leader = Leader(settings, Seat(store, self.office, "test", self.zk), self.failures.append)
        await self.leader.ledger.begin()
        await self.leader.prepare()
        self.reception = Reception(settings, SERVICES, self.leader.begin())
        self.port = await self.reception.open()

    async def leave_office(self) -> None:
        """End the leader; memberships live on in a session of their own."""
        assert self.leader is not None
        assert self.reception is not None
        await self.reception.close()
        await self.leader.stop()
        await self.zk.close()

    async def down(self) -> None:
        await super().down()
        await self.leave_office()
        await self.fences.close()
        assert not self.failures

    async def node(self, name: str, **fields: Any) -> SimulatedAgent:
        """A new node: admitted, with a membership, its agent connected."""
        identity = await self.admit(name)
        await self.fences.ensure(self.paths.node(identity))
        await self.join(name)
        await self.connect(name, **fields)
        await self.until_state(name, "ready")
        return self.by_name[name]

    async def admit(self, name: str) -> str:
        """Have the leader know a new node; returns its id."""
        assert self.leader is not None
        identity = self.ids[name] = str(uuid.uuid4())
        async with self.leader.ledger.draft("test", "join") as draft:
            draft.put_node(Node(identity, name, address="127.0.0.1"))
        return identity

    async def join(self, name: str, boot: str = "b") -> None:
        """Begin a new membership. `boot`: the boot id of the machine."""
        self.incarnations[name] = self.incarnations.get(name, 0) + 1
        self.boots[name] = boot
        await self.fences.create(self.paths.member(self.ids[name]), self._value(name), ephemeral=True)

    def _value(self, name: str, agent: str = "running") -> bytes:
        return json.dumps({"incarnation": self.incarnations[name], "boot": self.boots[name], "agent": agent, "since": time.time()}).encode()

    async def say(self, name: str, agent: str) -> None:
        """Have the fence say whether the agent runs."""
        await self.fences.set(self.paths.member(self.ids[name]), self._value(name, agent))

    async def end(self, name: str) -> None:
        """End the membership."""
        await self.fences.delete(self.paths.member(self.ids[name]))

    async def connect(self, name: str, **fields: Any) -> None:
        self.by_name[name] = await self.agent(node_id=self.ids[name], name=name, **fields)

    async def disconnect(self, name: str) -> dict[str, Any]:
        """End the agent; returns what it ran."""
        agent = self.by_name.pop(name)
        self.agents.remove(agent)
        await agent.stop()
        return dict(agent.running)

    def cluster(self) -> api_pb2_grpc.ClusterStub:
        return api_pb2_grpc.ClusterStub(self.channel())

    async def status(self) -> api_pb2.StatusReply:
        reply: api_pb2.StatusReply = await self.cluster().Status(api_pb2.StatusRequest(), timeout=10)
        return reply

    async def until_state(self, name: str, state: str) -> None:
        await eventually(lambda: self.state(name) == state, f"{name} is {state}")

    def state(self, name: str) -> str:
        assert self.leader is not None
        return str(self.leader.tracker.standing(self.ids[name]).life)

    def record(self, name: str) -> Node:
        assert self.leader is not None
        return self.leader.ledger.state.nodes[self.ids[name]]

    def events(self, kind: str) -> list[str]:
        """Return what was told of one kind, oldest first, by all leaders."""
        assert self.leader is not None
        audits = self.leader.ledger.state.audits.values()
        return [event.message for audit in audits for event in audit.events if event.kind == kind]

    def servers(self, name: str) -> tuple[Server, ...]:
        """Return the servers of the only route, as a node was told of them."""
        (route,) = self.by_name[name].state.routes.values()
        return route.servers

    def runs(self, *names: str) -> int:
        return sum(len(self.by_name[name].running) for name in names)

    async def until(self, condition: Callable[[], object], what: str) -> None:
        await eventually(condition, what, 20.0)
