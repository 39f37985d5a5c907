"""`gestaltctl appliance status`: whether the parts of the appliance work, each looked at itself."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from gestalt.appliance.layout import Layout
from gestalt.appliance.lifecycle import agent_settings_of, node_of, target_of
from gestalt.appliance.supervisor import Daemon, Supervisor, daemons_of, supervisor_of
from gestalt.client import Client
from gestalt.config import AgentSettings
from gestalt.errors import GestaltError, Kind
from gestalt.plugin.registry import find_driver
from gestalt.plugin.runtime import DriverUnavailable, RuntimeDriver
from gestalt.proto.v1 import api_pb2
from gestalt.units import show_duration

_CONNECT_LIMIT = 2.0


@dataclass(frozen=True, slots=True)
class PartState:
    """One part. `needed`: the appliance is not well without it. `detail`: one sentence for people."""

    part: str
    ok: bool
    state: str
    detail: str = ""
    needed: bool = True


async def look(layout: Layout) -> list[PartState]:
    """Return the state of every part, daemons first.

    Raises:
        GestaltError: NOT_FOUND, when there is no appliance here.
    """
    agent = agent_settings_of(layout)
    supervisor = supervisor_of(layout)
    daemons = [await _daemon(supervisor, daemon) for daemon in daemons_of(layout)]
    parts = await asyncio.gather(_api(layout, agent), _proxy(agent), *(_runtime(name, agent) for name in agent.runtimes))
    return [*daemons, *(state for part in parts for state in part)]


async def _daemon(supervisor: Supervisor, daemon: Daemon) -> PartState:
    state = await supervisor.state(daemon)
    if not state.pid:
        return PartState(daemon.name, False, "stopped", "start it with: gestaltctl appliance up")
    return PartState(daemon.name, True, "running", f"pid {state.pid}, {show_duration(state.age)}, {supervisor.words}")


async def _api(layout: Layout, agent: AgentSettings) -> list[PartState]:
    target = target_of(layout)
    try:
        async with Client(target, patience=0, connect_limit=_CONNECT_LIMIT) as client:
            status = await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest(), limit=5.0)
            node = await node_of(client, agent.node_id)
    except GestaltError as error:
        return [PartState("api", False, "unreachable" if error.kind is Kind.UNAVAILABLE else "failed", error.message)]
    words = (
        f"{target.coordinators[0]}, version {status.version}, {status.apps} apps, {status.healthy} of {status.instances} instances healthy"
    )
    parts = [PartState("api", True, "ready", words)]
    if node is None:
        return [*parts, PartState("node", False, "lost", f"the coordinator knows no node {agent.node_name}")]
    return [*parts, PartState("node", node.state == "ready", node.state, "; ".join(node.problems) or node.name)]


async def _proxy(agent: AgentSettings) -> list[PartState]:
    if not agent.proxy.enabled:
        return []
    host = "127.0.0.1" if agent.proxy.bind in {"*", "0.0.0.0", "::"} else agent.proxy.bind
    where = f"{host}:{agent.proxy.http_port}"
    try:
        async with asyncio.timeout(_CONNECT_LIMIT):
            _, writer = await asyncio.open_connection(host, agent.proxy.http_port)
    except (OSError, TimeoutError) as error:
        return [PartState(agent.loadbalancer, False, "stopped", f"{where} does not accept connections: {error or 'no answer'}")]
    writer.close()
    return [PartState(agent.loadbalancer, True, "running", f"accepts connections on {where}")]


async def _runtime(name: str, agent: AgentSettings) -> list[PartState]:
    """Return what the product says. One runtime that works is enough, and the node tells when an app misses the other."""
    driver: RuntimeDriver = find_driver("runtime", name).create(agent)
    try:
        facts = await driver.probe()
    except DriverUnavailable as error:
        return [PartState(name, False, "unreachable", str(error), needed=len(agent.runtimes) == 1)]
    finally:
        await driver.close()
    return [PartState(name, True, "ready", ", ".join(f"{key} {value}" for key, value in facts.items()))]
