"""The runtime driver for the Docker Engine (and what speaks its API)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar, Self, TypeVar

from gestalt.clock import monotonic
from gestalt.config import AgentSettings
from gestalt.plugin.runtime import (
    AttemptKey,
    AttemptState,
    AttemptStatus,
    DriverUnavailable,
    ExecRequest,
    ExecSession,
    Launch,
    LaunchRefused,
    LogLine,
    LogOptions,
    Progress,
    RuntimeDriver,
)
from gestalt.spec.schema import AppSpec

from .docker_engine import Engine
from .docker_events import EngineEvents
from .docker_exec import start_exec
from .docker_images import NodeImages
from .docker_logs import log_lines, logs_request
from .docker_options import container_document, container_name, owner_labels
from .docker_refusal import clean, refusal
from .docker_status import from_inspect, from_summary
from .docker_stream import ApiRefused

log = logging.getLogger(__name__)

T = TypeVar("T")

_LAUNCHES_AT_ONCE = 8
_POLL = 1.0
_SHORT_POLL = 0.05
_CONFLICT = 409


class DockerRuntime(RuntimeDriver):
    """Runs each attempt as one container of the Engine at `docker.socket`.

    A launch is two calls of the API, at most eight launches at a time: more only makes the Engine slower. A stop holds no thread and no
    call: it sends the signal and waits for the Engine's event. What is decided about a container is written in `docker_options`.

    `list` costs one call, however many containers there are, and one inspect for each that has ended since. It leaves `pid` 0.
    """

    name: ClassVar[str] = "docker"

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._limit = settings.docker.limit
        self._owner = owner_labels(settings)
        self._engine = Engine(settings.docker.socket, self._limit)
        self._images = NodeImages(self._engine, settings)
        self._events = EngineEvents(self._engine, self._owner, self._images.forget)
        self._events.subscribe(self._forget_end)
        self._launching = asyncio.Semaphore(_LAUNCHES_AT_ONCE)
        self._ended: dict[str, AttemptStatus] = {}

    @classmethod
    def create(cls, settings: AgentSettings) -> Self:
        return cls(settings)

    async def start(self) -> None:
        self._events.start()

    async def close(self) -> None:
        await self._events.close()
        await self._images.close()
        await self._engine.close()

    async def probe(self) -> Mapping[str, str]:
        try:
            version, info = await asyncio.gather(self._engine.version(), self._engine.info())
        except ApiRefused as refused:
            raise _unwell(refused) from refused
        return {
            "version": str(version.get("Version", "")),
            "api_version": str(version.get("ApiVersion", "")),
            "storage_driver": str(info.get("Driver", "")),
            "cgroup_version": str(info.get("CgroupVersion", "1")),
            "live_restore": str(bool(info.get("LiveRestoreEnabled"))).lower(),
        }

    def subscribe(self, wake: Callable[[AttemptKey | None], None]) -> None:
        self._events.subscribe(wake)

    async def list(self) -> Sequence[AttemptStatus]:
        summaries = await self._answered(self._engine.containers(self._owner))
        known = [status for status in map(from_summary, summaries) if status]
        present = {status.runtime_id for status in known}
        for gone in self._ended.keys() - present:
            del self._ended[gone]
        found = await asyncio.gather(*(self._in_detail(status) for status in known))
        return [status for status in found if status]

    async def inspect(self, key: AttemptKey) -> AttemptStatus | None:
        container = await self._own(key)
        return from_inspect(container) if container else None

    async def prepare(self, spec: AppSpec, progress: Progress) -> None:
        await self._images.prepare(spec, progress)

    async def launch(self, launch: Launch) -> AttemptStatus:
        async with self._launching:
            try:
                container = await self._engine.create(
                    container_name(self._settings, launch.key), container_document(self._settings, launch)
                )
            except ApiRefused as refused:
                if refused.status == _CONFLICT and "name" in refused.message:
                    return await self._resume(launch)
                if "no such image" in refused.message.lower():
                    self._images.forget(launch.spec.image)
                raise refusal(refused.message) from refused
            await self._start(container)
            return AttemptStatus(launch.key, AttemptState.RUNNING, container, launch.app, launch.template)

    async def stop(self, key: AttemptKey, signal: str, grace: float) -> None:
        container = await self._own(key)
        if container is None or not container["State"]["Running"]:
            return
        with self._events.changes(key) as changed:
            await self._kill(container["Id"], signal)
            if await self._ends(container["Id"], changed, grace):
                return
            await self._kill(container["Id"], "SIGKILL")
            if not await self._ends(container["Id"], changed, self._limit):
                raise DriverUnavailable(
                    f"Docker did not end {key.instance} within {self._limit:g} s after SIGKILL; a dead mount can hold it"
                )

    async def remove(self, key: AttemptKey) -> None:
        deadline = monotonic() + self._limit
        while container := await self._own(key):
            try:
                await self._engine.remove(container["Id"])
            except ApiRefused as refused:
                if refused.status != _CONFLICT or monotonic() > deadline:
                    raise DriverUnavailable(f"Docker could not remove {key.instance}: {clean(refused.message)}") from refused
                await asyncio.sleep(_SHORT_POLL)  # someone else removes it at this moment

    async def logs(self, key: AttemptKey, options: LogOptions) -> AsyncIterator[LogLine]:
        container = await self._own(key)
        if container is None:
            raise LaunchRefused(f"there is nothing of attempt {key.attempt} of {key.instance} on this node")
        if container["HostConfig"]["LogConfig"]["Type"] == "none":
            raise LaunchRefused(f"{key.instance} keeps no logs: its `logging.driver` is `none`")
        stream = await self._answered(self._engine.stream(logs_request(container["Id"], options)))
        try:
            async for line in log_lines(stream, options):
                yield line
        finally:
            await stream.close()
        if options.follow and not await self._has_ended(container["Id"]):
            raise DriverUnavailable(f"Docker ended the log stream of {key.instance}, which still runs; follow it again")

    async def exec(self, key: AttemptKey, request: ExecRequest) -> ExecSession:
        container = await self._own(key)
        if container is None or not container["State"]["Running"]:
            raise LaunchRefused(f"attempt {key.attempt} of {key.instance} does not run on this node")
        return await start_exec(self._engine, container["Id"], request, self._limit)

    async def collect_garbage(self, in_use: Sequence[AppSpec]) -> int:
        return await self._images.collect_garbage(in_use)

    async def _resume(self, launch: Launch) -> AttemptStatus:
        """Take over what an earlier call for this attempt made: start it if it never ran."""
        deadline = monotonic() + self._limit
        name = container_name(self._settings, launch.key)
        while (container := await self._answered(self._engine.container(name))) is None or container["State"]["Status"] == "removing":
            if monotonic() > deadline:
                raise DriverUnavailable(f"Docker says that a container {name} exists, but does not show it within {self._limit:g} s")
            await asyncio.sleep(_SHORT_POLL)
        status = from_inspect(container) if self._is_own(container) else None
        if status is None:
            raise LaunchRefused(f"a container that is not Gestalt's own is called {name}; `docker rename` or remove it")
        if status.state is AttemptState.CREATED:
            await self._start(container["Id"])
            return replace(status, state=AttemptState.RUNNING, error="")
        return status

    async def _start(self, container: str) -> None:
        try:
            await self._engine.start(container)
        except ApiRefused as refused:
            error = refusal(refused.message)
            if isinstance(error, LaunchRefused):
                await self._discard(container)
            raise error from refused

    async def _discard(self, container: str) -> None:
        """Remove a container that could not be started; should that fail, `list` shows it and whoever wants nothing of it removes it."""
        try:
            await self._engine.remove(container)
        except (ApiRefused, DriverUnavailable) as error:
            log.warning("container %s could be neither started nor removed: %s", container, error)

    async def _kill(self, container: str, signal: str) -> None:
        try:
            await self._engine.kill(container, signal)
        except ApiRefused as refused:
            log.info("%s for container %s was refused: %s", signal, container, refused.message)  # it has ended, or there is no such signal

    async def _ends(self, container: str, changed: asyncio.Event, within: float) -> bool:
        """Wait for the end of a container; the event makes it quick, the poll makes it sure."""
        deadline = monotonic() + within
        while True:
            changed.clear()
            if await self._has_ended(container):
                return True
            left = deadline - monotonic()
            if left <= 0:
                return False
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), min(left, _POLL))

    async def _has_ended(self, container: str) -> bool:
        document = await self._answered(self._engine.container(container))
        return document is None or not document["State"]["Running"]

    async def _in_detail(self, status: AttemptStatus) -> AttemptStatus | None:
        """Add what only an inspect tells: why an attempt ended, or did not start."""
        if status.state is AttemptState.RUNNING:
            return status
        if known := self._ended.get(status.runtime_id):
            return known
        container = await self._answered(self._engine.container(status.runtime_id))
        detail = from_inspect(container) if container else None
        if detail and detail.state is AttemptState.EXITED:
            self._ended[detail.runtime_id] = detail
        return detail

    def _forget_end(self, key: AttemptKey | None) -> None:
        self._ended = {name: status for name, status in self._ended.items() if key is not None and status.key != key}

    async def _own(self, key: AttemptKey) -> dict[str, Any] | None:
        """Return what the Engine knows of the attempt's container, or None when there is none that is ours."""
        container = await self._answered(self._engine.container(container_name(self._settings, key)))
        return container if container and self._is_own(container) else None

    def _is_own(self, container: Mapping[str, Any]) -> bool:
        return self._owner.items() <= (container["Config"].get("Labels") or {}).items()

    async def _answered(self, call: Awaitable[T]) -> T:
        """Await a call that the Engine has no reason to refuse: its refusal is a fault of the Engine."""
        try:
            return await call
        except ApiRefused as refused:
            raise _unwell(refused) from refused


def _unwell(refused: ApiRefused) -> DriverUnavailable:
    return DriverUnavailable(f"Docker answers, but not well: {clean(refused.message)}")
