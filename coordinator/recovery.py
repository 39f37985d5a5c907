"""After the state was restored: what runs and is not in it is kept and shown, what is lost is not replaced, until an operator confirms."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gestalt.proto.v1 import api_pb2

from .brakes import Brakes
from .decider import Decider
from .ledger import Ledger
from .nodes import Tracker
from .state import SWITCHES, Draft, State


@dataclass(frozen=True, slots=True)
class Stranger:
    """An instance that runs although no desired state knows it. `node`: its name; `app`: as its labels say, or as its id begins."""

    node: str
    instance: str
    app: str


def strangers(state: State, tracker: Tracker) -> list[Stranger]:
    """Return what nodes run and the state does not know there, by node and instance. Only while recovering: else it is on its way out."""
    if not state.switches.recovering:
        return []
    found = [
        Stranger(view.name, report.instance, report.app or report.instance.rsplit("-", 2)[0])
        for view in tracker.nodes.values()
        for report in view.unknown.values()
        if not _is_placed(state, view.id, report.instance)
    ]
    return sorted(found, key=lambda item: (item.node, item.instance))


def unknown_of(found: list[Stranger]) -> list[api_pb2.Unknown]:
    """Return instances that the state does not know as messages."""
    return [api_pb2.Unknown(node=item.node, instance=item.instance, app=item.app) for item in found]


def _is_placed(state: State, node: str, instance: str) -> bool:
    path = state.owners.get(instance)
    if path is None:
        return False
    serial = instance.rpartition("-")[2]
    return any(placed.node == node and str(placed.serial) == serial for placed in state.placed(path).instances)


def sentence(recovering: str) -> str:
    """Return why the leader holds back; empty when it is not recovering."""
    if not recovering:
        return ""
    return (
        f"the state was restored from {recovering}: what is unknown is not removed and what is lost is not replaced"
        " until an operator confirms it: gestaltctl cluster recover --confirm"
    )


class Recovery:
    """Holds the leader back while it is recovering. `begin` once the state is read."""

    def __init__(self, ledger: Ledger, brakes: Brakes, decider: Decider) -> None:
        self._ledger = ledger
        self._brakes = brakes
        self._decider = decider

    def begin(self) -> None:
        """Put the brake on if need be, and take it off when the switch moves."""
        self._brakes.recovering = sentence(self._ledger.state.switches.recovering)
        self._ledger.on_commit(self._committed)

    def _committed(self, draft: Draft) -> None:
        if ("switches", SWITCHES) not in draft.records:
            return
        after = sentence(self._ledger.state.switches.recovering)
        if after == self._brakes.recovering:
            return
        self._brakes.recovering = after
        self._decider.wake(self._ledger.state.apps)


def recovered(draft: Draft, actor: str, unknown: int) -> bool:
    """End the recovery with this draft; return whether there was one."""
    switches = draft.base.switches
    if not switches.recovering:
        return False
    draft.put(replace(switches, recovering=""))
    draft.tell("cluster.recovered", "cluster", f"{actor} ended the recovery from {switches.recovering}: {unknown} instances were unknown")
    return True
