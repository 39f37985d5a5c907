"""A model of several nodes that are lost, cut off, come back: the truth on each, and what the leader is told of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from gestalt.coordinator.membership import Life, Member, noted
from gestalt.coordinator.nodes import NodeView, Tracker
from gestalt.coordinator.progress import Progress
from gestalt.coordinator.reconcile import Decision
from gestalt.coordinator.records import Node, Placed, instance_id
from gestalt.coordinator.scheduler.values import Capacity
from gestalt.coordinator.state import Draft
from gestalt.coordinator.trials import Trials
from gestalt.model import Observed
from tests.unit.coordinator.world import PATH, World, node, spec

UNREACHABLE_AFTER = 4.0


@dataclass
class Machine:
    """The truth on one node: whether it has a membership, of which incarnation, whether its agent runs, and reaches the leader."""

    incarnation: int = 1
    member: bool = True
    agent: bool = True
    linked: bool = True
    running: dict[str, Observed] = field(default_factory=dict)


class Fleet(World):
    """A cluster of nodes n1, n2 … under one app. `times`: lease and kill that the memberships tell."""

    times: tuple[float, float] = (0.0, 0.0)

    def __init__(self, count: int = 3, instances: int = 3, **fields: object) -> None:
        self.machines = {f"n{number}": Machine() for number in range(1, count + 1)}
        super().__init__()
        self.apply(spec(instances=instances, **fields))

    def __post_init__(self) -> None:
        for name in self.machines:
            self.state.nodes[name] = Node(name, name, incarnation=1)
        self.take_office()

    def take_office(self) -> None:
        """A new leader: it knows what is durable, and learns of memberships before it decides; then agents connect."""
        self.tracker = Tracker(lambda: self.now, self.state.nodes, unreachable_after=UNREACHABLE_AFTER, fenced=True)
        self.progress, self.trials = Progress(), Trials()
        self.enrol()
        for name, machine in self.machines.items():
            self.tracker.node(name, name)
            self._tell_member(name)
            machine.linked, linked = False, machine.linked
            if linked:
                self.connect(name)

    def restart_coordinator(self) -> None:
        self.take_office()

    def view_of(self, name: str) -> NodeView:
        return self.tracker.node(name, name)

    def _tell_member(self, name: str) -> None:
        machine = self.machines[name]
        member = Member(machine.incarnation, "boot", machine.agent, *self.times) if machine.member else None
        self.tracker.member(self.view_of(name), member)
        after = noted(self.state.nodes[name], member)
        if after != self.state.nodes[name]:
            draft = Draft(self.state)
            draft.put_node(after)
            self.state.apply(draft)

    # -- faults and their ends --

    def lose(self, name: str, *, dead: bool = True) -> None:
        """End the membership. A dead machine takes its instances with it, one that is cut off goes on."""
        machine = self.machines[name]
        machine.member = False
        if dead:
            machine.running.clear()
        self._tell_member(name)
        self.cut(name)

    def cut(self, name: str) -> None:
        if self.machines[name].linked:
            self.machines[name].linked = False
            self.tracker.disconnected(self.view_of(name))

    def agent_down(self, name: str) -> None:
        self.machines[name].agent = False
        self._tell_member(name)
        self.cut(name)

    def rejoin(self, name: str) -> None:
        """A new membership, if there is none, and an agent that runs but has not connected yet."""
        machine = self.machines[name]
        if not machine.member:
            machine.member, machine.incarnation = True, machine.incarnation + 1
        machine.agent = True
        self._tell_member(name)

    def connect(self, name: str) -> None:
        """The agent's stream stands: it gives its inventory, and removes what it is not told to run."""
        machine = self.machines[name]
        if not machine.agent or machine.linked:
            return
        machine.linked = True
        self.tracker.connected(self.view_of(name))
        ids = [instance_id(self.app, item.serial) for item in self.placed if item.node == name] if PATH in self.state.apps else []
        self.tracker.inventory(self.view_of(name), ids, [machine.running[item] for item in ids if item in machine.running])
        self._remove_untold(name)

    def back(self, name: str) -> None:
        self.rejoin(name)
        self.connect(name)

    # -- the leader and the agents --

    def _nodes(self) -> tuple[Capacity, ...]:
        used = {name: {port for item in self.placed if item.node == name for port in item.ports} for name in self.machines}
        return tuple(
            node(
                name,
                ready=self.tracker.standing(name).life is Life.READY and self.view_of(name).heard and self._is_open(name),
                why_not=self.tracker.standing(name).reason,
                ports=frozenset(used[name]),
                port_cursor=max(used[name], default=0) + 1,
                same_app=sum(item.node == name for item in self.placed),
            )
            for name in self.machines
        )

    def _is_open(self, name: str) -> bool:
        """Whether a migration that is under way may go there."""
        left = {item.node for item in self.placed if item.serial in self.app.moving}
        return self.app.target in ("", name) and name not in left

    def _remove_untold(self, name: str) -> None:
        told = {instance_id(self.app, item.serial) for item in self.placed if item.node == name} if PATH in self.state.apps else set()
        for identity in self.machines[name].running.keys() - told:
            del self.machines[name].running[identity]

    def decide(self) -> Decision | None:
        decision = super().decide()
        for name, machine in self.machines.items():
            if machine.linked:
                self._remove_untold(name)
        return decision

    def _job(self, item: Placed) -> bool:
        self.running = self.machines[item.node].running
        return self.machines[item.node].linked and super()._job(item)

    def _do(self, item: Placed) -> None:
        self.running, self.view = self.machines[item.node].running, self.view_of(item.node)
        super()._do(item)

    def ready(self) -> list[Placed]:
        """Return the placed instances that serve in truth, whatever the leader knows."""
        if PATH not in self.state.apps:
            return []
        return [item for item in self.placed if not item.stop and self._truth(item)]

    def _truth(self, item: Placed) -> bool:
        seen = self.machines[item.node].running.get(instance_id(self.app, item.serial))
        return seen is not None and seen.ready

    def settle(self, limit: int = 1000) -> None:
        for _ in range(limit):
            before = (self.state.apps.get(PATH), self.placed, {name: dict(item.running) for name, item in self.machines.items()})
            self.decide()
            if PATH in self.state.apps:
                self.agent_step()
            if before == (self.state.apps.get(PATH), self.placed, {name: item.running for name, item in self.machines.items()}):
                return
        raise AssertionError(f"no end after {limit} steps: {self.placed}")

    def heal(self) -> None:
        """Let faults end, time pass, and everything come to rest."""
        for _ in range(4):
            self.settle()
            self.pass_time(61)

    def on(self, name: str) -> list[int]:
        """Return the serials placed on a node."""
        return [item.serial for item in self.placed if item.node == name]


def settled(count: int = 3, instances: int = 3, **fields: object) -> Fleet:
    fleet = Fleet(count, instances, **fields)
    fleet.settle()
    return fleet
