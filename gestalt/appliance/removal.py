"""`down --stop-apps` and `destroy`: ends and removes what the agent made, found by its labels through the drivers."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from gestalt.appliance import lifecycle
from gestalt.appliance.layout import Layout
from gestalt.appliance.lifecycle import Say, agent_settings_of
from gestalt.appliance.supervisor import supervisor_of
from gestalt.config import AgentSettings
from gestalt.errors import GestaltError, Kind
from gestalt.plugin.loadbalancer import LoadBalancerDriver
from gestalt.plugin.registry import find_driver
from gestalt.plugin.runtime import AttemptKey, DriverUnavailable, RuntimeDriver
from gestalt.settings_document import drop_ins_of, folder_of

_GRACE = 10.0
_AT_ONCE = 8


async def stop_apps(layout: Layout, say: Say, *, purge: bool = False, skip_unavailable: bool = False) -> None:
    """End every instance and HAProxy of this appliance; the daemons have stopped. Idempotent.

    What should run stays known: the next `up` starts it again. `purge` removes what holds data too (named volumes).

    Raises:
        GestaltError: UNAVAILABLE, when a runtime does not answer, so that something may be left.
    """
    settings = agent_settings_of(layout)
    if settings.proxy.enabled:
        await _stop_load_balancer(settings)
        say(f"{settings.loadbalancer} has stopped")
    for name in settings.runtimes:
        try:
            count = await _stop_instances(name, settings, purge=purge)
        except DriverUnavailable as error:
            if not skip_unavailable:
                raise GestaltError(
                    Kind.UNAVAILABLE,
                    f"the {name} runtime does not answer, so its instances could not be removed: {error}",
                    hint="start it and run this again, or leave what it may have with --skip-unavailable",
                ) from error
            say(f"{name}: skipped, it does not answer: {error}")
        else:
            say(f"{name}: {count} instances removed")


async def destroy(layout: Layout, say: Say, *, skip_unavailable: bool = False) -> None:
    """Remove every trace of the appliance. Interrupted anywhere, a second run goes on.

    The settings go last: they hold the ids by which everything else is found.
    """
    if layout.agent_settings.exists() and layout.coordinator_settings.exists():
        await lifecycle.down(layout, say)
        await stop_apps(layout, say, purge=True, skip_unavailable=skip_unavailable)
    await supervisor_of(layout).remove()
    for folder in (layout.run, layout.data, layout.logs, layout.pki):
        if folder.exists():
            shutil.rmtree(folder)
    for file in (layout.client_settings, layout.agent_settings, layout.coordinator_settings):
        file.unlink(missing_ok=True)
        _remove_empty(folder_of(file), layout.root)
    for folder in (layout.settings, layout.data, layout.logs, layout.run):
        _remove_empty(folder, layout.root)
    theirs = [str(drop_in) for file in (layout.agent_settings, layout.coordinator_settings) for drop_in in drop_ins_of(file)]
    say(f"nothing of the appliance is left below {layout.root}" + (f"; not made by it, and kept: {', '.join(theirs)}" if theirs else ""))


async def _stop_load_balancer(settings: AgentSettings) -> None:
    driver: LoadBalancerDriver = find_driver("loadbalancer", settings.loadbalancer).create(settings)
    try:
        await driver.stop()
    finally:
        await driver.close()


async def _stop_instances(name: str, settings: AgentSettings, *, purge: bool) -> int:
    try:
        driver: RuntimeDriver = find_driver("runtime", name).create(settings)
    except GestaltError as error:  # a name that was set by hand, or a driver that is not installed any more
        raise DriverUnavailable(str(error)) from error
    await driver.start()
    try:
        attempts = await driver.list()
        slots = asyncio.Semaphore(_AT_ONCE)
        ends = await asyncio.gather(*(_end(driver, attempt.key, slots) for attempt in attempts), return_exceptions=True)
        for problem in (end for end in ends if end is not None):
            raise problem
        if purge:
            await driver.purge()
        return len(attempts)
    finally:
        await driver.close()


async def _end(driver: RuntimeDriver, key: AttemptKey, slots: asyncio.Semaphore) -> None:
    async with slots:
        await driver.stop(key, "SIGTERM", _GRACE)
        await driver.remove(key)


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove a folder if it is empty, and so its parents up to a root of our own; the machine's own folders stay."""
    for place in (folder, *folder.parents):
        if place != folder and (root == Path("/") or not place.is_relative_to(root)):
            return
        try:
            place.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return  # something else is in it
