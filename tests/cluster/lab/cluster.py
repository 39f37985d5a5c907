"""A Gestalt cluster in a lab, driven by `gestaltctl` on the host and looked at from outside."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import yaml

from gestalt import shell
from gestalt.client import Api, Client, Target
from gestalt.clock import monotonic
from gestalt.cluster.secrets import COORDINATOR_IDENTITY
from gestalt.config import ZooKeeperSettings
from gestalt.ctl.contexts import load
from gestalt.ctl.shapes import shape
from gestalt.errors import GestaltError
from gestalt.plugin.runtime import DriverUnavailable
from gestalt.plugins.loadbalancer.haproxy_routes import ServerState
from gestalt.plugins.loadbalancer.haproxy_servers import parse_servers
from gestalt.plugins.loadbalancer.haproxy_socket import ask
from gestalt.proto.v1 import api_pb2

from .engine import WEB_IMAGE
from .invariants import Ledger, Listed, ProxyServer, Sample, disagreements, lost_changes, wrong_counts, wrong_servers
from .lab import Lab
from .nodes import CHECKOUT, LabError, Node
from .observer import Eyes, Observer

PATIENCE = 60.0
SECRET = "zookeeper.secret"
"""The coordinators' secret, beside the file of contexts."""

_PAUSE = 0.2
_PATIENCE_OF_READS = 2.0
_UNTOLD = (6, 7)
"""Exit codes of gestaltctl after which nobody knows whether a change took place: unreachable, timed out."""

_DEATH = "status=(4/ILL|6/ABRT|7/BUS|8/FPE|11/SEGV)|code=dumped|Fatal Python error|result 'watchdog'"
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

    async def ask(self, pick: Callable[[Api], grpc.aio.UnaryUnaryMultiCallable[Any, Any]], request: Any) -> Any:
        """Return the leader's answer to a read; much cheaper than a run of gestaltctl, so made for polling.

        Raises:
            LabError: there was none.
        """
        context = load(self.client).choose("")
        target = Target(context.coordinators, context.ca, context.certificate, context.key)
        try:
            async with Client(target, patience=_PATIENCE_OF_READS) as client:
                return await client.call(pick, request, limit=_PATIENCE_OF_READS)
        except GestaltError as error:
            raise LabError(f"nobody answers: {error.message}") from error

    async def states(self) -> dict[str, str]:
        """Return the state of each node by its name."""
        reply = await self.ask(lambda api: api.nodes.List, api_pb2.ListNodesRequest())
        return {node.name: node.state for node in reply.nodes}

    async def leader(self) -> Node:
        """Return the node whose coordinator leads."""
        status = await self.ask(lambda api: api.cluster.Status, api_pb2.StatusRequest())
        name = next(item.name for item in status.coordinators if item.leader)
        return next(node for node in self.lab.nodes if node.name == name)

    async def view(self) -> tuple[dict[str, int], tuple[Listed, ...]]:
        """Return the wanted count of each app, and all instances as Gestalt lists them, of one moment."""
        answer = shape(await self.ask(lambda api: api.apps.List, api_pb2.ListRequest(with_instances=True)))
        return {app["path"]: app["count"] for app in answer["apps"]}, tuple(map(_listed, answer["instances"]))

    async def listed(self) -> tuple[Listed, ...]:
        """Return all instances as `gestaltctl ps` lists them."""
        return tuple(map(_listed, (await self.json("ps"))["instances"]))

    async def proxies(self, nodes: Collection[Node]) -> dict[str, tuple[ProxyServer, ...]]:
        """Return the servers of the HAProxy of each of these nodes, as it tells them.

        Raises:
            LabError: one does not tell.
        """
        found = await asyncio.gather(*map(_servers, nodes))
        return dict(zip((node.name for node in nodes), found, strict=True))

    async def observer(self) -> Observer:
        """Return one that watches the nodes and who leads."""
        store = ZooKeeperSettings(hosts=self.lab.ensemble.hosts, identity=COORDINATOR_IDENTITY, secret_file=self.client.with_name(SECRET))
        return Observer(await Eyes.on(self.lab.nodes), store)

    async def problems(self, nodes: Collection[Node] | None = None) -> list[str]:
        """Return what is not as it should be when nothing fails any more, judged on the HAProxies of these nodes (default: all)."""
        try:
            apps, listed = await self.view()
            eyes, proxies = await asyncio.gather(Eyes.on(self.lab.nodes), self.proxies(self.lab.nodes if nodes is None else nodes))
        except LabError as error:
            return [str(error)]
        seen: Sample = await asyncio.to_thread(eyes.look)
        routed = [item for item in listed if item.endpoint]
        wrong = lost_changes(self.ledger, apps) + wrong_counts(apps, listed)
        return wrong + disagreements(listed, seen) + wrong_servers(routed, proxies)

    async def until_converged(self, nodes: Collection[Node] | None = None, limit: float = PATIENCE) -> None:
        """Wait until everything is as wanted, listed and real alike, for gestaltctl too: invariants 1 and 4 of the design.

        Raises:
            LabError: it is not within `limit` seconds; the sentences tell what is wrong.
        """
        wrong: list[str] = []

        async def whole() -> bool:
            wrong[:] = await self.problems(nodes)
            if not wrong:
                _, told = await self.view()
                shown = await self.listed()
                wrong[:] = [] if sorted(map(str, told)) == sorted(map(str, shown)) else [f"gestaltctl lists {shown}, the leader {told}"]
            return not wrong

        await self.until("the cluster to converge", whole, limit, lambda: "\n".join(wrong))

    async def until_ready(self, limit: float = PATIENCE) -> None:
        """Wait until every node is ready.

        Raises:
            LabError: one is not within `limit` seconds.
        """
        said: list[str] = []

        async def ready() -> bool:
            try:
                states = await self.states()
            except LabError as error:
                said[:] = [str(error)]
                return False
            said[:] = [str(states)]
            return list(states.values()) == ["ready"] * len(self.lab.nodes)

        await self.until("all nodes to be ready", ready, limit, lambda: "".join(said))

    async def until_answering(self, limit: float = PATIENCE) -> None:
        """Wait until a leader answers.

        Raises:
            LabError: none does within `limit` seconds.
        """

        async def answers() -> bool:
            try:
                await self.states()
            except LabError:
                return False
            return True

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

    async def deaths(self) -> list[str]:
        """Return what the journals of the running nodes say of daemons that died of themselves: of a fault in the code, or hung."""
        found = await asyncio.gather(
            *(node.run("journalctl", "--no-pager", "--unit=gestalt-*", "--grep", _DEATH) for node in self.lab.nodes)
        )
        lines = (line for done in found for line in done.stdout.decode(errors="replace").splitlines())
        return [line for line in lines if not line.startswith("-- ")]

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
        "checks": [{"kind": "http", "path": "/index.html", "interval": "500ms", "timeout": "500ms", "failures": 5}],
        "restart": {"backoff": "100ms"},
        "stop": {"grace": "1s", "drain": "1s"},
        "security": {"capabilities": ["NET_BIND_SERVICE", "SETUID", "SETGID"]},
        **fields,
    }


def _listed(item: dict[str, Any]) -> Listed:
    observed = item["observed"] or {"attempt": 0, "phase": "unknown", "health": "unknown"}
    endpoint = f"{item['address']}:{item['ports'][0]['host_port']}" if item["ports"] else ""
    return Listed(item["app"], item["id"], observed["attempt"], item["node"], observed["phase"], observed["health"], endpoint)


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
