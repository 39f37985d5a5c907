"""ZooKeeper on the nodes: an ensemble of three, or a single server where there are fewer nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from gestalt.clock import monotonic
from gestalt.zk.acl import digest_id

from .nodes import File, LabError, Node

UNIT = "zookeeper"
PORT = 2181
TICK = 500
"""Milliseconds. Sessions have 2 to 20 ticks, a follower that is `_SYNC_LIMIT` ticks behind is dropped."""

_SYNC_LIMIT = 4
_DATA = "/var/lib/zookeeper"
_CONFIG = f"{_DATA}/zoo.cfg"
"""In a folder that the server may write: once its servers are reconfigured, it keeps there which ones there are."""
SUPER_SECRET = "lab"
"""Of ZooKeeper's administrator, who may change which servers there are: `gestaltctl cluster zookeeper … --super-secret-file`."""

_UNIT_FILE = f"""[Unit]
Description=ZooKeeper
After=network.target
StartLimitIntervalSec=0

[Service]
User=zookeeper
ExecStart=/usr/bin/java -Xms32m -Xmx96m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto -XX:ReservedCodeCacheSize=32m \\
  -Dzookeeper.root.logger=WARN,CONSOLE -Djava.net.preferIPv4Stack=true \\
  -Dzookeeper.DigestAuthenticationProvider.superDigest={digest_id("super", SUPER_SECRET).removeprefix("digest:")} \\
  -cp /etc/zookeeper/conf:/usr/share/java/zookeeper.jar \\
  org.apache.zookeeper.server.quorum.QuorumPeerMain {_CONFIG}
SuccessExitStatus=143
Restart=always
RestartSec=500ms

[Install]
WantedBy=multi-user.target
"""
_SETTINGS = f"""tickTime={TICK}
initLimit=20
syncLimit={_SYNC_LIMIT}
dataDir={_DATA}
maxClientCnxns=0
minSessionTimeout=1000
maxSessionTimeout=60000
4lw.commands.whitelist=*
admin.enableServer=false
autopurge.purgeInterval=1
"""


@dataclass(frozen=True, slots=True)
class Ensemble:
    """ZooKeeper on `servers`. Their processes are the unit `zookeeper` of each node: the faults of any process fit."""

    servers: tuple[Node, ...]

    @property
    def hosts(self) -> tuple[str, ...]:
        """Return "address:port" of each server."""
        return tuple(f"{node.address}:{PORT}" for node in self.servers)

    async def start(self, limit: float = 30.0) -> None:
        """Start all servers, empty, and wait until each serves.

        Raises:
            LabError: one does not within `limit` seconds.
        """
        await asyncio.gather(*(self._install(number, node) for number, node in enumerate(self.servers, 1)))
        await asyncio.gather(*(self.until_serving(node, limit) for node in self.servers))

    async def role(self, node: Node) -> str:
        """Return "leader", "follower" or "standalone"; empty when the server does not serve or cannot be reached from here."""
        answer = await ask(node.address, "srvr")
        return next((line.split()[1] for line in answer.splitlines() if line.startswith("Mode: ")), "")

    async def leader(self, limit: float = 20.0) -> Node:
        """Return the node whose server leads, waiting for an election to end.

        Raises:
            LabError: there was none within `limit` seconds.
        """
        deadline = monotonic() + limit
        while True:
            roles = await asyncio.gather(*map(self.role, self.servers))
            leading = [node for node, role in zip(self.servers, roles, strict=True) if role in ("leader", "standalone")]
            if leading:
                return leading[0]
            if monotonic() > deadline:
                raise LabError(f"no ZooKeeper server leads within {limit:g} s; the servers are {roles}")
            await asyncio.sleep(0.1)

    async def until_serving(self, node: Node, limit: float = 30.0) -> None:
        """Wait until a server serves.

        Raises:
            LabError: it does not within `limit` seconds.
        """
        deadline = monotonic() + limit
        while not await self.role(node):
            if monotonic() > deadline:
                log = await node.run("journalctl", "--unit", UNIT, "--no-pager", "--lines", "20", "--output", "cat")
                raise LabError(f"ZooKeeper on {node.name} does not serve within {limit:g} s: {log.stdout.decode()}")
            await asyncio.sleep(0.1)

    async def _install(self, number: int, node: Node) -> None:
        peers = [f"server.{other}={peer.address}:2888:3888;{PORT}" for other, peer in enumerate(self.servers, 1)]
        lines = [_SETTINGS, *(["reconfigEnabled=true", *peers] if len(peers) > 1 else [f"clientPort={PORT}"])]
        files = {
            f"/etc/systemd/system/{UNIT}.service": _UNIT_FILE,
            _CONFIG: "\n".join(lines) + "\n",
            f"{_DATA}/myid": f"{number}\n",
        }
        await node.put({path: File(text.encode()) for path, text in files.items()})
        script = f"chown -R zookeeper: /var/lib/zookeeper && systemctl daemon-reload && systemctl --quiet enable --now {UNIT}"
        await node.do("sh", "-c", script)


async def ask(address: str, word: str, limit: float = 1.0) -> str:
    """Return a server's answer to a four-letter word; empty when there is none within `limit` seconds."""
    try:
        async with asyncio.timeout(limit):
            reader, writer = await asyncio.open_connection(address, PORT)
            try:
                writer.write(word.encode())
                return (await reader.read()).decode(errors="replace")
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return ""


def ensemble_of(nodes: Sequence[Node]) -> Ensemble:
    """Return the ensemble that a lab of these nodes has."""
    return Ensemble(tuple(nodes[:3] if len(nodes) >= 3 else nodes[:1]))
