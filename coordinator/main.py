"""The command `gestalt-coordinator`: the daemon, `gestalt-coordinator join` and `gestalt-coordinator import`."""

from __future__ import annotations

import sys
from pathlib import Path

from gestalt.cluster.join_command import join_command
from gestalt.config import CoordinatorSettings
from gestalt.daemon import Subcommand, daemon_command

from .service import build

CONFIG = Path("/etc/gestalt/coordinator.yaml")

_OTHERS = (
    Subcommand("join", "make this machine a coordinator, with a token of `gestaltctl node token --coordinator`", "--token-file token"),
    Subcommand("import", "put a file of `gestaltctl cluster export` back, while nobody leads", "gestalt.export"),
)


def main() -> int:
    """Be a coordinator until told to stop, have this machine join a cluster as one, or put an export back; return the exit code."""
    if sys.argv[1:2] == ["join"]:
        return join_command("coordinator", sys.argv[2:])
    if sys.argv[1:2] == ["import"]:
        from .import_command import import_command

        return import_command(sys.argv[2:])
    return daemon_command("gestalt-coordinator", CoordinatorSettings, CONFIG, build, others=_OTHERS)


if __name__ == "__main__":
    raise SystemExit(main())
