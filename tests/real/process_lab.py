"""What tests of the process runtime share: settings, launches, waiting."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from gestalt.config import AgentSettings, ProcessSettings, TlsSettings
from gestalt.model import PortBinding
from gestalt.plugin.runtime import AttemptKey, AttemptState, AttemptStatus, Launch, LogOptions
from gestalt.plugins.runtime.process import ProcessRuntime
from gestalt.plugins.runtime.process_cgroup import CgroupTree
from gestalt.spec.schema import AppSpec, Part

P = TypeVar("P", bound=Part)

PATIENCE = 15.0
OLD = 900.0
PATH = "/lab/tests/local/app"


def settings_for(folder: Path, **process: Any) -> AgentSettings:
    """Return the settings of an agent whose node and cluster nobody else has."""
    sweep_leftovers()
    nowhere = folder / "none.pem"
    return AgentSettings(
        node_id=str(uuid.uuid4()),
        node_name="lab",
        cluster_id=str(uuid.uuid4()),
        coordinators=("127.0.0.1:7400",),
        tls=TlsSettings(ca=nowhere, certificate=nowhere, key=nowhere),
        data_dir=folder,
        run_dir=folder,
        process=ProcessSettings(**{"supervisor": "shim", **process}),
    )


@asynccontextmanager
async def driver(settings: AgentSettings) -> AsyncIterator[ProcessRuntime]:
    """A started driver; what runs goes on after it."""
    runtime = ProcessRuntime.create(settings)
    await runtime.start()
    try:
        yield runtime
    finally:
        await runtime.close()


@asynccontextmanager
async def clean_driver(settings: AgentSettings) -> AsyncIterator[ProcessRuntime]:
    """A started driver that removes everything at the end."""
    async with driver(settings) as runtime:
        try:
            yield runtime
        finally:
            for status in await runtime.list():
                await runtime.remove(status.key)


def order(script: str, key: AttemptKey | None = None, ports: tuple[PortBinding, ...] = (), **sections: Any) -> Launch:
    """Return the launch of a shell script. `sections` go past the rules of the schema, as those of an odd coordinator would."""
    spec = AppSpec(path=PATH, runtime="process", command=("/bin/sh", "-c", script)).model_copy(update=sections)
    return Launch(key or AttemptKey(f"app-{uuid.uuid4().hex[:6]}-1", 1), spec.path, 1, "t-1", spec, ports)


def odd(section: type[P], **values: Any) -> P:
    """Return a section of a description that the schema would not let pass."""
    return section().model_copy(update=values)


async def until(what: str, condition: Callable[[], Any], limit: float = PATIENCE) -> Any:
    """Wait until `condition` (a plain or an async function) is true; say what was seen last when it never is."""
    seen: Any = None
    try:
        async with asyncio.timeout(limit):
            while True:
                seen = condition()
                if asyncio.iscoroutine(seen):
                    seen = await seen
                if seen:
                    return seen
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited {limit:g} s for {what}; last seen: {seen!r}") from None


async def ended(runtime: ProcessRuntime, key: AttemptKey) -> AttemptStatus:
    async def condition() -> AttemptStatus | None:
        status = await runtime.inspect(key)
        return status if status is not None and status.state is AttemptState.EXITED else None

    status = await until(f"the end of {key}", condition)
    assert isinstance(status, AttemptStatus)
    return status


async def lines(runtime: ProcessRuntime, key: AttemptKey, **options: Any) -> list[bytes]:
    async with asyncio.timeout(PATIENCE):
        return [line.data async for line in runtime.logs(key, LogOptions(**options))]


async def first_line(runtime: ProcessRuntime, key: AttemptKey) -> bytes:
    async def condition() -> list[bytes]:
        return await lines(runtime, key)

    found = await until(f"a line of {key}", condition)
    return bytes(found[0])


async def output_of(runtime: ProcessRuntime, script: str, **sections: Any) -> list[bytes]:
    """Run a script to its end and return its lines."""
    status = await runtime.launch(order(script, **sections))
    await ended(runtime, status.key)
    return await lines(runtime, status.key)


def exists(pid: int) -> bool:
    """Whether a process lives; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@cache
def sweep_leftovers() -> None:
    """Kill, once a run, the processes of test runs that were killed themselves: pytest's lock file says which run is over."""
    for entry in Path("/proc").iterdir():
        folder = _folder_of_shim(entry)
        if folder is None or _run_is_alive(folder):
            continue
        os.kill(int(entry.name), signal.SIGKILL)
        CgroupTree().remove(folder.name)
    for cgroup in Path("/sys/fs/cgroup").glob("*/gestalt/gestalt-*"):
        if time.time() - cgroup.stat().st_mtime > OLD and not (cgroup / "cgroup.procs").read_text():
            cgroup.rmdir()


def _folder_of_shim(process: Path) -> Path | None:
    try:
        arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    is_shim = any("/.shim-" in argument for argument in arguments)
    return next((Path(argument) for argument in arguments if is_shim and "/pytest-of-" in argument and "/gestalt-" in argument), None)


def _run_is_alive(folder: Path) -> bool:
    run = next(parent for parent in folder.parents if parent.name.startswith("pytest-") and parent.parent.name.startswith("pytest-of-"))
    try:
        return exists(int((run / ".lock").read_text()))
    except (OSError, ValueError):
        return False
