"""A Gestalt cluster in a lab, driven by `gestaltctl` on the host and looked at from outside."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gestalt import shell
from gestalt.clock import monotonic
from gestalt.plugin.runtime import DriverUnavailable
from gestalt.plugins.loadbalancer.haproxy_routes import ServerState
from gestalt.plugins.loadbalancer.haproxy_servers import parse_servers
from gestalt.plugins.loadbalancer.haproxy_socket import ask

from .engine import WEB_IMAGE
from .invariants import Ledger, Listed, ProxyServer, Sample, disagreements, lost_changes, wrong_counts, wrong_servers
from .lab import Lab
from .nodes import CHECKOUT, LabError, Node
from .observer import Eyes

PATIENCE = 60.0
_PAUSE = 0.2
_UNTOLD = (6, 7)
"""Exit codes of gestaltctl after which nobody knows whether a change took place: unreachable, timed out."""

_PROXY_SOCKET = "run/gestalt/agent/haproxy/worker.sock"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster. `client`: the file of contexts that points to it. What is changed through it is noted in `ledger`."""

    lab: Lab
    client: Path
    coordinators: tuple[Node, ...]
    ledger: Ledger = field(default_factory=Ledger)

    async def run(self, *words: str, stdin: str | None = None, limit: float = 90.0) -> shell.Completed:
        """Run gestaltctl on the host to its end, whatever that is."""
        argv = (str(CHECKOUT / ".venv/bin/gestaltctl"), *words)
        return await shell.run(argv, stdin=stdin and stdin.encode(), limit=limit, env={"GESTALT_CONFIG": str(self.client)})

    async def ctl(self, *words: str, stdin: str | None = None, limit: float = 90.0) -> str:
        """Run gestaltctl, which must succeed; return what it printed.

        Raises:
            LabError: it did not.
        """
        done = await self.run(*words, stdin=stdin, limit=limit)
        if not done.ok:
            said = (done.stdout + done.stderr).decode(errors="replace")
            raise LabError(f"gestaltctl {' '.join(words)}: exit {done.code}\n{said}")
        return done.stdout.decode()

    async def json(self, *words: str) -> Any:
        """Return the answer of gestaltctl as an object.

        Raises:
            LabError: there was none.
        """
        return json.loads(await self.ctl(*words, "--output", "json"))

    async def launch(self, spec: dict[str, Any]) -> None:
        """Launch an app and wait until it is as wanted."""
        await self.change(spec["path"], spec.get("instances", 1), "launch", "--file", "-", stdin=yaml.safe_dump(spec))

    async def scale(self, app: str, count: int) -> None:
        """Scale an app and wait until it is as wanted."""
        await self.change(app, count, "scale", app, str(count))

    async def delete(self, app: str) -> None:
        """Delete an app and wait until it is gone."""
        await self.change(app, None, "delete", app, "--yes")

    async def change(self, app: str, count: int | None, *words: str, stdin: str | None = None) -> None:
        """Run a changing command of gestaltctl and note in the ledger what is known of its outcome.

        Raises:
            LabError: it did not succeed.
        """
        done = await self.run(*words, stdin=stdin)
        if done.ok:
            self.ledger.acknowledged(app, count)
            return
        if done.code in _UNTOLD:
            self.ledger.uncertain(app, count)
        said = (done.stdout + done.stderr).decode(errors="replace")
        raise LabError(f"gestaltctl {' '.join(words)}: exit {done.code}\n{said}")

    async def states(self) -> dict[str, str]:
        """Return the state of each node by its name."""
        return {node["name"]: node["state"] for node in (await self.json("nodes"))["nodes"]}

    async def leader(self) -> Node:
        """Return the node whose coordinator leads."""
        status = await self.json("status")
        name = next(item["name"] for item in status["coordinators"] if item["leader"])
        return next(node for node in self.lab.nodes if node.name == name)

    async def listed(self) -> tuple[Listed, ...]:
        """Return all instances as Gestalt lists them."""
        answer = await self.json("ps")
        names = {node["id"]: node["name"] for node in (await self.json("nodes"))["nodes"]}
        return tuple(_listed(item, names) for item in answer["instances"])

    async def apps(self) -> dict[str, int]:
        """Return the wanted count of each app."""
        return {app["path"]: app["count"] for app in (await self.json("ps", "--apps"))["apps"]}

    async def proxies(self, nodes: Collection[Node]) -> dict[str, tuple[ProxyServer, ...]]:
        """Return the servers of the HAProxy of each of these nodes, as it tells them.

        Raises:
            LabError: one does not tell.
        """
        found = await asyncio.gather(*map(_servers, nodes))
        return dict(zip((node.name for node in nodes), found, strict=True))

    async def problems(self, nodes: Collection[Node] | None = None) -> list[str]:
        """Return what is not as it should be when nothing fails any more, judged on these nodes (default: all)."""
        try:
            apps, listed = await asyncio.gather(self.apps(), self.listed())
            eyes, proxies = await asyncio.gather(Eyes.on(self.lab.nodes), self.proxies(self.lab.nodes if nodes is None else nodes))
        except LabError as error:
            return [str(error)]
        seen: Sample = await asyncio.to_thread(eyes.look)
        routed = [item for item in listed if item.endpoint]
        wrong = lost_changes(self.ledger, apps) + wrong_counts(apps, listed)
        return wrong + disagreements(listed, seen) + wrong_servers(routed, proxies)

    async def until_converged(self, nodes: Collection[Node] | None = None, limit: float = PATIENCE) -> None:
        """Wait until everything is as wanted, listed and real alike: invariants 1 and 4 of the design.

        Raises:
            LabError: it is not within `limit` seconds; the sentences tell what is wrong.
        """

        async def whole() -> bool:
            wrong[:] = await self.problems(nodes)
            return not wrong

        wrong: list[str] = []
        await self.until("the cluster to converge", whole, limit, lambda: "\n".join(wrong))

    async def until_ready(self, limit: float = PATIENCE) -> None:
        """Wait until every node is ready.

        Raises:
            LabError: one is not within `limit` seconds.
        """
        seen: dict[str, str] = {}

        async def ready() -> bool:
            seen.update(await self.states())
            return len(seen) == len(self.lab.nodes) and set(seen.values()) == {"ready"}

        await self.until("all nodes to be ready", ready, limit, lambda: str(seen))

    async def until_answering(self, limit: float = PATIENCE) -> None:
        """Wait until a leader answers.

        Raises:
            LabError: none does within `limit` seconds.
        """

        async def answers() -> bool:
            return (await self.run("nodes")).ok

        await self.until("a leader to answer", answers, limit)

    async def until(
        self, what: str, condition: Callable[[], Awaitable[bool]], limit: float = PATIENCE, state: Callable[[], str] = lambda: ""
    ) -> None:
        """Wait for a condition.

        Raises:
            LabError: it does not hold within `limit` seconds; the sentence holds `state()` and the ends of the daemons' logs.
        """
        deadline = monotonic() + limit
        while not await condition():
            if monotonic() > deadline:
                raise LabError(f"waited {limit:g} s for {what}; {state()}\n{await self.logs()}")
            await asyncio.sleep(_PAUSE)

    async def logs(self, lines: int = 25) -> str:
        """Return the ends of the daemons' logs of all nodes that are up."""
        found = await asyncio.gather(*(_journal(node, lines) for node in self.lab.nodes))
        return "\n".join(found)


