"""Small networks of namespaces, with programs in them that talk to each other: what is let through is seen by trying."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gestalt import shell

_NAMES = "gestalt-net-"
SILENCE = 0.6
"""Seconds without an answer that count as none; an answer between two namespaces takes a millisecond."""

_SERVER = """
import asyncio, sys
async def serve(reader, writer):
    while line := await reader.readline():
        writer.write(line)
class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport): self.transport = transport
    def datagram_received(self, data, peer): self.transport.sendto(data, peer)
async def main():
    for port in map(int, sys.argv[1:]):
        await asyncio.start_server(serve, "0.0.0.0", port)
        await asyncio.get_running_loop().create_datagram_endpoint(Echo, ("0.0.0.0", port))
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""

_CLIENT = """
import socket, sys
host, port, kind, silence = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
link = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
link.settimeout(silence)
try:
    link.connect((host, port))
except OSError:
    print("refused", flush=True)
    sys.exit()
print("connected", flush=True)
asked = 0
for _ in sys.stdin:
    asked += 1
    try:
        link.send(b"%d\\n" % asked)
        heard = b""
        while not heard.endswith(b"%d\\n" % asked):
            heard += link.recv(1000)
        print("answered", flush=True)
    except OSError:
        print("silent", flush=True)
"""


@dataclass
class Talk:
    """A client: `connected`, and then whether the server answers."""

    process: asyncio.subprocess.Process
    connected: bool

    async def answered(self) -> bool:
        """Say something; return whether it came back within SILENCE. What came late counts the next time."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        return await self.process.stdout.readline() == b"answered\n"


@dataclass
class Namespace:
    """A machine with an address. Programs in it end with it."""

    name: str
    address: str
    _processes: list[asyncio.subprocess.Process] = field(default_factory=list)

    @property
    def inside(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name)

    async def run(self, *argv: str) -> str:
        done = await shell.run([*self.inside, *argv], limit=10)
        assert done.ok, done.complaint()
        return done.stdout.decode()

    async def serve(self, *ports: int) -> None:
        """Answer on these ports, TCP and UDP."""
        server = await self._start(_SERVER, *map(str, ports))
        assert server.stdout is not None
        assert await server.stdout.readline() == b"ready\n"

    async def talk(self, to: Namespace | str, port: int, kind: str = "tcp") -> Talk:
        address = to if isinstance(to, str) else to.address
        client = await self._start(_CLIENT, address, str(port), kind, str(SILENCE))
        assert client.stdout is not None
        return Talk(client, await client.stdout.readline() == b"connected\n")

    async def reaches(self, to: Namespace | str, port: int, kind: str = "tcp") -> bool:
        """Say whether a new conversation is answered."""
        talk = await self.talk(to, port, kind)
        return talk.connected and await talk.answered()

    async def _start(self, program: str, *arguments: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *self.inside, sys.executable, "-S", "-c", program, *arguments, stdin=pipe, stdout=pipe
        )
        self._processes.append(process)
        return process

    async def end(self) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.kill()
            await process.wait()
        await shell.run(["ip", "netns", "delete", self.name], limit=10)


@asynccontextmanager
async def namespaces(*addresses: str) -> AsyncIterator[tuple[Namespace, ...]]:
    """Have machines with these addresses, not connected yet; what killed test runs have left is cleared away first."""
    for old in Path("/run/netns").glob(f"{_NAMES}*") if Path("/run/netns").exists() else ():
        if not Path("/proc", old.name.removeprefix(_NAMES).split("-")[0]).exists():
            await shell.run(["ip", "netns", "delete", old.name], limit=10)
    async with AsyncExitStack() as stack:
        made = []
        for number, address in enumerate(addresses):
            space = Namespace(f"{_NAMES}{os.getpid()}-{number}", address)
            await succeed("ip", "netns", "add", space.name)
            stack.push_async_callback(space.end)
            await succeed("ip", "-n", space.name, "link", "set", "lo", "up")
            made.append(space)
        yield tuple(made)


async def connect(one: Namespace, other: Namespace, addresses: tuple[str, str] = ("", "")) -> None:
    """Put a cable between two machines, with these addresses at its ends; by default with their own."""
    ends = [(one, f"to{other.name[-1]}", addresses[0] or one.address), (other, f"to{one.name[-1]}", addresses[1] or other.address)]
    (_, first, _), (_, second, _) = ends
    await succeed("ip", "-n", one.name, "link", "add", first, "type", "veth", "peer", "name", second, "netns", other.name)
    for space, device, address in ends:
        await succeed("ip", "-n", space.name, "address", "add", f"{address}/24", "dev", device)
        await succeed("ip", "-n", space.name, "link", "set", device, "up")


async def succeed(*argv: str) -> None:
    done = await shell.run(list(argv), limit=10)
    assert done.ok, done.complaint()
