"""The command `gestalt-agent`: the daemon, and `gestalt-agent join`."""

from __future__ import annotations

import sys
from pathlib import Path

from gestalt.cluster.join_command import join_command
from gestalt.config import AgentSettings
from gestalt.daemon import Life, Service, Subcommand, daemon_command

CONFIG = Path("/etc/gestalt/agent.yaml")

_JOIN = Subcommand("join", "make this machine a node of a cluster, with a token of `gestaltctl node token`", "--token-file token")


def main() -> int:
    """Be the agent until told to stop, or have this machine join a cluster; return the exit code."""
    if sys.argv[1:2] == ["join"]:
        return join_command("node", sys.argv[2:])
    return daemon_command("gestalt-agent", AgentSettings, CONFIG, _start, others=(_JOIN,))


async def _start(settings: AgentSettings, life: Life) -> Service[AgentSettings]:
    from .node import start_agent

    return await start_agent(settings, life)


if __name__ == "__main__":
    raise SystemExit(main())
