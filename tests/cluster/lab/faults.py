"""What can go wrong with nodes, the links between them and their processes; and everything right again.

Links are cut on the host's bridge (nft, family bridge, a table of each lab's own): the nodes' own rules stay as they are.
What one process cut, another can heal: nothing is remembered here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, Signals

from gestalt import shell

from . import nodes as power
from .nodes import LabError, Node

PARTS = {
    "agent": "gestalt-agent",
    "coordinator": "gestalt-coordinator",
    "fence": "gestalt-fence",
    "zookeeper": "zookeeper",
    "docker": "docker",
}
"""The units of a node by the name of the part. That of HAProxy is not among them: the agent starts it, and nobody else."""

_FOR_GOOD = 'systemctl kill --kill-who=main --signal=SIGKILL "$1" && systemctl stop "$@"'
_RECOVER = """
systemctl --quiet stop lab-slow-disk 2>/dev/null
pkill --signal CONT --exact haproxy
for unit in "$@"; do
  ! systemctl --quiet is-enabled "$unit" 2>/dev/null || units="$units $unit"
done
[ -n "$units" ] || exit 0
kill -s CONT $(systemctl show --property=MainPID --value $units | grep -vx 0) 2>/dev/null
systemctl reset-failed $units
systemctl start $units
"""
_SLOW_DISK = """
exec systemd-run --quiet --collect --unit=lab-slow-disk strace -f -qq -o /dev/null -e trace=fsync,fdatasync \\
  -e inject=fsync,fdatasync:delay_enter={delay} -p $(systemctl show --property=MainPID --value {unit})
