"""Gestalt on a lab's nodes, set up with the commands that operators use.

`install`: the daemons run from this checkout's .venv by wrappers in /usr/bin; the units are those of `systemd/`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from gestalt.appliance.supervisor import as_root

from .cluster import PATIENCE, SECRET, Cluster
from .lab import FILES, Lab
from .nodes import CHECKOUT, File, LabError, Node

_PROGRAMS = ("gestaltctl", "gestalt-agent", "gestalt-coordinator", "gestalt-fence")
_TOKEN_LIMIT = 60.0


async def install(lab: Lab, *, init: Sequence[str] = (), join: Sequence[str] = (), coordinators: int = 3) -> Cluster:
    """Make a cluster of all nodes of a lab; returns when every node is ready.

    Args:
        lab: it has no cluster yet.
        init: more options of `gestaltctl cluster init`, such as `--session 1s`.
        join: more options of `gestalt-agent join` on the other nodes.
        coordinators: on how many of the first nodes; on one where there are fewer nodes than that.

    Raises:
        LabError: a step failed; the sentence holds what it said.
    """
    _check_python()
    await asyncio.gather(*map(_put_programs, lab.nodes))
    return await assemble(lab, init=init, join=join, coordinators=coordinators)


async def assemble(lab: Lab, *, init: Sequence[str] = (), join: Sequence[str] = (), coordinators: int = 3) -> Cluster:
    """Make a cluster of nodes that have programs and units already, as `install` does.

    Raises:
        LabError: a step failed; the sentence holds what it said.
    """
    first = lab.nodes[0]
    await first.do("gestaltctl", "cluster", "init", "--zookeeper", ",".join(lab.ensemble.hosts), "--address", first.address, *init)
    await _enable(first, "coordinator", "fence", "agent")
    deciding = lab.nodes[:coordinators] if len(lab.nodes) >= coordinators else lab.nodes[:1]
    cluster = Cluster(lab, await _client(lab, deciding), deciding)
    await cluster.until_answering(PATIENCE)
    await asyncio.gather(*(join_node(cluster, node, join, is_coordinator=node in deciding) for node in lab.nodes[1:]))
    await cluster.until_ready(PATIENCE)
    return cluster


def _check_python() -> None:
    python = (CHECKOUT / ".venv/bin/python").resolve()
    if not python.is_relative_to("/usr"):
        raise LabError(f".venv was made with {python}, which nodes do not see: remove .venv, then PATH=/usr/bin:$PATH make setup")


async def _put_programs(node: Node) -> None:
    files = {
        f"/usr/bin/{name}": File(
            f'#!/bin/sh\nPYTHONDONTWRITEBYTECODE=1 PYTHONFAULTHANDLER=1 exec {CHECKOUT}/.venv/bin/{name} "$@"\n'.encode(), 0o755
        )
        for name in _PROGRAMS
    }
    seen = f"[Service]\nBindReadOnlyPaths={CHECKOUT}\n"  # a checkout below /tmp is hidden from a service with a private one
    files["/etc/systemd/system/gestalt-coordinator.service.d/checkout.conf"] = File(seen.encode())
    units = (CHECKOUT / "systemd").glob("*.service")
    files |= {f"/etc/systemd/system/{unit.name}": File(as_root(unit.read_text(encoding="utf-8")).encode()) for unit in units}
    await node.put(files)
    await node.do("systemctl", "daemon-reload")


async def _enable(node: Node, *parts: str) -> None:
    units = [f"gestalt-{part}" for part in parts]
    if "fence" in parts:  # the watchdog that a node sees is that of this machine
        await node.do("sh", "-c", """echo 'watchdog: ""' >>/etc/gestalt/fence.yaml""")
    done = await node.run("systemctl", "--quiet", "enable", "--now", *units)
    if not done.ok:
        journal = await node.run("journalctl", "--no-pager", "--lines", "40", "--output", "cat", *(f"--unit={unit}" for unit in units))
        raise LabError(f"{node.name}: {', '.join(units)}: {done.complaint()}\n{journal.stdout.decode()}")


async def join_node(cluster: Cluster, node: Node, more: Sequence[str] = (), *, is_coordinator: bool = False) -> None:
    """Have a machine with programs and units join a cluster, and its daemons started, now and at each boot.

    Raises:
        LabError: a step failed; the sentence holds what it said.
    """
    if is_coordinator:
        token = await _token(cluster, "--coordinator")
        await node.do("gestalt-coordinator", "join", "--token-file", "-", "--address", node.address, stdin=token.encode())
        await _enable(node, "coordinator")
    token = await _token(cluster)
    await node.do("gestalt-agent", "join", "--token-file", "-", "--address", node.address, *more, stdin=token.encode())
    await _enable(node, "fence", "agent")


async def _token(cluster: Cluster, *options: str) -> str:
    """Return a token, asking again while no leader answers."""
    await cluster.until_answering()
    return await cluster.ctl("node", "token", *options, limit=_TOKEN_LIMIT)


async def _client(lab: Lab, coordinators: Sequence[Node]) -> Path:
    """Fetch the administrator's context to the host; return the file. It names all coordinators, those that are still to come too."""
    first = lab.nodes[0]
    folder = FILES / lab.group
    folder.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = yaml.safe_load(await first.do("cat", "/etc/gestalt/client.yaml"))
    context = document["contexts"][document["current"]]
    for field in ("ca", "certificate", "key"):
        pem = Path(context[field])
        context[field] = pem.name
        await _fetch(first, str(pem), folder / pem.name)
    await _fetch(first, "/etc/gestalt/zookeeper-coordinator.secret", folder / SECRET)
    port = context["coordinators"][0].rpartition(":")[2]
    context["coordinators"] = [f"{node.address}:{port}" for node in coordinators]
    file = folder / "client.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    return file


async def _fetch(node: Node, path: str, target: Path) -> None:
    target.touch(mode=0o600)
    target.write_text(await node.do("cat", path) + "\n", encoding="utf-8")