def web(path: str, **fields: Any) -> dict[str, Any]:
    """Return the description of a small web app, reached by the host name that is its own last name."""
    return {
        "path": path,
        "image": WEB_IMAGE,
        "instances": 1,
        "resources": {"cpu": "10m", "memory": "16M"},
        "ports": [{"name": "http", "container_port": 80, "http": {"hosts": [path.rpartition("/")[2]]}}],
        "checks": [{"kind": "http", "path": "/index.html", "interval": "500ms", "timeout": "1s", "failures": 3}],
        "restart": {"backoff": "100ms"},
        "stop": {"grace": "1s", "drain": "1s"},
        "security": {"capabilities": ["NET_BIND_SERVICE", "SETUID", "SETGID"]},
        **fields,
    }


def _listed(item: dict[str, Any], names: dict[str, str]) -> Listed:
    observed = item["observed"] or {"attempt": 0, "phase": "unknown", "health": "unknown"}
    endpoint = f"{item['address']}:{item['ports'][0]['host_port']}" if item["ports"] else ""
    node = names.get(item["node"], item["node"])
    return Listed(item["app"], item["id"], observed["attempt"], node, observed["phase"], observed["health"], endpoint)


async def _servers(node: Node) -> tuple[ProxyServer, ...]:
    try:
        answer = await ask(Path(f"/proc/{await node.pid()}/root/{_PROXY_SOCKET}"), ["show servers state"])
        entries = parse_servers(answer)
    except (DriverUnavailable, ValueError) as error:
        raise LabError(f"HAProxy of {node.name}: {error}") from error
    return tuple(
        ProxyServer(name, f"{entry.address}:{entry.port}", entry.state is ServerState.READY) for (_, name), entry in entries.items()
    )


async def _journal(node: Node, lines: int) -> str:
    done = await node.run("journalctl", "--no-pager", "--lines", str(lines), "--output", "short-precise", "--unit=gestalt-*")
    return f"--- {node.name}\n{(done.stdout + done.stderr).decode(errors='replace')}"
