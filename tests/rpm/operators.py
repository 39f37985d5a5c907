"""An operator who is root nowhere: a lab node is his own machine, with gestaltctl; the others let him in by ssh, and be root by sudo."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gestalt import shell
from gestalt.clock import monotonic
from tests.cluster.lab.lab import Lab
from tests.cluster.lab.nodes import File, Node

from .machine import prepare, rpm

USER = "olga"
HOME = f"/home/{USER}"
SUDOERS = f"/etc/sudoers.d/{USER}"
MAY_ALL = f"{USER} ALL=(root) NOPASSWD: ALL\n"
PATIENCE = 400.0

_DESK = ("gestalt-runtime-", "gestaltctl-")


@dataclass(frozen=True, slots=True)
class Operator:
    """Who he is on his machine and on the hosts. `lab`: his machine is the first node of it."""

    lab: Lab

    @property
    def desk(self) -> Node:
        return self.lab.nodes[0]

    @property
    def hosts(self) -> Sequence[Node]:
        return self.lab.nodes[1:]

    @property
    def zookeeper(self) -> dict[str, Any]:
        """Return what hosts.yaml says of an ensemble that is there."""
        return {"hosts": list(self.lab.ensemble.hosts)}

    async def write(self, name: str, hosts: Sequence[Node], **fields: Any) -> None:
        """Write a hosts.yaml of his; the first of the hosts is where a cluster begins."""
        named = [{"name": host.name, "address": host.address} for host in hosts]
        document = {"packages": "rpms", "zookeeper": self.zookeeper, "hosts": named, **fields}
        await self.desk.put({f"{HOME}/{name}": File(yaml.safe_dump(document).encode())})

    def words(self, name: str, *words: str) -> tuple[str, ...]:
        """Return the command by which he bootstraps what a file says, for somebody else to run."""
        return ("env", f"HOME={HOME}", "NO_COLOR=1", "gestaltctl", "bootstrap", f"{HOME}/{name}", *words)

    async def bootstrap(self, name: str, *words: str) -> shell.Completed:
        """Run it to its end."""
        return await self.desk.run("runuser", "-u", USER, "--", *self.words(name, *words), limit=PATIENCE)

    async def begin(self, unit: str, name: str, word: str) -> None:
        """Run it as a unit of his machine until it has said something."""
        options = (f"--unit={unit}", f"--uid={USER}", "--quiet", "--property=KillMode=process", "--collect")
        await self.desk.do("systemd-run", *options, *self.words(name, "--yes", "--accept-warnings"))
        deadline, said = monotonic() + PATIENCE, ""
        while word not in said:
            assert monotonic() < deadline, f"{unit} did not say {word!r}, but:\n{said}"
            await asyncio.sleep(0.1)
            said = await self.desk.do("journalctl", "--output=cat", f"--unit={unit}")

    async def signalled(self, unit: str, signal: str) -> None:
        """Have only the main process of a unit get a signal, none of its children."""
        await self.desk.do("systemctl", "kill", "--kill-who=main", f"--signal={signal}", unit)


async def employ(lab: Lab, packages: Sequence[Path]) -> Operator:
    """Make an operator of a lab."""
    desk, *hosts = lab.nodes
    for node in lab.nodes:
        await prepare(node)
        await node.do("useradd", "--create-home", "--shell", "/bin/bash", USER)
    await rpm(desk, "-i", *(str(path) for path in packages if path.name.startswith(_DESK)))
    await desk.do("mkdir", f"{HOME}/rpms", f"{HOME}/.ssh")
    await desk.do("cp", *map(str, packages), f"{HOME}/rpms")
    await desk.do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{HOME}/.ssh/id_ed25519")
    key = await desk.do("cat", f"{HOME}/.ssh/id_ed25519.pub")
    known = [f"{host.address} {await _let_in(host, key)}" for host in hosts]
    await desk.put({f"{HOME}/.ssh/known_hosts": File("\n".join([*known, ""]).encode())})
    await desk.do("chown", "-R", f"{USER}:", HOME)
    return Operator(lab)


async def allow(hosts: Sequence[Node], rules: str) -> None:
    """Say what the operator may do on hosts as root."""
    for host in hosts:
        await host.put({SUDOERS: File(rules.encode(), 0o440)})


async def _let_in(host: Node, key: str) -> str:
    """Have a host let in the operator by ssh; return its own public key."""
    files: Mapping[str, File] = {
        f"{HOME}/.ssh/authorized_keys": File(f"{key}\n".encode(), 0o600),
        "/etc/gestalt/fence.d/lab.yaml": File(b'watchdog: ""\n'),
        SUDOERS: File(MAY_ALL.encode(), 0o440),
    }
    await host.put(files)
    await host.do("chown", "-R", f"{USER}:", f"{HOME}/.ssh")
    await host.do("chmod", "0700", f"{HOME}/.ssh")
    await host.do("ssh-keygen", "-A")
    await host.do("systemctl", "restart", "ssh")
    return await host.do("cat", "/etc/ssh/ssh_host_ed25519_key.pub")
