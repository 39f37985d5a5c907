"""A cluster on this machine as far as joining needs it: real ZooKeeper, the real commands, a real leader in this process."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from gestalt.cluster.layout import ClusterLayout
from gestalt.config import CoordinatorSettings, TlsSettings
from gestalt.coordinator.leader import SERVICES, Leader, Seat
from gestalt.coordinator.office import Office
from gestalt.coordinator.reception import Reception
from gestalt.coordinator.store.zookeeper import ZookeeperStore
from gestalt.rpc_server import channel_credentials
from gestalt.settings_file import load_settings
from gestalt.zk.client import Zk
from gestalt.zk.paths import Paths
from tests.real.zookeeper_lab import Ensemble, free_ports, new_root

LIMIT = 30.0


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


async def command(name: str, *arguments: str, stdin: str = "", env: Mapping[str, str] | None = None) -> Ended:
    """Run one of our commands to its end."""
    program = str(Path(sys.executable).with_name(name))
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(env or {})},
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), LIMIT)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    return Ended(process.returncode or 0, out.decode(), err.decode())


@dataclass
class Cluster:
    """The first machine below `folder`/one."""

    folder: Path
    ensemble: Ensemble
    root: str = field(default_factory=new_root)
    leader: Leader | None = None
    reception: Reception | None = None
    zk: Zk | None = None
    failures: list[str] = field(default_factory=list)
    ports: list[int] = field(default_factory=lambda: free_ports(2))

    @property
    def layout(self) -> ClusterLayout:
        return ClusterLayout(self.folder / "one")

    @property
    def settings(self) -> CoordinatorSettings:
        return load_settings(self.layout.coordinator_settings, CoordinatorSettings)

    @property
    def config(self) -> dict[str, str]:
        return {"GESTALT_CONFIG": str(self.layout.client_settings)}

    async def init(self, *more: str, hosts: str = "", root: str = "") -> Ended:
        """`gestaltctl cluster init` on the first machine."""
        where = ("--zookeeper", hosts or ",".join(self.ensemble.hosts), "--zookeeper-root", root or self.root)
        ports = ("--api-port", str(self.ports[0]), "--join-port", str(self.ports[1]))
        who = ("--root", str(self.layout.root), "--address", "127.0.0.1", "--name", "one")
        return await command("gestaltctl", "cluster", "init", *where, *ports, *who, *more)

    async def up(self) -> None:
        """Have a leader at work."""
        settings = self.settings
        assert settings.zookeeper is not None
        self.zk = await Zk.connect(settings.zookeeper, session=4.0, name="leader")
        store = ZookeeperStore(self.zk, Paths(self.root), settings.cluster_id)
        self.leader = Leader(settings, Seat(store, Office.for_life(), "test", self.zk), self.failures.append)
        await self.leader.ledger.begin()
        await self.leader.prepare()
        self.reception = Reception(settings, SERVICES, self.leader.begin())
        await self.reception.open()

    async def down(self) -> None:
        if self.reception is not None:
            await self.reception.close()
        if self.leader is not None:
            await self.leader.stop()
        if self.zk is not None:
            await self.zk.close()
        self.leader, self.zk, self.reception = None, None, None
        assert not self.failures

    async def ctl(self, *arguments: str, stdin: str = "") -> Ended:
        """Run gestaltctl as the first machine's administrator."""
        return await command("gestaltctl", *arguments, stdin=stdin, env=self.config)

    async def token(self, *arguments: str) -> str:
        """Return a token of `gestaltctl node token`."""
        made = await self.ctl("node", "token", *arguments)
        assert made.code == 0, made.err
        return made.out

    async def join(self, token: str, machine: str, *more: str, program: str = "gestalt-agent") -> Ended:
        """Have a machine join, named after its folder."""
        name = () if "--name" in more else ("--name", machine)
        return await command(program, "join", "--token-file", "-", "--root", str(self.folder / machine), *name, *more, stdin=token)

    def channel(self, tls: TlsSettings) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(self.settings.listen, channel_credentials(tls))
