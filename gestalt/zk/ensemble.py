"""Which servers ZooKeeper itself says it has: its dynamic configuration, understood and checked. Pure.

Since version 3.5 the servers keep it in the znode `/zookeeper/config`, a line each:

    server.1=10.0.0.1:2888:3888:participant;0.0.0.0:2181
    version=100000000
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

CONFIG = "/zookeeper/config"

_LINE = re.compile(r"server\.(\d{1,3})=([^;|]+)(?:\|[^;]*)?(?:;(.+))?")
_PEER = re.compile(r"(\[[^\]]+\]|[^:\[\]]+):(\d{1,5}):(\d{1,5})(?::(participant|observer))?")
_ANYWHERE = ("", "0.0.0.0", "[::]", "::", "*")


@dataclass(frozen=True, slots=True)
class Server:
    """One server. `client`: where clients reach it, "address:port"; empty when it does not say. `votes`: it is no observer."""

    id: int
    host: str
    peer_port: int
    election_port: int
    client: str = ""
    votes: bool = True

    def line(self) -> str:
        """Return it as ZooKeeper writes it."""
        role = "participant" if self.votes else "observer"
        return f"server.{self.id}={self.host}:{self.peer_port}:{self.election_port}:{role}" + (f";{self.client}" if self.client else "")


@dataclass(frozen=True, slots=True)
class Ensemble:
    """All servers. `version`: 0 until they were reconfigured for the first time."""

    servers: tuple[Server, ...]
    version: int

    @property
    def voters(self) -> tuple[Server, ...]:
        return tuple(server for server in self.servers if server.votes)

    def find(self, number: int) -> Server | None:
        return next((server for server in self.servers if server.id == number), None)


def parse_ensemble(value: bytes) -> Ensemble:
    """Return what the servers say; what is not understood is left out."""
    servers: list[Server] = []
    version = 0
    for line in value.decode(errors="replace").splitlines():
        name, _, text = line.strip().partition("=")
        if name == "version":
            version = int(text, 16) if re.fullmatch(r"[0-9a-fA-F]{1,16}", text) else 0
        elif (found := _LINE.fullmatch(line.strip())) and (peer := _PEER.fullmatch(found[2])):
            client = _client(found[3] or "", peer[1])
            servers.append(Server(int(found[1]), peer[1], int(peer[2]), int(peer[3]), client, peer[4] != "observer"))
    return Ensemble(tuple(sorted(servers, key=lambda server: server.id)), version)


def _client(text: str, host: str) -> str:
    """Return where clients reach a server: one that listens on all its addresses is reached where its peers reach it."""
    address, _, port = text.strip().rpartition(":")
    if not port.isdigit():
        return ""
    return f"{host if address in _ANYWHERE else address}:{port}"


def hosts_of(ensemble: Ensemble, configured: Sequence[str]) -> tuple[str, ...]:
    """Return where to reach the servers now; nothing when what they say is not enough to know better than the settings.

    Servers that were never reconfigured are what the settings say. A server that does not tell its port (those that listen for TLS alone
    do not) has the one that all configured ones have.

    Args:
        ensemble: what the servers say.
        configured: "address:port" each, of the settings.
    """
    ports = {host.rpartition(":")[2] for host in configured}
    usual = ports.pop() if len(ports) == 1 else ""
    found = [server.client or (f"{server.host}:{usual}" if usual else "") for server in ensemble.servers]
    return tuple(dict.fromkeys(found)) if ensemble.version and found and all(found) else ()
