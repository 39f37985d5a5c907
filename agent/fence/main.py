"""The command `gestalt-fence`. Imports as little as it can: below 30 MB at rest."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from gestalt.daemon import Life, Service, daemon_command

from .settings import FenceSettings, load_fence_settings

CONFIG = Path("/etc/gestalt/fence.yaml")


def main() -> int:
    """Be the fence until told to stop; return the exit code. What it holds then is not left without a guard."""
    last: list[Callable[[], None]] = []

    async def start(settings: FenceSettings, life: Life) -> Service[FenceSettings]:
        from .rearguard import leave  # now: at its end an upgrade may have taken the file away
        from .service import life_id, start_fence

        fence = await start_fence(settings, life)
        last.append(partial(leave, settings.data_dir, life_id(), settings.timing.kill))
        return fence

    try:
        return daemon_command("gestalt-fence", FenceSettings, CONFIG, start, load=load_fence_settings)
    finally:  # however it ended
        for leave_guard in last:
            leave_guard()


if __name__ == "__main__":
    raise SystemExit(main())
