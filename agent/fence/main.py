"""The command `gestalt-fence`. Imports as little as it can: below 30 MB at rest."""

from __future__ import annotations

from pathlib import Path

from gestalt.daemon import Life, Service, daemon_command

from .settings import FenceSettings, load_fence_settings

CONFIG = Path("/etc/gestalt/fence.yaml")


def main() -> int:
    """Be the fence until told to stop; return the exit code. What it holds then is not left without a guard."""
    started: list[FenceSettings] = []

    async def start(settings: FenceSettings, life: Life) -> Service[FenceSettings]:
        from .service import start_fence

        fence = await start_fence(settings, life)
        started.append(settings)
        return fence

    code = daemon_command("gestalt-fence", FenceSettings, CONFIG, start, load=load_fence_settings)
    for settings in started:
        from .rearguard import leave
        from .service import life_id

        leave(settings.data_dir, life_id(), settings.timing.kill)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
