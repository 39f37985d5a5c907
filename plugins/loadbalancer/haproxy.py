"""Routes with an HAProxy of our own: servers by its command socket, everything else by a hitless reload."""

from __future__ import annotations

import grp
import logging
import os
import pwd
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

from gestalt.config import AgentSettings
from gestalt.files import write_atomic
from gestalt.model import Route
from gestalt.plugin.loadbalancer import LoadBalancerDriver, ServerLoad, ServerTraffic
from gestalt.plugin.runtime import DriverUnavailable, LaunchRefused

from .haproxy_config import Options, Rendering, affordable_connections, render
from .haproxy_cut import DeadEnds
from .haproxy_ports import closed_ports
from .haproxy_process import HaproxyProcess
from .haproxy_routes import ServerEntry
from .haproxy_servers import Key, adjustments, dead_ends, is_right, merge_load, parse_info, parse_load, parse_servers, parse_traffic
from .haproxy_socket import ask, batches
from .haproxy_unit import SystemdUnavailable

log = logging.getLogger(__name__)

_USER = "haproxy"
_LOAD = "show stat -1 4 -1"
_EXPERIMENTAL_BEFORE = (2, 5)


@dataclass(frozen=True, slots=True)
class _Running:
    """What the worker has right now."""

    structure: str
    experimental: bool
    servers: Mapping[Key, ServerEntry]


