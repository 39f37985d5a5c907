"""The runtime driver for the Docker Engine (and what speaks its API)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Self

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
    Usage,
)
from gestalt.spec.schema import AppSpec

from .docker_cgroups import Confinement
from .docker_containers import Container, OwnContainers, answered
from .docker_engine import Engine
from .docker_events import EngineEvents
from .docker_exec import start_exec
from .docker_images import NodeImages
from .docker_logs import log_lines, logs_request
from .docker_options import container_name, owner_labels
from .docker_status import from_inspect, from_summary
from .docker_usage import ContainerUsage

_LAUNCHES_AT_ONCE = 8


class DockerRuntime(RuntimeDriver):
    """Runs each attempt as one container of the Engine at `docker.socket`.

    A launch is two calls of the API, at most eight launches at a time: more only makes the Engine slower. A stop holds no thread and no
    call: it sends the signal and waits for the Engine's event. What is decided about a container is written in `docker_options`.

    `list` costs one call, however many containers there are, and one inspect for each that has ended since. It leaves `pid` 0.
    """

    name: ClassVar[str] = "docker"

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._owner = owner_labels(settings)
        self._engine = Engine(settings.docker.socket, settings.docker.limit)
        self._images = NodeImages(self._engine, settings)
        self._events = EngineEvents(self._engine, self._owner, self._images.forget)
        self._events.subscribe(self._forget_end)
        self._containers = OwnContainers(self._engine, self._events, settings)
        self._launching = asyncio.Semaphore(_LAUNCHES_AT_ONCE)
        self._usage = ContainerUsage(self._containers.find)
        self._ended: dict[str, AttemptStatus] = {}
        self._confinement = Confinement(lambda: answered(self._engine.info()))

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
        version, info = await asyncio.gather(answered(self._engine.version()), answered(self._engine.info()))
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
        summaries = await answered(self._engine.containers(self._owner))
        known = [status for status in map(from_summary, summaries) if status]
        present = {status.runtime_id for status in known}
        for gone in self._ended.keys() - present:
            del self._ended[gone]
        found = await asyncio.gather(*(self._in_detail(status) for status in known))
        return [status for status in found if status]

    async def inspect(self, key: AttemptKey) -> AttemptStatus | None:
        container = await self._containers.find(key)
        return from_inspect(container) if container else None

    async def prepare(self, spec: AppSpec, progress: Progress) -> None:
        await self._images.prepare(spec, progress)

    async def cgroups(self, key: AttemptKey) -> Sequence[str]:
        return await self._confinement.folders(container_name(self._settings, key))

    async def launch(self, launch: Launch) -> AttemptStatus:
        async with self._launching:
            try:
                parent = await self._confinement.parent(container_name(self._settings, launch.key), alone=launch.confined)
                made = await self._containers.create(launch, parent)
            except LaunchRefused:
                self._confinement.doubt()
                self._images.forget(launch.spec.image)  # it may have been the image that was missing
                raise
            status = _as_existing(made) if isinstance(made, dict) else _as_new(made, launch)
            if status.state is AttemptState.CREATED:
                await self._containers.start(status.runtime_id)
                return replace(status, state=AttemptState.RUNNING, error="")
            return status

    async def stop(self, key: AttemptKey, signal: str, grace: float) -> None:
        await self._containers.stop(key, signal, grace)

    async def remove(self, key: AttemptKey) -> None:
        removed = await self._containers.remove(key)
        if removed:
            await self._confinement.remove(container_name(self._settings, key), removed["HostConfig"].get("CgroupParent", ""))

    async def logs(self, key: AttemptKey, options: LogOptions) -> AsyncIterator[LogLine]:
        container = await self._containers.find(key)
        if container is None:
            raise LaunchRefused(f"there is nothing of attempt {key.attempt} of {key.instance} on this node")
        if container["HostConfig"]["LogConfig"]["Type"] == "none":
            raise LaunchRefused(f"{key.instance} keeps no logs: its `logging.driver` is `none`")
        stream = await answered(self._engine.stream(logs_request(container["Id"], options)))
        try:
            async for line in log_lines(stream, options):
                yield line
        finally:
            await stream.close()
        if options.follow and not await self._containers.has_ended(container["Id"]):
            raise DriverUnavailable(f"Docker ended the log stream of {key.instance}, which still runs; follow it again")

    async def exec(self, key: AttemptKey, request: ExecRequest) -> ExecSession:
        container = await self._containers.find(key)
        if container is None or not container["State"]["Running"]:
            raise LaunchRefused(f"attempt {key.attempt} of {key.instance} does not run on this node")
        return await start_exec(self._engine, container["Id"], request, self._settings.docker.limit)

    async def usage(self, keys: Sequence[AttemptKey]) -> Mapping[AttemptKey, Usage]:
        return await self._usage.read(keys)

    async def collect_garbage(self, in_use: Sequence[AppSpec]) -> int:
        return await answered(self._images.collect_garbage(in_use))

    async def purge(self) -> None:
        for name in await answered(self._engine.volumes(self._owner)):
            await answered(self._engine.remove_volume(name))

    async def _in_detail(self, status: AttemptStatus) -> AttemptStatus | None:
        """Add what only an inspect tells: why an attempt ended, or did not start."""
        if status.state is AttemptState.RUNNING:
            return status
        if known := self._ended.get(status.runtime_id):
            return known
        container = await answered(self._engine.container(status.runtime_id))
        detail = from_inspect(container) if container else None
        if detail and detail.state is AttemptState.EXITED:
            self._ended[detail.runtime_id] = detail
        return detail

    def _forget_end(self, key: AttemptKey | None) -> None:
        self._ended = {name: status for name, status in self._ended.items() if key is not None and status.key != key}


def _as_existing(container: Container) -> AttemptStatus:
    status = from_inspect(container)
    if status is None:
        raise LaunchRefused(f"container {container['Name']} carries our labels, but not its instance and attempt; remove it")
    return status


def _as_new(container: str, launch: Launch) -> AttemptStatus:
    return AttemptStatus(launch.key, AttemptState.CREATED, container, launch.app, launch.template)
