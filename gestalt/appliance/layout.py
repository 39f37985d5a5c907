"""Where the files of an appliance are, below its root."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from gestalt.files import WRITER, Owner
from gestalt.owner import owner_of_unit

_SOCKET_PATH_MAX = 107
_DEEPEST_SOCKET = len("/agent/") + 40


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one appliance. `root` is absolute; `/` for the appliance of the machine."""

    root: Path

    @property
    def settings(self) -> Path:
        return self.root / "etc/gestalt"

    @property
    def pki(self) -> Path:
        return self.settings / "pki"

    @property
    def coordinator_settings(self) -> Path:
        return self.settings / "coordinator.yaml"

    @property
    def agent_settings(self) -> Path:
        return self.settings / "agent.yaml"

    @property
    def client_settings(self) -> Path:
        return self.settings / "client.yaml"

    @property
    def data(self) -> Path:
        return self.root / "var/lib/gestalt"

    @property
    def logs(self) -> Path:
        return self.root / "var/log/gestalt"

    @property
    def run(self) -> Path:
        """The folder of sockets: below the root, or in /run where that would be too long for the path of a socket."""
        below = self.root / "run/gestalt"
        if len(str(below)) + _DEEPEST_SOCKET <= _SOCKET_PATH_MAX:
            return below
        return Path("/run") / f"gestalt-{hashlib.sha256(str(self.root).encode()).hexdigest()[:8]}"

    @property
    def coordinator_owner(self) -> Owner:
        """Whose the files are that the coordinator alone may read, or replaces."""
        return owner_of_unit("gestalt-coordinator") if self.is_machine else WRITER

    @property
    def is_machine(self) -> bool:
        """Whether this is the appliance of the machine, which systemd may run."""
        return self.root == Path("/")
