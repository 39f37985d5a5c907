"""The command `gestalt-agent`."""

from __future__ import annotations

from pathlib import Path

from gestalt.config import AgentSettings
from gestalt.daemon import Life, Service, daemon_command

CONFIG = Path("/etc/gestalt/agent.yaml")


def main() -> int:
    """Be the agent until told to stop; return the exit code."""
    return daemon_command("gestalt-agent", AgentSettings, CONFIG, _start)


async def _start(settings: AgentSettings, life: Life) -> Service[AgentSettings]:
    from .node import start_agent

    return await start_agent(settings, life)


if __name__ == "__main__":
    raise SystemExit(main())
