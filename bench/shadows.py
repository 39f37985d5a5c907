"""A process of nodes that only listen, for `bench.c1m`: thousands of streams with the leader, and one session with ZooKeeper for all.

    python -m bench.shadows SETTINGS.json

A node says hello with its facts, sends heartbeats, takes in what it is to run, and runs nothing. A line of JSON on stdout says every
quarter of a second how many are connected and of how many instances they were told. A line on stdin, {"vanish": [numbers]}, ends those
nodes: their memberships and streams; {"report": true} has all nodes report, from then on, that what they are told of is ready at once.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from gestalt import __version__
from gestalt.clock import monotonic
from gestalt.config import TlsSettings, ZooKeeperSettings
from gestalt.event_loop import Loop
from gestalt.proto.v1 import agent_pb2, agent_pb2_grpc, model_pb2
from gestalt.rpc_server import channel_credentials
from gestalt.zk.client import Zk
from gestalt.zk.paths import Paths

CPU = 64
MEMORY = 512 * 1024**3
TELL_EVERY = 0.25
_AT_ONCE = 32


@dataclass
class Shadow:
    """One node. `told`: instances that it was told to run, and not to stop. `silent`: it reports nothing of them yet."""

    settings: dict[str, Any]
    common: dict[str, Any]
    connected: bool = False
    told: set[str] = field(default_factory=set)
    silent: bool = True
    task: asyncio.Task[None] | None = None
    outbox: asyncio.Queue[agent_pb2.AgentMessage] = field(default_factory=asyncio.Queue)

    async def join(self, zk: Zk) -> None:
        """Begin its membership."""
        member = {"incarnation": 1, "boot": "shadow", "agent": "running", "since": time.time()}
        path = Paths(self.common["root"]).member(self.settings["node_id"])
        await zk.create(path, json.dumps(member).encode(), ephemeral=True)

    async def end(self, zk: Zk) -> None:
        """Vanish, as a machine does whose power goes."""
        await zk.delete(Paths(self.common["root"]).member(self.settings["node_id"]))
        if self.task is not None:
            self.task.cancel()

    async def live(self, slots: asyncio.Semaphore) -> None:
        """Be in session with the leader until it ends."""
        tls = TlsSettings.model_validate(self.settings["tls"])
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
        self.outbox.put_nowait(agent_pb2.AgentMessage(hello=self._hello()))
        async with grpc.aio.secure_channel(self.common["leader"], channel_credentials(tls), options) as channel:
            await slots.acquire()
            session = agent_pb2_grpc.AgentsStub(channel).Session(self._messages())
            try:
                async for message in session:
                    self._take(message)
                    if not self.connected and message.HasField("full"):
                        self.connected = True
                        slots.release()
            finally:
                if not self.connected:
                    slots.release()
                self.connected = False

    def _hello(self) -> agent_pb2.Hello:
        name = self.settings["node_name"]
        facts = model_pb2.Facts(hostname=name, cpu=CPU, memory=MEMORY, port_first=3000, port_last=4000, runtimes=("docker",))
        return agent_pb2.Hello(
            node_id=self.settings["node_id"],
            node_name=name,
            agent_version=__version__,
            protocol=1,
            address="127.0.0.1",
            facts=facts,
            cluster_id=self.common["cluster_id"],
            incarnation=1,
        )

    async def _messages(self) -> AsyncIterator[agent_pb2.AgentMessage]:
        while True:
            try:
                async with asyncio.timeout(self.common["heartbeat"]):
                    message = await self.outbox.get()
            except TimeoutError:
                message = agent_pb2.AgentMessage(heartbeat=agent_pb2.Heartbeat())
            yield message

    def _take(self, message: agent_pb2.CoordinatorMessage) -> None:
        match message.WhichOneof("kind"):
            case "welcome":
                self.outbox.put_nowait(agent_pb2.AgentMessage(inventory=agent_pb2.Inventory()))
            case "full":
                self.told = set(message.full.instances)
            case "delta":
                come = {instance for instance, item in message.delta.put.instances.items() if not item.stop}
                gone = {instance for instance, item in message.delta.put.instances.items() if item.stop}
                self.told = (self.told | come) - gone - set(message.delta.drop_instances)
                if not self.silent:
                    self._report(come, gone)

    def speak(self) -> None:
        """Report everything, and whatever comes and goes from now on."""
        self.silent = False
        self._report(self.told, ())

    def _report(self, come: Iterable[str], gone: Iterable[str]) -> None:
        seen = [model_pb2.Observed(instance=item, attempt=1, phase=model_pb2.PHASE_RUNNING, ready=True) for item in come]
        self.outbox.put_nowait(agent_pb2.AgentMessage(observed=agent_pb2.ObservedChange(instances=seen, gone=gone)))


class Shadows:
    """All nodes of this process."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._nodes = {one["number"]: Shadow(one, settings["common"]) for one in settings["nodes"]}
        self._ended: set[int] = set()

    async def live(self) -> None:
        """Be there until the input ends."""
        zookeeper = ZooKeeperSettings.model_validate(self._settings["zookeeper"])
        zk = await Zk.connect(zookeeper, session=40.0, name="shadows", limit=60.0)
        for node in self._nodes.values():
            await node.join(zk)
        slots = asyncio.Semaphore(_AT_ONCE)
        for node in self._nodes.values():
            node.task = asyncio.create_task(node.live(slots))
        telling = asyncio.create_task(self._tell())
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            asked = json.loads(line)
            mine = [number for number in asked.get("vanish", ()) if number in self._nodes]
            await asyncio.gather(*(self._nodes[number].end(zk) for number in mine))
            self._ended.update(mine)
            for node in self._nodes.values() if asked.get("report") else ():
                node.speak()
        telling.cancel()

    async def _tell(self) -> None:
        while True:
            there = [node for number, node in self._nodes.items() if number not in self._ended]
            told = sum(len(node.told) for node in there)
            print(json.dumps({"at": monotonic(), "connected": sum(node.connected for node in there), "told": told}), flush=True)
            await asyncio.sleep(TELL_EVERY)


def main() -> None:
    """Live until the input ends."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(Shadows(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))).live())


if __name__ == "__main__":
    main()
