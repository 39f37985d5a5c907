"""Real ZooKeeper servers on loopback, from Debian's package, and a proxy that cuts the way to them.

A server is up within about a second; share one among tests (a fixture with `running`) and give each test a root of its own (`new_root`).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from gestalt.config import TlsSettings, ZooKeeperSettings
from gestalt.zk.acl import digest_id

PATIENCE = 30.0
_PREFIX = "gestalt-zookeeper-"
_MARK = "-Dgestalt.test.owner="
_JARS = ("/etc/zookeeper/conf", "/usr/share/java/zookeeper.jar")
_JAVA = (  # a server keeps its last 500 writes on the heap, with three times their bytes; it ends when there is no room
    *("java", "-Xms32m", "-Xmx800m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-XX:-UsePerfData"),
    *("-Djava.net.preferIPv4Stack=true", "-Dzookeeper.root.logger=WARN,CONSOLE"),
)
_MAIN = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
SUPER_SECRET = "of the tests' administrator"
"""With which the identity "super" may do everything, also change which servers there are."""

_RECONFIGURABLE = f"-Dzookeeper.DigestAuthenticationProvider.superDigest={digest_id('super', SUPER_SECRET).removeprefix('digest:')}"
_NETTY = (
    "-Dzookeeper.serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory",
    "-Dzookeeper.ssl.clientAuth=need",
)


def new_root() -> str:
    """Return a root that nobody has used."""
    return f"/test-{uuid.uuid4().hex[:12]}"


@functools.cache
def _owner() -> str:
    return _name_of_process(os.getpid())


def _name_of_process(pid: int) -> str:
    """Return what tells a process from another one that gets its number later; empty when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return f"{pid}-{fields[19]}"


def end_leftovers() -> None:
    """End the servers, and remove the folders, of test runs that do not run any more."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            words = (process / "cmdline").read_text().split("\0")
            owner = next((word.removeprefix(_MARK) for word in words if word.startswith(_MARK)), "")
            if owner and _name_of_process(int(owner.split("-")[0])) != owner:
                os.kill(int(process.name), signal.SIGKILL)
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).rpartition("-")[0]
        if _name_of_process(int(owner.split("-")[0])) != owner:
            shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@dataclass(frozen=True)
class ServerTls:
    """PEM files of a server: its certificate followed by its PKCS#8 key, and the authority of its clients."""

    identity: Path
    ca: Path


