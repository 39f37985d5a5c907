"""Several real coordinators, each a process of its own, with a real ZooKeeper and real certificates."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import yaml

from gestalt.client import Client, Target
from gestalt.config import TlsSettings
from gestalt.coordinator.records import Node
from gestalt.coordinator.state import Record, encode
from gestalt.coordinator.store.base import Put
from gestalt.coordinator.store.zookeeper import ZookeeperStore
from gestalt.errors import GestaltError, Kind
from gestalt.pki import NODE_HOST, Authority, Identity, Role
from gestalt.proto.v1 import api_pb2, api_pb2_grpc
from gestalt.rpc import AGE_METADATA, decode_error
from gestalt.rpc_server import channel_credentials
from gestalt.zk.client import Zk
from gestalt.zk.paths import Paths
from tests.real.agent_rig import until
from tests.real.zookeeper_lab import Ensemble, free_ports, new_root

PROGRAM = (sys.executable, "-c", "from gestalt.coordinator.main import main; raise SystemExit(main())")


@dataclass
class Coordinators:
    """Coordinators numbered from 0, on loopback. Each keeps its port over a kill. `ways`: to ZooKeeper, other than the direct one.

    `program`: what is started, with `--config`.
    """

    folder: Path
    ensemble: Ensemble
    count: int = 3
    session: float = 2.0
    settings: dict[str, Any] = field(default_factory=dict)
    ways: dict[int, str] = field(default_factory=dict)
    program: tuple[str, ...] = PROGRAM
    root: str = field(default_factory=new_root)
    cluster_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    ports: list[int] = field(default_factory=list)
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    channels: list[grpc.aio.Channel] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ports = free_ports(self.count)

    def address(self, index: int) -> str:
        return f"127.0.0.1:{self.ports[index]}"

    @property
    def addresses(self) -> list[str]:
        return [self.address(index) for index in range(self.count)]

    def tls(self, role: Role, name: str) -> TlsSettings:
        authority = Authority.ensure(self.folder / "pki", self.cluster_id)
        host = NODE_HOST if role is Role.NODE else "localhost"
        pair = authority.issue(Identity(self.cluster_id, role, name), f"{role}-{name}", dns=[host], addresses=["127.0.0.1"])
        return TlsSettings(ca=authority.certificate, certificate=pair.certificate, key=pair.key)

    def settings_file(self, index: int) -> Path:
        return self.folder / f"coordinator-{index}.yaml"

    def configure(self, index: int) -> Path:
        """Write the settings of a coordinator, and return where they are."""
        name = f"coordinator-{index}"
        tls = self.tls(Role.COORDINATOR, name)
        settings = {
            "cluster_id": self.cluster_id,
            "mode": "cluster",
            "name": name,
            "listen": self.address(index),
            "tls": {field: str(getattr(tls, field)) for field in ("ca", "certificate", "key")},
            "store": {"kind": "zookeeper"},
            "zookeeper": {"hosts": [self.ways[index]] if index in self.ways else list(self.ensemble.hosts), "root": self.root},
            "data_dir": str(self.folder / f"seen-{index}"),
            "timing": {"session": self.session, "lease": max(8.0, self.session)},
            **self.settings,
        }
        self.settings_file(index).write_text(yaml.safe_dump(settings))
        return self.settings_file(index)

    def start(self, index: int) -> None:
        """Start a coordinator; it need not be ready when this returns."""
        file = self.configure(index)
        with file.with_suffix(".log").open("ab") as log:
            self.processes[index] = subprocess.Popen([*self.program, "--config", str(file)], stdout=log, stderr=log)

    def log(self, index: int) -> str:
        return (self.folder / f"coordinator-{index}.log").read_text(errors="replace")

    def signal(self, index: int, number: signal.Signals) -> None:
        self.processes[index].send_signal(number)

    def kill(self, index: int) -> None:
        """Kill -9."""
        process = self.processes.pop(index)
        process.kill()
        process.wait()

    async def stop(self, index: int) -> int:
        """Stop in order, and return the exit code."""
        process = self.processes.pop(index)
        process.terminate()
        return await asyncio.to_thread(process.wait, 30)

    async def know_node(self, *nodes: str) -> None:
        """Make nodes members, before anybody leads."""
        await self.know({("node", node): Node(node, "lab") for node in nodes})

    async def know(self, records: Mapping[tuple[str, str], Record]) -> None:
        """Have records, by kind and key, in the store before anybody leads."""
        zk = await Zk.connect(self.ensemble.settings(self.root), session=5.0, name="rig")
        store = ZookeeperStore(zk, Paths(self.root), self.cluster_id)
        try:
            await store.open()
            changes = [Put(kind, key, encode(record)) for (kind, key), record in records.items()]
            await store.commit(changes, await store.take_office())
        finally:
            await store.close()
            await zk.close()

    async def up(self) -> int:
        """Start all, and return which one leads once the others know it and stand by."""
        for index in range(self.count):
            self.start(index)
        leader = await self.settled()
        await self.lined_up(leader)
        return leader

    async def lined_up(self, leader: int) -> None:
        """Wait until all that run stand for leadership, as the leader sees it."""

        async def listed() -> bool:
            status = await self.ask(leader)
            return isinstance(status, api_pb2.StatusReply) and len(status.coordinators) == len(self.processes)

        await until("all coordinators in line", listed, 30)

    async def down(self) -> None:
        for channel in self.channels:
            await channel.close()
        for index in list(self.processes):
            self.kill(index)

    def channel(self, index: int, role: Role = Role.USER, name: str = "alice") -> grpc.aio.Channel:
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 200))
        channel = grpc.aio.secure_channel(self.address(index), channel_credentials(self.tls(role, name)), options)
        self.channels.append(channel)
        return channel

    async def ask(self, index: int) -> api_pb2.StatusReply | GestaltError:
        """Return what one coordinator says of the cluster, or how it refuses; nothing is followed, and what is remembered is no answer."""
        channel = self.channel(index)
        answering = api_pb2_grpc.ClusterStub(channel).Status(api_pb2.StatusRequest(), timeout=5)
        try:
            reply: api_pb2.StatusReply = await answering
            remembers = AGE_METADATA in dict(await answering.trailing_metadata())
        except grpc.aio.AioRpcError as error:
            return decode_error(error)
        else:
            return GestaltError(Kind.NOT_LEADER, "it remembers") if remembers else reply
        finally:
            self.channels.remove(channel)
            await channel.close()

    async def settled(self, *, among: tuple[int, ...] = ()) -> int:
        """Return which coordinator leads, once all of those that run, or these, agree on it."""

        async def agreed() -> list[int]:
            asked = among or tuple(self.processes)
            answers = dict(zip(asked, await asyncio.gather(*map(self.ask, asked)), strict=True))
            leaders = [index for index, answer in answers.items() if isinstance(answer, api_pb2.StatusReply)]
            referred = [answer.leader for answer in answers.values() if isinstance(answer, GestaltError)]
            return leaders if len(leaders) == 1 and referred == [self.address(leaders[0])] * (len(asked) - 1) else []

        try:
            return (await until("one leader that all know", agreed, 30))[0]
        except BaseException:
            for index in range(self.count):
                with contextlib.suppress(OSError):
                    print(f"--- coordinator {index}\n{self.log(index)[-3000:]}")
            raise

    def target(self, *indices: int) -> Target:
        tls = self.tls(Role.USER, "alice")
        return Target([self.address(index) for index in indices or range(self.count)], tls.ca, tls.certificate, tls.key)

    @asynccontextmanager
    async def client(self, *indices: int, **how: Any) -> AsyncIterator[Client]:
        """Hand out a client that knows these coordinators, or all."""
        async with Client(self.target(*indices), **({"patience": 30.0} | how)) as client:
            yield client

    def context_file(self, *indices: int) -> Path:
        """Return a file of contexts for gestaltctl that knows these coordinators, or all."""
        target = self.target(*indices)
        files = {"ca": str(target.ca), "certificate": str(target.certificate), "key": str(target.key)}
        path = self.folder / "contexts.yaml"
        path.write_text(yaml.safe_dump({"current": "lab", "contexts": {"lab": {"coordinators": list(target.coordinators), **files}}}))
        return path
