"""The command `gestalt-fence`. Imports as little as it can: below 30 MB at rest."""

from __future__ import annotations

from pathlib import Path

from gestalt.daemon import Life, Service, daemon_command

from .settings import FenceSettings, load_fence_settings

CONFIG = Path("/etc/gestalt/fence.yaml")


def main() -> int:
    """Be the fence until told to stop; return the exit code."""
    return daemon_command("gestalt-fence", FenceSettings, CONFIG, _start, load=load_fence_settings)


async def _start(settings: FenceSettings, life: Life) -> Service[FenceSettings]:
    from .service import start_fence

    return await start_fence(settings, life)


if __name__ == "__main__":
    raise SystemExit(main())