class Ensemble:
    """Servers numbered from 0. Each has a folder, and keeps its ports over a kill and a start."""

    def __init__(self, folder: Path, servers: int, tick: int, tls: ServerTls | None) -> None:
        self._folder = folder
        self._tick = tick
        self._tls = tls
        ports = free_ports(3 * servers)
        self.ports = ports[:servers]
        self._peers = list(zip(ports[servers : 2 * servers], ports[2 * servers :], strict=True))
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._grown = False

    @property
    def folder(self) -> Path:
        """Where each server has its data, in a folder of its number."""
        return self._folder

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(f"127.0.0.1:{port}" for port in self.ports)

    def settings(self, root: str = "", *, tls: TlsSettings | None = None, identity: str = "", secret: str = "") -> ZooKeeperSettings:
        """Return how to reach it, with a new root unless one is given."""
        secret_file = None
        if identity:
            secret_file = self._folder / f"secret-{identity}"
            secret_file.write_text(secret)
        return ZooKeeperSettings(hosts=self.hosts, root=root or new_root(), tls=tls, identity=identity, secret_file=secret_file)

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(process.pid for process in self._processes.values())

    def start(self, index: int) -> None:
        """Start a server; `wait` tells when it serves."""
        folder = self._folder / str(index)
        folder.mkdir(exist_ok=True)
        if not (folder / "zoo.cfg").exists():  # once it has run, the servers that there are now are noted there
            (folder / "myid").write_text(f"{index + 1}\n")
            (folder / "zoo.cfg").write_text(self._configuration(index, folder))
        jars = (*_JARS, "/usr/share/java/*") if self._tls else _JARS
        with (folder / "log").open("ab") as log:
            self._processes[index] = subprocess.Popen(
                [
                    *_JAVA,
                    _RECONFIGURABLE,
                    *(_NETTY if self._tls else ()),
                    f"{_MARK}{_owner()}",
                    "-cp",
                    ":".join(jars),
                    _MAIN,
                    str(folder / "zoo.cfg"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _configuration(self, index: int, folder: Path) -> str:
        port = "secureClientPort" if self._tls else "clientPort"
        several = len(self._peers) > 1
        lines = [
            *(f"tickTime={self._tick}", "initLimit=20", "syncLimit=4", f"dataDir={folder}", "maxClientCnxns=0"),
            *((f"{port}={self.ports[index]}", f"{port}Address=127.0.0.1") if self._tls or not several else ("reconfigEnabled=true",)),
            *(f"minSessionTimeout={2 * self._tick}", "maxSessionTimeout=60000", "4lw.commands.whitelist=*", "admin.enableServer=false"),
        ]
        if self._tls:
            lines += [f"ssl.keyStore.location={self._tls.identity}", "ssl.keyStore.type=PEM", "ssl.keyStore.password="]
            lines += [f"ssl.trustStore.location={self._tls.ca}", "ssl.trustStore.type=PEM", "ssl.trustStore.password="]
        if several:
            lines += [
                self.line(number) for number in range(len(self._peers)) if number == index or number in self._processes or not self._grown
            ]
        return "\n".join(lines) + "\n"

    def line(self, index: int) -> str:
        """Return how the servers note this one."""
        peer, election = self._peers[index]
        client = "" if self._tls else f";127.0.0.1:{self.ports[index]}"
        return f"server.{index + 1}=127.0.0.1:{peer}:{election}:participant{client}"

    def peers(self, index: int) -> tuple[int, int]:
        """Return the ports at which the others reach a server, and elect."""
        return self._peers[index]

    def grow(self) -> int:
        """Start one more server, which follows those that run; return its index. It has no vote before they are told to take it in."""
        client, peer, election = free_ports(3)
        self._grown = True
        self.ports.append(client)
        self._peers.append((peer, election))
        index = len(self.ports) - 1
        self.start(index)
        self.wait(index)
        return index

    def kill(self, index: int) -> None:
        """Kill -9; its data stay."""
        process = self._processes.pop(index)
        process.kill()
        process.wait()

    def pause(self, index: int) -> None:
        """Stop it as a hanging machine does: its connections stay open."""
        self._processes[index].send_signal(signal.SIGSTOP)

    def resume(self, index: int) -> None:
        self._processes[index].send_signal(signal.SIGCONT)

    def mode(self, index: int) -> str:
        """Return "standalone", "leader" or "follower"; empty while it does not serve."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.ports[index]), timeout=1) as connection:
            connection.sendall(b"srvr")
            answer = b""
            while piece := connection.recv(4096):
                answer += piece
            for line in answer.decode().splitlines():
                if line.startswith("Mode: "):
                    return line.removeprefix("Mode: ")
        return ""

    def leader(self) -> int:
        """Return the server that leads now; -1 when none does."""
        modes = {index: self.mode(index) for index in self._processes}
        return next((index for index, mode in modes.items() if mode in ("leader", "standalone")), -1)

    def wait(self, index: int) -> None:
        """Block until a server serves."""
        end = time.monotonic() + PATIENCE
        while not self._serves(index):
            assert self._processes[index].poll() is None, f"ZooKeeper ended: {self._words(index)}"
            assert time.monotonic() < end, f"ZooKeeper does not serve within {PATIENCE:g} s: {self._words(index)}"
            time.sleep(0.02)

    def _serves(self, index: int) -> bool:
        if not self._tls:
            return bool(self.mode(index))
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.ports[index]), timeout=1):
            return True
        return False

    def _words(self, index: int) -> str:
        return (self._folder / str(index) / "log").read_text(errors="replace")[-2000:]

    def start_all(self) -> None:
        """Start all servers and block until they serve."""
        for index in range(len(self.ports)):
            self.start(index)
        for index in range(len(self.ports)):
            self.wait(index)

    def end(self) -> None:
        """Kill all servers and remove their data."""
        for index in list(self._processes):
            self.kill(index)
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def running(servers: int = 1, *, tick: int = 500, tls: ServerTls | None = None) -> Iterator[Ensemble]:
    """Run servers; for fixtures that outlive one event loop."""
    end_leftovers()
    ensemble = Ensemble(Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{_owner()}-")), servers, tick, tls)
    try:
        ensemble.start_all()
        yield ensemble
    finally:
        ensemble.end()


@asynccontextmanager
async def zookeeper(servers: int = 1, *, tick: int = 500, tls: ServerTls | None = None) -> AsyncIterator[Ensemble]:
    """Run servers for the length of a block."""
    context = running(servers, tick=tick, tls=tls)
    ensemble = await asyncio.to_thread(context.__enter__)
    try:
        yield ensemble
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


class Cutter:
    """A TCP proxy on loopback, which can lose what goes either way, and cut all connections."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.loses_requests = False
        self.loses_answers = False
        self.accepts = True
        self.lost = 0

    @property
    def host(self) -> str:
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Close every connection at once, both ways, and be honest with the next ones."""
        self.loses_requests = self.loses_answers = False
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.accepts:
            writer.transport.abort()
            return
        to_server, from_server = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, from_server}
        await asyncio.gather(self._pass(reader, from_server, True), self._pass(to_server, writer, False))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_request: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if self.loses_requests if is_request else self.loses_answers:
                    self.lost += len(data)
                    continue
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def cutter(target: int) -> AsyncIterator[Cutter]:
    """Run a proxy to a port on loopback for the length of a block."""
    proxy = Cutter(target)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()


async def until(what: str, condition: Callable[[], object], *, within: float = PATIENCE) -> None:
    """Wait for a condition; a condition that returns an awaitable is awaited."""
    end = time.monotonic() + within
    while True:
        seen = condition()
        if isinstance(seen, Awaitable):
            seen = await seen
        if seen:
            return
        assert time.monotonic() < end, f"not within {within:g} s: {what}"
        await asyncio.sleep(0.01)
