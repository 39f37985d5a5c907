"""The command `gestalt-fence`. Imports as little as it can: below 30 MB at rest."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gestalt.daemon import Life, Service, daemon_command

from .settings import FenceSettings, load_fence_settings

CONFIG = Path("/etc/gestalt/fence.yaml")


def main() -> int:
    """Be the fence until told to stop; return the exit code. What it holds then is not left without a guard."""
    last: list[asyncio.Task[None]] = []

    async def start(settings: FenceSettings, life: Life) -> Service[FenceSettings]:
        from .rearguard import leave_at_the_end  # now: at its end an upgrade may have taken the file away
        from .service import start_fence

        fence = await start_fence(settings, life)
        leaving = leave_at_the_end(settings.data_dir, lambda: fence.held, settings.timing.kill)
        last.append(asyncio.create_task(leaving, name="rearguard"))
        return fence

    return daemon_command("gestalt-fence", FenceSettings, CONFIG, start, load=load_fence_settings)


if __name__ == "__main__":
    raise SystemExit(main())