class HaproxyLoadBalancer(LoadBalancerDriver):
    """HAProxy 2.4 or later. Servers bear the ids of instances, so the running HAProxy itself says what it has.

    `apply` is called by one task at a time; `load` may run beside it.
    """

    name = "haproxy"

    def __init__(self, options: Options, process: HaproxyProcess) -> None:
        self._options = options
        self._process = process
        self._stored: str | None = None
        self._closed: dict[int, str] = {}
        self._problems: tuple[str, ...] = ()
        self._leftovers = False
        self._dead_ends = DeadEnds(process.worker_socket)

    @classmethod
    def create(cls, settings: AgentSettings) -> Self:
        proxy = settings.proxy
        process = HaproxyProcess(settings.run_dir / "haproxy")
        options = Options(
            proxy.bind, proxy.http_port, proxy.stats_port, proxy.max_connections, proxy.hard_stop_after, process.worker_socket
        )
        if os.geteuid() == 0:
            user, group = _identity()
            options = replace(options, user=user, group=group, chroot=process.empty)
        return cls(options, process)

    async def start(self, on_death: Callable[[], None]) -> None:
        self._process.prepare(on_death)
        if not await self._process.adopt():
            await self._start_with_last()

    async def apply(self, routes: Sequence[Route]) -> None:
        if not self._process.alive and not await self._process.adopt():
            self._process.prepare()  # it may not have been possible before, or somebody removed it
            await self._start_with(routes)
        await self._process.replaced.settle()  # of a reload that was given up, or whose agent died
        running = await _running(self._process)
        wanted = self._render(routes)
        dead = dead_ends(wanted.servers, wanted.backends, running.servers)
        if wanted.structure != running.structure or self._closed:
            wanted = await self._render_open(routes)
        if wanted.structure != running.structure:
            running = await self._restructure(wanted)
        if not await self._adjust(wanted.servers, running):
            log.warning("HAProxy's servers could not be changed by its socket, so it is reloaded")
            await self._reload(wanted)
            self._leftovers = False
        await self._dead_ends.end(dead)
        await self._store(wanted.text)

    async def load(self) -> Mapping[str, ServerLoad]:
        parts = [parse_load(await ask(self._process.worker_socket, [_LOAD]))]
        return merge_load([*parts, *map(parse_load, await _of_old_workers(self._process))])

    async def traffic(self) -> Mapping[str, ServerTraffic]:
        """Old workers answer what they have: they take no new requests, and their counters would end with them."""
        traffic = parse_traffic(await ask(self._process.worker_socket, [_LOAD]))
        for part in map(parse_traffic, await _of_old_workers(self._process)):
            for name, old in part.items():
                now = traffic.get(name, ServerTraffic(0, 0))
                traffic[name] = replace(now, queue=now.queue + old.queue)
        return traffic

    def problems(self) -> tuple[str, ...]:
        return self._problems

    def unfinished(self) -> bool:
        return self._leftovers

    async def stop(self) -> None:
        await self._process.end()

    async def close(self) -> None:
        self._process.close()

    def _render(self, routes: Sequence[Route]) -> Rendering:
        descriptors = self._process.descriptors
        connections = affordable_connections(self._options.max_connections, descriptors, len(routes))
        rendering = render(routes, replace(self._options, max_connections=connections), self._closed)
        problems = (*self._closed.values(), *rendering.problems)
        if connections < self._options.max_connections:
            problems += (
                f"HAProxy gets {connections} connections, not {self._options.max_connections}: only {descriptors} files may be open",
            )
        for problem in set(problems) - set(self._problems):
            log.warning("proxy: %s", problem)
        self._problems = problems
        return rendering

    async def _render_open(self, routes: Sequence[Route]) -> Rendering:
        """Render after a look at which ports can be had now."""
        ours: tuple[int, ...] = ()
        if self._process.alive:
            processes = await self._process.processes()
            ours = (processes.master, *processes.workers, *processes.old_workers)
        listeners = render(routes, self._options).listeners
        self._closed = await self._process.in_thread(partial(closed_ports, listeners, ours))
        return self._render(routes)

    async def _restructure(self, wanted: Rendering) -> _Running:
        """Reload into a new structure. Where HAProxy refuses it, servers that exist still get their new states."""
        try:
            await self._put_checked(wanted.text)
            await self._reload(wanted)
        except LaunchRefused:
            running = await _running(self._process)
            await self._adjust({key: entry for key, entry in wanted.servers.items() if key in running.servers}, running)
            raise
        return await _running(self._process)

    async def _reload(self, wanted: Rendering) -> None:
        """Store and reload; a configuration that does not come up is taken back, and the reload repeated with the old one."""
        before = await self._read()
        await self._store(wanted.text)
        try:
            await self._process.reload()
        except LaunchRefused:
            if before is not None:
                await self._store(before)
                await self._process.reload()
            raise
        log.info("HAProxy reloaded into structure %s", wanted.structure)

    async def _adjust(self, wanted: Mapping[Key, ServerEntry], running: _Running) -> bool:
        """Change servers by the socket; say whether all are right then."""
        commands = adjustments(wanted, running.servers)
        self._leftovers = False
        if not commands:
            return True
        prefix = ["experimental-mode on"] if running.experimental else []
        for batch in batches(commands):
            answer = await ask(self._process.worker_socket, prefix + batch)
            log.info("HAProxy: %s -> %s", "; ".join(batch), " ".join(answer.split()))
        servers = (await _running(self._process)).servers
        self._leftovers = not wanted.keys() >= servers.keys()
        return is_right(wanted, servers)

    async def _start_with(self, routes: Sequence[Route]) -> None:
        """Start with what is wanted; with the last configuration if HAProxy refuses that."""
        wanted = await self._render_open(routes)
        try:
            if wanted.text != await self._read():
                await self._put_checked(wanted.text)
                await self._store(wanted.text)
            await self._process.launch()
        except LaunchRefused as error:
            log.error("%s; starting with the last configuration", error)
            await self._start_with_last()

    async def _start_with_last(self) -> None:
        """Start with the configuration on disk; with none but our own if there is none or it does not start."""
        if await self._read() is not None:
            try:
                await self._process.launch()
                return
            except SystemdUnavailable:
                raise
            except DriverUnavailable as error:
                log.warning("the last configuration is of no use now: %s", error)
        empty = await self._render_open(())
        await self._store(empty.text)
        await self._process.launch()

    async def _put_checked(self, text: str) -> None:
        """Have HAProxy judge a candidate; what is in place stays.

        Raises:
            LaunchRefused: it is not valid.
        """
        candidate = self._process.folder / "candidate.cfg"
        await self._process.in_thread(partial(candidate.write_text, text))
        try:
            await self._process.check(candidate)
        finally:
            await self._process.in_thread(partial(candidate.unlink, missing_ok=True))

    async def _read(self) -> str | None:
        if self._stored is None:
            self._stored = await self._process.in_thread(partial(_read_text, self._process.config))
        return self._stored

    async def _store(self, text: str) -> None:
        """Have the file say what runs, for the next start or reload."""
        if text != await self._read():
            self._stored = None
            await self._process.in_thread(partial(write_atomic, self._process.config, text, mode=0o600))
            self._stored = text


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


async def _of_old_workers(process: HaproxyProcess) -> list[str]:
    """Return the statistics of the workers that only finish what they have."""
    answers = [await ask(process.master_socket, [f"@!{pid} {_LOAD}"]) for pid in (await process.processes()).old_workers]
    return [answer for answer in answers if answer.startswith("# pxname")]


async def _running(process: HaproxyProcess) -> _Running:
    answer = await ask(process.worker_socket, ["show info", "show servers state"])
    info, _, servers = answer.partition("\n\n")
    try:
        worker = parse_info(info)
        return _Running(worker.structure, worker.version < _EXPERIMENTAL_BEFORE, parse_servers(servers))
    except ValueError as error:
        raise DriverUnavailable(str(error)) from error


def _identity() -> tuple[str, str]:
    """Return the user and group that HAProxy's package made for it; empty where there are none."""
    try:
        entry = pwd.getpwnam(_USER)
        return entry.pw_name, grp.getgrgid(entry.pw_gid).gr_name
    except KeyError:
        return "", ""
