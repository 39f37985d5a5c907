"""Where the files of a member of a cluster are, below its root: those of an appliance, and what only clusters have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gestalt.appliance.layout import Layout


@dataclass(frozen=True, slots=True)
class ClusterLayout(Layout):
    """The paths of one member. `root` is absolute; `/` for the machine itself."""

    @property
    def fence_settings(self) -> Path:
        return self.settings / "fence.yaml"

    @property
    def node_secret(self) -> Path:
        """What this node's fence proves itself to ZooKeeper with."""
        return self.settings / "zookeeper-node.secret"

    @property
    def coordinator_secret(self) -> Path:
        """What coordinators prove themselves to ZooKeeper with; the same on all of them."""
        return self.settings / "zookeeper-coordinator.secret"

    @property
    def passphrase(self) -> Path:
        """What the key of the authority is encrypted with."""
        return self.settings / "authority.passphrase"

    @property
    def zookeeper_ca(self) -> Path:
        """By which ZooKeeper's servers are known, where they are spoken to by TLS."""
        return self.pki / "zookeeper-ca.crt"

    @property
    def founder(self) -> Path:
        """The first node, for the first leader to note."""
        return self.pki / "founder.json"

    @property
    def fence_socket(self) -> Path:
        return self.run / "fence/fence.sock"
