"""What tests of HAProxy share: a driver in a folder of its own, real servers on loopback, an open-loop client."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from gestalt import shell
from gestalt.clock import monotonic
from gestalt.config import AgentSettings, ProxySettings, TlsSettings
from gestalt.model import HttpService, Route, Server, TcpService
from gestalt.plugins.loadbalancer.haproxy import HaproxyLoadBalancer
from gestalt.plugins.loadbalancer.haproxy_process import HaproxyProcess
from gestalt.plugins.loadbalancer.haproxy_socket import Processes
from gestalt.plugins.loadbalancer.haproxy_unit import UNIT

PATIENCE = 15.0
IN_UNIT = bool(os.environ.get("GESTALT_TEST_HAPROXY_UNIT"))
"""Whether systemd is to run it: set by tests/real/test_haproxy_unit.py, on a machine of its own, which runs these tests a second time."""
_PREFIX = "gestalt-haproxy-"
_ESTABLISHED = "01"  # in /proc/net/tcp
_SERVER = """
import asyncio, os, sys, time
name, delay, address = sys.argv[1].encode(), float(sys.argv[2]), sys.argv[3]
async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            if b" /die " in head:
                writer.transport.abort()  # a kernel that ends a process closes what it has one by one, the listener last
                await asyncio.sleep(0)
                time.sleep(0.05)
                os.kill(os.getpid(), 9)
            await asyncio.sleep(delay)
            body = head if b" /echo " in head else name
            writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: %d\\r\\n\\r\\n%s" % (len(body), body))
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    server = await asyncio.start_server(serve, address, 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


def free_port() -> int:
    """Return a port that nobody listens on now, outside the range that outgoing connections use here."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def settings_for(folder: Path, **proxy: Any) -> AgentSettings:
    nowhere = folder / "none.pem"
    return AgentSettings(
        node_id="00000000-0000-0000-0000-000000000001",
        node_name="lab",
        cluster_id="00000000-0000-0000-0000-000000000002",
        coordinators=("127.0.0.1:1",),
        tls=TlsSettings(ca=nowhere, certificate=nowhere, key=nowhere),
        data_dir=folder / "data",
        run_dir=folder,
        proxy=ProxySettings(**{"bind": "127.0.0.1", "http_port": free_port(), **proxy}),
    )


def new_folder() -> Path:
    """Make a folder with a short path; first clear away what killed test runs have left."""
    for old in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        owner = old.name.removeprefix(_PREFIX).split("-")[0]
        if not Path(f"/proc/{owner}").exists():
            _kill_leftover(old)
            shutil.rmtree(old, ignore_errors=True)
    if not IN_UNIT:
        return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir="/run"))
    shipped = (files("gestalt") / "systemd" / UNIT).read_text(encoding="utf-8")
    Path("/run/systemd/system", UNIT).write_text(shipped.replace("/run/gestalt/agent", str(folder)), encoding="utf-8")
    subprocess.run(["systemctl", "daemon-reload"], check=True, timeout=60)
    return folder


def _kill_leftover(folder: Path) -> None:
    with contextlib.suppress(OSError, ValueError):
        pid = int((folder / "haproxy/pid").read_text())
        if str(folder) in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(pid, signal.SIGKILL)


async def until(what: str, condition: Callable[[], Awaitable[Any]], *, within: float = PATIENCE) -> Any:
    """Wait for a condition; fail with what was seen last."""
    end = monotonic() + within
    while not (seen := await condition()):
        assert monotonic() < end, f"not within {within:g} s: {what}; last seen: {seen!r}"
        await asyncio.sleep(0.005)
    return seen


@dataclass
class Backend:
    """A real HTTP server in a process of its own, which answers with its name."""

    name: str
    port: int
    process: asyncio.subprocess.Process
    address: str = "127.0.0.1"

    def server(self, *, ready: bool = True, drain: bool = False, lost: bool = False) -> Server:
        return Server(self.name, self.address, self.port, ready, drain, lost)

    def kill(self) -> None:
        """End it as the kernel does a process that is killed."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def freeze(self) -> None:
        """Have it read nothing any more, while its kernel goes on to accept connections."""
        self.process.send_signal(signal.SIGSTOP)

        async def stands_still() -> bool:
            return Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"

        await until("it stands still", stands_still)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def unread(self) -> int:
        """Return how many connections have brought it something that it has not read."""
        return sum(size > 0 for size in self.received())

    def received(self) -> list[int]:
        """Return of each of its connections how many bytes it has not read."""
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        mine = [row for row in rows if row[1].endswith(f":{self.port:04X}") and row[3] == _ESTABLISHED]
        return [int(row[4].split(":")[1], 16) for row in mine]


async def start_backend(name: str, delay: float = 0.0, address: str = "127.0.0.1", inside: tuple[str, ...] = ()) -> Backend:
    """Start one that listens on `address`; `inside` comes before its command line (`ip netns exec …`)."""
    command = (*inside, sys.executable, "-S", "-c", _SERVER, name, str(delay), address)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    return Backend(name, int(await process.stdout.readline()), process, address)


@asynccontextmanager
async def backends(count: int, delay: float = 0.0) -> AsyncIterator[list[Backend]]:
    started = await asyncio.gather(*(start_backend(f"web-3fa9c1-{number}", delay) for number in range(1, count + 1)))
    try:
        yield list(started)
    finally:
        for backend in started:
            backend.kill()
        await asyncio.gather(*(backend.process.wait() for backend in started))


def http_route(servers: Iterable[Server], *, app: str = "/org/lab/test/web", hosts: tuple[str, ...] = (), path: str = "/") -> Route:
    return Route(f"{app}:http", app, "http", HttpService(hosts, path), None, tuple(servers))


def tcp_route(servers: Iterable[Server], port: int, *, app: str = "/org/lab/test/db") -> Route:
    return Route(f"{app}:sql", app, "sql", None, TcpService(port), tuple(servers))


@dataclass
class Lab:
    """One HAProxy of ours; `driver` may be replaced by another agent's."""

    folder: Path
    settings: AgentSettings
    driver: HaproxyLoadBalancer
    deaths: list[float] = field(default_factory=list)

    @property
    def http_port(self) -> int:
        return self.settings.proxy.http_port

    def died(self) -> None:
        self.deaths.append(monotonic())

    async def processes(self) -> Processes:
        return await HaproxyProcess(self.folder / "haproxy").processes()

    async def settled(self) -> Processes:
        """Return the processes once no old worker is left, so that they change no more by themselves."""

        async def alone() -> Processes | None:
            now = await self.processes()
            return None if now.old_workers else now

        found: Processes = await until("no old worker is left", alone)
        return found

    async def get(self, path: str = "/", host: str = "any.example", port: int = 0, method: str = "GET") -> tuple[int, str]:
        return await request(port or self.http_port, path, host, method)


@asynccontextmanager
async def lab(**proxy: Any) -> AsyncIterator[Lab]:
    """Start an HAProxy of our own; end it and everything of it afterwards."""
    folder = new_folder()
    settings = settings_for(folder, **proxy)
    made = Lab(folder, settings, HaproxyLoadBalancer.create(settings))
    try:
        await made.driver.start(made.died)
        yield made
    finally:
        await HaproxyLoadBalancer.create(settings).stop()
        await made.driver.close()
        shutil.rmtree(folder)


async def request(port: int, path: str = "/", host: str = "any.example", method: str = "GET") -> tuple[int, str]:
    """Send one request over a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await exchange(reader, writer, path, host, method)
    finally:
        writer.close()


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str = "/", host: str = "any.example", method: str = "GET"
) -> tuple[int, str]:
    """Send one request over this connection."""
    writer.write(f"{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    body = await _body(reader, head) if method != "HEAD" else ""
    if re.search(r"connection: close", head, re.IGNORECASE):
        writer.close()
    return int(head.split()[1]), body


async def _body(reader: asyncio.StreamReader, head: str) -> str:
    """Read as much as the head announces, or all that comes before the end."""
    length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
    return (await (reader.readexactly(int(length[1])) if length else reader.read())).decode()


class OpenLoop:
    """Sends requests at a steady rate over kept-alive connections, whatever the answers take; counts who answered and what failed."""

    def __init__(self, port: int, rate: int = 200, host: str = "any.example", path: str = "/", address: str = "127.0.0.1") -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self.slowest = 0.0
        self._address, self._port, self._rate, self._host, self._path = address, port, rate, host, path
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def total(self) -> int:
        return sum(self.answers.values()) + len(self.failures)

    async def __aenter__(self) -> OpenLoop:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        for _, writer in self._idle:
            writer.close()

    async def answered(self, more: int) -> None:
        """Wait until so many more requests have their answer."""
        goal = self.total + more

        async def reached() -> bool:
            return self.total >= goal

        await until(f"{more} more answers", reached)

    async def _run(self) -> None:
        start = monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(1_000_000):
                await asyncio.sleep(max(0.0, start + number / self._rate - monotonic()))
                group.create_task(self._one())

    async def _one(self) -> None:
        begun = monotonic()
        try:
            async with asyncio.timeout(10):
                status, body = await self._ask()
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.failures.append(repr(error))
            return
        self.slowest = max(self.slowest, monotonic() - begun)
        if status == 200:
            self.answers[body] += 1
        else:
            self.failures.append(f"{status} {body}")

    async def _ask(self) -> tuple[int, str]:
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(self._address, self._port)
        try:
            answer = await exchange(reader, writer, self._path, self._host)
        except BaseException:
            writer.close()
            raise
        if not writer.is_closing():
            self._idle.append((reader, writer))
        return answer


async def run_haproxy(config: Path, pid_file: Path) -> None:
    """Start an HAProxy that is not ours."""
    assert (await shell.run(["haproxy", "-W", "-D", "-p", str(pid_file), "-f", str(config)], limit=10)).ok
