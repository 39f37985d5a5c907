"""`gestaltctl appliance up` and `down`: the daemons in order, each waited for until it can do its work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from grpc_health.v1 import health_pb2, health_pb2_grpc

from gestalt.appliance.layout import Layout
from gestalt.appliance.supervisor import Daemon, Supervisor, daemons_of, supervisor_of
from gestalt.client import Client, Target
from gestalt.clock import monotonic
from gestalt.config import AgentSettings, CoordinatorSettings
from gestalt.errors import Detail, GestaltError, Kind
from gestalt.proto.v1 import api_pb2, model_pb2
from gestalt.settings_file import load_settings

Say = Callable[[str], None]
"""Shows a sentence of progress."""

_PAUSE = 0.1


def target_of(layout: Layout) -> Target:
    """Return where the appliance's coordinator is and how its administrator speaks to it."""
    coordinator = load_settings(layout.coordinator_settings, CoordinatorSettings)
    return Target([coordinator.listen], layout.pki / "ca.crt", layout.pki / "admin.crt", layout.pki / "admin.key")


def agent_settings_of(layout: Layout) -> AgentSettings:
    """Return the agent's settings.

    Raises:
        GestaltError: NOT_FOUND, when there is no appliance here.
    """
    for file in (layout.agent_settings, layout.coordinator_settings):
        if not file.exists():
            where = "on this machine" if layout.is_machine else f"below {layout.root}"
            root = "" if layout.is_machine else f" --root {layout.root}"
            raise GestaltError(
                Kind.NOT_FOUND, f"there is no appliance {where}: {file} is missing", hint=f"make it with: gestaltctl appliance init{root}"
            )
    return load_settings(layout.agent_settings, AgentSettings)


async def up(layout: Layout, say: Say, limit: float) -> None:
    """Start what does not run and wait until the coordinator answers and the node is ready. Idempotent.

    Raises:
        GestaltError: a daemon ended, or `limit` seconds were not enough; says what the daemon said last.
    """
    supervisor = supervisor_of(layout)
    coordinator, agent = daemons_of(layout)
    node = agent_settings_of(layout).node_id
    deadline = monotonic() + limit
    async with Client(target_of(layout), patience=0, connect_limit=1.0) as client:
        await _start(supervisor, coordinator, say)
        await _wait(supervisor, coordinator, "answers", lambda: _serving(client), deadline)
        say("the coordinator answers")
        await _start(supervisor, agent, say)
        await _wait(supervisor, agent, "is ready", lambda: _node_ready(client, node), deadline)
        say("the node is ready")


async def down(layout: Layout, say: Say) -> None:
    """Stop the daemons in reverse order. Instances and HAProxy go on. Idempotent."""
    supervisor = supervisor_of(layout)
    for daemon in reversed(daemons_of(layout)):
        ran = await supervisor.stop(daemon)
        say(f"{daemon.name} {'has stopped' if ran else 'did not run'}")


async def node_of(client: Client, node_id: str) -> model_pb2.Node | None:
    """Return the node as the coordinator knows it."""
    reply = await client.call(lambda api: api.nodes.List, api_pb2.ListNodesRequest(), limit=5.0)
    return next((node for node in reply.nodes if node.id == node_id), None)


async def _start(supervisor: Supervisor, daemon: Daemon, say: Say) -> None:
    if await supervisor.start(daemon):
        say(f"{daemon.name} starts ({supervisor.words})")
    else:
        say(f"{daemon.name} runs already")


async def _wait(supervisor: Supervisor, daemon: Daemon, goal: str, reached: Callable[[], Awaitable[str]], deadline: float) -> None:
    """Return when `reached` returns no obstacle any more."""
    while obstacle := await reached():
        state = await supervisor.state(daemon)
        if not (state.pid or state.coming):
            raise await _failure(supervisor, daemon, Kind.FAILED, "ended; the last it said")
        if monotonic() > deadline:
            raise await _failure(
                supervisor, daemon, Kind.TIMED_OUT, f"was waited for in vain until it {goal}: {obstacle}; the last it said"
            )
        await asyncio.sleep(_PAUSE)


async def _failure(supervisor: Supervisor, daemon: Daemon, kind: Kind, what: str) -> GestaltError:
    lines = [Detail("", line) for line in await supervisor.last_words(daemon)]
    return GestaltError(kind, f"{daemon.name} {what}:", details=lines, hint=f"all of it: {supervisor.log_of(daemon)}")


async def _serving(client: Client) -> str:
    """Return why the coordinator does not serve yet, empty when it does."""
    try:
        reply = await client.call(lambda api: health_pb2_grpc.HealthStub(api.channel).Check, health_pb2.HealthCheckRequest(), limit=2.0)
    except GestaltError as error:
        return _passing(error)
    return "" if reply.status == health_pb2.HealthCheckResponse.SERVING else "it does not serve yet"


async def _node_ready(client: Client, node_id: str) -> str:
    try:
        node = await node_of(client, node_id)
    except GestaltError as error:
        return _passing(error)
    if node is None:
        return "it has not registered"
    return "" if node.state == "ready" else f"the node is {node.state}: {'; '.join(node.problems) or 'no problem is known'}"


def _passing(error: GestaltError) -> str:
    """Return the sentence of an error that may go away by waiting; raise any other."""
    if error.kind in {Kind.UNAVAILABLE, Kind.TIMED_OUT}:
        return error.message
    raise error
