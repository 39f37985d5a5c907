"""An agent for tests of the coordinator: the real contract over a real stream, with instances that only exist in its memory."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

import grpc

from gestalt import __version__
from gestalt.config import TlsSettings
from gestalt.model import DesiredInstance, Health, NodeState, Observed, Phase, Route
from gestalt.proto.v1 import agent_pb2, agent_pb2_grpc, model_pb2
from gestalt.rpc_server import channel_credentials
from gestalt.wire import from_wire, to_wire


@dataclass
class SimulatedAgent:
    """Connects on `start`, does at once what it is told. Images in `broken` never become ready; `stuck` ones never stop.

    `refuses`: it tells that it refuses whom it is to refuse. `cores`, `requests`: what its instances use, and get through its load
    balancer, together; None = it measures nothing.
    """

    port: int
    tls: TlsSettings
    cluster_id: str
    node_id: str
    name: str = "node-1"
    broken: frozenset[str] = frozenset()
    stuck: bool = False
    highest_epoch: int = 0
    protocol: int = 1
    address: str = "127.0.0.1"
    incarnation: int = 0
    refuses: bool = True
    wants_peers: bool = True
    version: str = __version__
    cores: float | None = None
    requests: float | None = None
    state: NodeState = field(default_factory=lambda: NodeState(0, 0))
    running: dict[str, Observed] = field(default_factory=dict)
    received: list[str] = field(default_factory=list)
    welcome: agent_pb2.Welcome | None = None
    error: grpc.aio.AioRpcError | None = None

    async def start(self) -> None:
        self._channel = grpc.aio.secure_channel(f"127.0.0.1:{self.port}", channel_credentials(self.tls))
        self._stub = agent_pb2_grpc.AgentsStub(self._channel)
        self._outbox: asyncio.Queue[agent_pb2.AgentMessage] = asyncio.Queue()
        self._task = asyncio.create_task(self._session())

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._channel.close()

    async def ended(self) -> None:
        await asyncio.wait([self._task], timeout=10)

    async def _session(self) -> None:
        facts = model_pb2.Facts(hostname=self.name, cpu=64, memory=64 * 1024**3, port_first=3000, port_last=4000)
        facts.runtimes.extend(["docker", "process"])
        hello = agent_pb2.Hello(
            node_id=self.node_id,
            node_name=self.name,
            agent_version=self.version,
            protocol=self.protocol,
            highest_epoch=self.highest_epoch,
            address=self.address,
            facts=facts,
            cluster_id=self.cluster_id,
            incarnation=self.incarnation,
            wants_peers=self.wants_peers,
        )
        self._outbox.put_nowait(agent_pb2.AgentMessage(hello=hello))
        beat: asyncio.Task[None] | None = None
        try:
            async for message in self._stub.Session(self._messages()):
                self.received.append(message.WhichOneof("kind") or "")
                if message.HasField("welcome"):
                    inventory = agent_pb2.Inventory(instances=[to_wire(item, model_pb2.Observed) for item in self.running.values()])
                    self._outbox.put_nowait(agent_pb2.AgentMessage(inventory=inventory))
                    beat = asyncio.create_task(self._beat())
                self._take(message)
        except grpc.aio.AioRpcError as error:
            self.error = error
        finally:
            if beat is not None:
                beat.cancel()

    async def _messages(self):  # type: ignore[no-untyped-def]
        while True:
            yield await self._outbox.get()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(0.2)
            self._outbox.put_nowait(agent_pb2.AgentMessage(heartbeat=agent_pb2.Heartbeat()))
            self._measure()

    def _measure(self) -> None:
        """Tell of usage, shared evenly among the instances."""
        if self.cores is None and self.requests is None:
            return
        report = agent_pb2.UsageReport(interval=0.2, balanced=self.requests is not None)
        for identity in self.running if self.cores is not None else ():
            report.instances.add(instance=identity, cpu=(self.cores or 0.0) / len(self.running), memory=1024**2)
        routed = {server.instance for route in self.state.routes.values() for server in route.servers}
        for identity in sorted(routed) if self.requests else ():
            report.traffic.add(instance=identity, requests=(self.requests or 0.0) / len(routed))
        self._outbox.put_nowait(agent_pb2.AgentMessage(usage=report))

    def _take(self, message: agent_pb2.CoordinatorMessage) -> None:
        match message.WhichOneof("kind"):
            case "welcome":
                self.welcome = message.welcome
            case "full":
                self.state = from_wire(message.full, NodeState)
            case "delta":
                assert message.delta.base == self.state.revision, "the coordinator left a gap"
                self.state = _applied(self.state, message.delta)
            case "open":
                asyncio.get_running_loop().create_task(self._bulk(message.open))
                return
        self._obey()
        if self.refuses:
            self.refuse()

    def refuse(self) -> None:
        """Tell that everybody is refused who is to be."""
        nodes = {node: item.incarnation for node, item in self.state.refused.items()}
        self._outbox.put_nowait(agent_pb2.AgentMessage(refusing=agent_pb2.Refusing(nodes=nodes)))

    def _obey(self) -> None:
        change = agent_pb2.ObservedChange()
        for instance in self.state.instances.values():
            if instance.keep and instance.id in self.running and not self.stuck:
                self.running[instance.id] = replace(self.running[instance.id], phase=Phase.FAILED, ready=False, exit_code=143, ended=True)
                change.instances.append(to_wire(self.running[instance.id], model_pb2.Observed))
            elif instance.stop and not self.stuck:
                self.running.pop(instance.id, None)
                change.gone.append(instance.id)
            elif instance.id not in self.running:
                self.running[instance.id] = self._started(instance)
                change.instances.append(to_wire(self.running[instance.id], model_pb2.Observed))
        told = self.state.epoch > 0 and not self.state.recovering
        for identity in [identity for identity in self.running if told and identity not in self.state.instances]:
            del self.running[identity]
        if change.instances or change.gone:
            self._outbox.put_nowait(agent_pb2.AgentMessage(observed=change))

    def _started(self, instance: DesiredInstance) -> Observed:
        ready = self.state.templates[instance.template].image not in self.broken
        reason = "" if ready else "check http-1: connection refused"
        return Observed(instance.id, 1, Phase.RUNNING, Health.HEALTHY if ready else Health.UNHEALTHY, ready, reason)

    def report(self, observed: Observed) -> None:
        """Tell of an instance whatever the test wants."""
        self.running[observed.instance] = observed
        change = agent_pb2.ObservedChange(instances=[to_wire(observed, model_pb2.Observed)])
        self._outbox.put_nowait(agent_pb2.AgentMessage(observed=change))

    async def _bulk(self, wanted: agent_pb2.OpenBulk) -> None:
        """Answer logs with two lines, exec with an echo of its input and exit code 7."""
        up: asyncio.Queue[agent_pb2.BulkUp | None] = asyncio.Queue()
        up.put_nowait(agent_pb2.BulkUp(open=wanted.id))

        async def outgoing():  # type: ignore[no-untyped-def]
            while (item := await up.get()) is not None:
                yield item

        stream = self._stub.Bulk(outgoing())
        if wanted.HasField("logs"):
            for line in (b"one\n", b"two\n"):
                up.put_nowait(agent_pb2.BulkUp(log={"instance": wanted.logs.instance, "data": line}))  # type: ignore[arg-type]
            up.put_nowait(None)
        async for message in stream:
            if message.input.HasField("stdin"):
                up.put_nowait(agent_pb2.BulkUp(output={"stdout": message.input.stdin}))  # type: ignore[arg-type]
            if message.input.HasField("stdin_closed"):
                up.put_nowait(agent_pb2.BulkUp(output={"exit_code": 7}))  # type: ignore[arg-type]
                up.put_nowait(None)


def _applied(base: NodeState, delta: agent_pb2.NodeDelta) -> NodeState:
    put = from_wire(delta.put, NodeState)
    routes: dict[str, Route] = base.routes | put.routes
    return NodeState(
        delta.epoch,
        delta.revision,
        {key: item for key, item in (base.templates | put.templates).items() if key not in delta.drop_templates},
        {key: item for key, item in (base.instances | put.instances).items() if key not in delta.drop_instances},
        {key: item for key, item in routes.items() if key not in delta.drop_routes},
        {key: item for key, item in (base.refused | put.refused).items() if key not in delta.drop_refused},
        {key: item for key, item in (base.peers | put.peers).items() if key not in delta.drop_peers},
        put.recovering,
        put.prepare,
    )
