"""The entry point of gestalt-coordinator."""

from __future__ import annotations

from pathlib import Path

from gestalt.config import CoordinatorSettings
from gestalt.daemon import daemon_command

from .service import build


def main() -> int:
    """Run the coordinator; returns the exit code."""
    return daemon_command("gestalt-coordinator", CoordinatorSettings, Path("/etc/gestalt/coordinator.yaml"), build)


if __name__ == "__main__":
    raise SystemExit(main())