"""
_WAKERS = {"docker": ("docker.socket",)}
_CHAINS = ("forward", "input", "output")


@dataclass(frozen=True, slots=True)
class Faults:
    """The faults of one lab."""

    group: str
    nodes: Sequence[Node]

    async def kill(self, node: Node) -> None:
        """Take a node's power; its disks stay."""
        await power.kill(node)

    async def boot(self, node: Node) -> None:
        """Give a killed node power again; returns when its systemd is up."""
        await power.boot(node)

    async def pause(self, node: Node) -> None:
        """Hang a node: nothing in it moves, but it still answers pings and TCP connects."""
        await power.pause(node)

    async def unpause(self, node: Node) -> None:
        """Let a hung node go on where it was."""
        await power.unpause(node)

    async def cut(self, one: Node, other: Node) -> None:
        """Lose everything between two nodes, both ways."""
        await self._drop(f"ip saddr {one.address} ip daddr {other.address}", f"ip saddr {other.address} ip daddr {one.address}")

    async def cut_one_way(self, source: Node, target: Node) -> None:
        """Lose every packet from source to target; those the other way arrive. No TCP connection works either way."""
        await self._drop(f"ip saddr {source.address} ip daddr {target.address}")

    async def refuse(self, source: Node, target: Node) -> None:
        """Lose new TCP connections from source to target, as a wrong firewall does; those there are and the other way work."""
        await self._drop(f"ip saddr {source.address} ip daddr {target.address} tcp flags & (syn | ack) == syn")

    async def isolate(self, node: Node) -> None:
        """Lose everything to and from a node, for the host too."""
        await self._drop(f"ip saddr {node.address}", f"ip daddr {node.address}")

    async def split(self, minority: Sequence[Node]) -> None:
        """Cut some nodes off from all others; among themselves, and with the host, they talk."""
        mine, theirs = _addresses(minority), _addresses([node for node in self.nodes if node not in minority])
        await self._drop(f"ip saddr {mine} ip daddr {theirs}", f"ip saddr {theirs} ip daddr {mine}")

    async def lose(self, one: Node, other: Node, percent: int) -> None:
        """Lose some of the packets between two nodes at random, both ways."""
        chance = f"numgen random mod 100 < {percent}"
        both = ((one.address, other.address), (other.address, one.address))
        await self._drop(*(f"ip saddr {source} ip daddr {target} {chance}" for source, target in both))

    async def cut_ports(self, node: Node, *ports: int) -> None:
        """Lose all TCP between a node and the others to and from these ports; everything else passes."""
        mine, theirs = node.address, _addresses([other for other in self.nodes if other != node])
        ways = (f"ip saddr {mine} ip daddr {theirs}", f"ip saddr {theirs} ip daddr {mine}")
        numbers = "{ " + ", ".join(map(str, ports)) + " }"
        await self._drop(*(f"{way} tcp {end} {numbers}" for way in ways for end in ("dport", "sport")))

    async def narrow(self, kbit: int, queue: str = "500ms") -> None:
        """Have each node receive at most so many kbit a second; what comes faster waits in a queue of that length, then is lost."""
        links = await asyncio.gather(*map(_link, self.nodes))
        for link in filter(None, links):
            await _tc("replace", link, "tbf", "rate", f"{kbit}kbit", "burst", "3kb", "latency", queue)

    async def heal(self) -> None:
        """Have all links whole, and as fast as they are."""
        await _nft(f"table bridge {self._table} {{}}\ndelete table bridge {self._table}\n")
        for link in filter(None, await asyncio.gather(*map(_link, self.nodes))):
            if "tbf" in await _tc("show", link):
                await _tc("del", link)

    async def freeze(self, node: Node, part: str) -> None:
        """Stop a part where it is: it holds its connections and answers nothing."""
        await self._signal(node, part, SIGSTOP)

    async def thaw(self, node: Node, part: str) -> None:
        """Let a frozen part go on."""
        await self._signal(node, part, SIGCONT)

    async def crash(self, node: Node, part: str) -> None:
        """Kill a part. systemd, or the agent for HAProxy, starts it again."""
        await self._signal(node, part, SIGKILL)

    async def crash_for_good(self, node: Node, part: str) -> None:
        """Kill a part that has a unit; it stays dead until `start`, or until the node boots."""
        await node.do("sh", "-c", _FOR_GOOD, "crash", _unit(part), *_WAKERS.get(part, ()))

    async def life(self, node: Node, part: str) -> str:
        """Return what tells one life of a part's unit from the next: its main process; empty unless it says that it is ready."""
        done = await node.do("systemctl", "show", "--property=ActiveState,MainPID", _unit(part))
        said = dict(line.split("=", 1) for line in done.split())
        return said["MainPID"] if said["ActiveState"] == "active" else ""

    @asynccontextmanager
    async def without_watchdogs(self, node: Node) -> AsyncIterator[None]:
        """Have a node's systemd leave alone what does not report to it meanwhile: it ends a frozen fence after 20 s, others after 30."""
        await node.do("systemctl", "service-watchdogs", "no")
        try:
            yield
        finally:
            await node.do("systemctl", "service-watchdogs", "yes")

    async def stop(self, node: Node, part: str) -> None:
        """Stop a part's unit in order; it stays away until `start`, or until the node boots."""
        await node.do("systemctl", "stop", *_WAKERS.get(part, ()), _unit(part))

    async def start(self, node: Node, part: str) -> None:
        """Start a part's unit; returns when it says that it is ready."""
        await node.do("systemctl", "start", _unit(part))

    async def restart(self, node: Node, part: str) -> None:
        """Restart a part's unit; returns when it says that it is ready."""
        await node.do("systemctl", "restart", _unit(part))

    async def slow_disk(self, node: Node, seconds: float) -> None:
        """Have each fsync of the node's ZooKeeper server take so much longer, until `heal_all` or until the server ends."""
        script = _SLOW_DISK.format(unit=PARTS["zookeeper"], delay=round(seconds * 1e6))
        await node.do("sh", "-c", script)

    async def heal_all(self) -> None:
        """Have all links whole, all nodes up and all their parts at work. Idempotent."""
        await self.heal()
        await asyncio.gather(*map(self._recover, self.nodes))

    async def _recover(self, node: Node) -> None:
        if await power.paused(node):
            await power.unpause(node)
        if not await node.pid():
            await power.boot(node)
        await node.do("sh", "-c", _RECOVER, "recover", *PARTS.values())

    async def _signal(self, node: Node, part: str, number: Signals) -> None:
        if part == "haproxy":
            await node.do("pkill", "--signal", str(number.value), "--exact", part)
            return
        await node.do("systemctl", "kill", "--kill-who=main", f"--signal={number.name}", _unit(part))

    @property
    def _table(self) -> str:
        return "gestalt_lab_" + re.sub(r"\W", "_", self.group)

    async def _drop(self, *matches: str) -> None:
        """Lose the packets that any of the matches describes, on every way through the bridge, in one transaction."""
        table = f"bridge {self._table}"
        lines = [f"add table {table}"]
        for hook in _CHAINS:
            lines.append(f"add chain {table} {hook} {{ type filter hook {hook} priority 0; }}")
            lines += [f"add rule {table} {hook} {match} drop" for match in matches]
        await _nft("\n".join(lines) + "\n")


def _unit(part: str) -> str:
    """Return the unit of a part.

    Raises:
        LabError: it has none.
    """
    if part == "haproxy":
        raise LabError("haproxy is not started and stopped by hand, the agent does it: it can be frozen, thawed and crashed, no more")
    if part not in PARTS:
        raise LabError(f"{part!r} is no part of a node; there are {', '.join(PARTS)} and haproxy")
    return PARTS[part]


def _addresses(nodes: Sequence[Node]) -> str:
    return "{ " + ", ".join(node.address for node in nodes) + " }"


async def _link(node: Node) -> str:
    """Return the host's end of a node's link; empty while the node is down."""
    pid = await node.pid()
    if not pid:
        return ""
    index = Path(f"/proc/{pid}/root/sys/class/net/eth0/iflink").read_text(encoding="ascii").strip()
    return next(each.name for each in Path("/sys/class/net").iterdir() if (each / "ifindex").read_text(encoding="ascii").strip() == index)


async def _tc(verb: str, link: str, *kind: str) -> str:
    done = await shell.run(("tc", "qdisc", verb, "dev", link, *(() if verb == "show" else ("root",)), *kind), limit=10)
    if not done.ok:
        raise LabError(f"tc qdisc {verb}: {done.complaint()}")
    return done.stdout.decode()


async def _nft(script: str) -> None:
    done = await shell.run(("nft", "-f", "-"), stdin=script.encode(), limit=10)
    if not done.ok:
        raise LabError(f"nft: {done.complaint()}")
