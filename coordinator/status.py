"""Is it well, and if not why: the whole cluster on one page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gestalt import __version__, clock
from gestalt.proto.v1 import api_pb2

from .election import Candidate
from .present import Presenter
from .records import Coordinator, TaskState
from .recovery import strangers, unknown_of
from .slices import gather
from .store import formats
from .upgrade import common_format

AWAY = ("unreachable", "agent-down", "lost")


@dataclass(frozen=True, slots=True)
class Status:
    """Answers how the cluster is. `since`: monotonic time of taking office."""

    cluster_id: str
    mode: str
    store: str
    presenter: Presenter
    since: float
    roster: Callable[[], Sequence[Candidate]] = tuple
    """The coordinators that run, the leader first; none in an appliance."""

    async def reply(self) -> api_pb2.StatusReply:
        """Return how everything is: each app and each node as it was when it was looked at."""
        state = self.presenter.ledger.state
        apps = await gather(self.presenter.app(state.apps[path]) for path in tuple(state.apps) if path in state.apps)
        nodes = await gather(self.presenter.nodes())
        failed = [f"{app.path} has failed: {app.message}" for app in apps if app.state == "failed"]
        degraded = [f"{app.path} is degraded: {app.message}" for app in apps if app.state == "degraded"]
        unheard = [f"{app.path}: {app.message}" for app in apps if app.state == "unknown"]
        away = [f"node {node.name} is {node.state}: it {node.reason.removeprefix(node.name + ' ')}" for node in nodes if node.state in AWAY]
        switches, brakes = state.switches, self.presenter.decider.brakes
        held = brakes.why_not("")
        stops = [f"automatic replacement is paused {switches.paused}"] if switches.paused else [held] if held else []
        troubles = [f"node {node.name}: {problem}" for node in nodes if node.state != "maintenance" for problem in node.problems]
        if not nodes:
            away = ["no node has joined: is gestalt-agent running?"]
        return api_pb2.StatusReply(
            cluster_id=self.cluster_id,
            epoch=self.presenter.ledger.epoch,
            version=__version__,
            mode=self.mode,
            state="failed" if failed or not nodes else "degraded" if degraded or away or troubles or unheard or stops else "well",
            problems=[*failed, *stops, *away, *unheard, *degraded, *troubles],
            apps=len(apps),
            instances=sum(app.count for app in apps if not app.stopped),
            healthy=sum(app.healthy for app in apps),
            nodes=len(nodes),
            nodes_ready=sum(node.state == "ready" for node in nodes),
            tasks_running=sum(task.state is TaskState.RUNNING for task in state.tasks.values()),
            uptime=clock.monotonic() - self.since,
            store=self.store,
            paused=switches.paused,
            strategy=switches.strategies.cluster,
            pool_strategies=switches.strategies.pools,
            recovering=bool(switches.recovering),
            unknown=unknown_of(strangers(state, self.presenter.tracker)),
            held=held,
            coordinators=coordinators(self.roster(), state.coordinators),
            format=self.presenter.ledger.format,
            newest_format=common_format(formats.newest(), self.roster()),
        )


def coordinators(roster: Sequence[Candidate], known: Mapping[str, Coordinator]) -> list[api_pb2.Coordinator]:
    """Return those that run, the leader first, and then those that should."""
    shown = [
        api_pb2.Coordinator(
            name=item.name,
            address=item.address,
            leader=place == 0,
            version=item.version,
            state="leads" if place == 0 else "stands by",
        )
        for place, item in enumerate(roster)
    ]
    here = {item.name for item in roster}
    away = [api_pb2.Coordinator(name=item.name, address=item.address, state="away") for item in known.values() if item.name not in here]
    return shown + (away if shown else [])
