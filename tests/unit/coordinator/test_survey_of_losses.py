"""What was lost stands in nobody's way, and no host port is given twice: the leader's own view of its nodes, as it places by it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gestalt.coordinator.advance import Case, advance
from gestalt.coordinator.capacity import Survey
from gestalt.coordinator.membership import Member
from gestalt.coordinator.nodes import Tracker, take_facts
from gestalt.coordinator.reconcile import Terms, reconcile
from gestalt.coordinator.records import App, Node, Placed, Placements, Version, instance_id
from gestalt.coordinator.state import Draft, State
from gestalt.proto.v1 import model_pb2
from gestalt.spec.schema import AppSpec
from tests.unit.coordinator.world import PATH, spec


class Leader:
    """A leader with nodes n0 …, of which it knows what agents say."""

    def __init__(self, racks: str) -> None:
        self.now, self.state = 1000.0, State()
        self.tracker = Tracker(lambda: self.now, self.state.nodes, fenced=True)
        for number, rack in enumerate(racks):
            name = f"n{number}"
            self.change(Node(name, name, incarnation=1, labels={"rack": rack}))
            view = self.tracker.node(name, name)
            self.tracker.member(view, Member(1, "b", agent_running=True))
            self.tracker.connected(view)
            take_facts(self.tracker, view, model_pb2.Facts(cpu=8, memory=2**33, runtimes=["docker"], port_first=3000, port_last=4000))
            self.tracker.inventory(view, (), ())
        self.survey = Survey(self.state, self.tracker, lambda: self.now)

    def change(self, node: Node) -> None:
        draft = Draft(self.state)
        draft.put_node(node)
        self.state.apply(draft)

    def lose(self, name: str) -> None:
        self.tracker.member(self.tracker.nodes[name], None)
        self.tracker.disconnected(self.tracker.nodes[name])
        self.change(replace(self.state.nodes[name], lost=1))

    def has(self, described: AppSpec, *placed: Placed) -> None:
        draft = Draft(self.state)
        draft.put_version(Version(PATH, 1, "hash", described, "", ""))
        draft.put_app(App(PATH, "u", 0, 1, 1, 1, described.instances, "", next_serial=10))
        draft.put_placements(Placements(PATH, placed))
        self.state.apply(draft)
        for item in placed:
            self.tracker.sighting(instance_id(self.app, item.serial)).ready_since = 0.0

    @property
    def app(self) -> App:
        return self.state.apps[PATH]

    def look(self) -> str:
        described = self.state.version(PATH, 1).spec
        views = self.tracker.views(self.app, self.state.placed(PATH).instances)
        decision = reconcile(self.app, described, views, 0.0, Terms(strategy="rolling"))
        draft = Draft(self.state)
        why = advance(draft, Case(self.app, described, views, "t"), decision, self.survey.ground(PATH))
        self.state.apply(draft)
        return why

    def gone(self, serial: int) -> None:
        sighting = self.tracker.sighting(instance_id(self.app, serial))
        sighting.gone = sighting.stopping = True

    def there(self) -> list[tuple[int, str]]:
        return [(item.serial, item.node) for item in self.state.placed(PATH).instances if item.serial >= 10]


@pytest.mark.parametrize(
    ("racks", "constraint"),
    [
        ("aab", {"operator": "cluster"}),
        ("ab", {"operator": "unique"}),
        ("ab", {"operator": "max-per", "value": "1"}),
    ],
    ids=lambda value: value if isinstance(value, str) else value["operator"],
)
def test_what_is_lost_with_a_rack_is_replaced_whatever_limits_how_it_is_distributed(racks: str, constraint: dict[str, str]) -> None:
    leader = Leader(racks)
    leader.change(replace(leader.state.nodes["n1"], labels={"rack": "a"})) if constraint["operator"] != "cluster" else None
    wanted = 2 if constraint["operator"] == "cluster" else 1
    described = spec(instances=wanted, ports=[], checks=[], placement={"constraints": [{"attribute": "rack", **constraint}]})
    leader.has(described, *(Placed(serial + 1, 1, f"n{serial}", ()) for serial in range(wanted)))
    for number in range(wanted):
        leader.lose(f"n{number}")
    assert leader.look() == ""
    assert leader.there() == [(10 + number, f"n{wanted}") for number in range(wanted)]


def test_a_fixed_host_port_is_given_once_on_a_node_also_while_room_is_kept() -> None:
    leader = Leader("ab")
    described = spec(instances=2, checks=[], ports=[{"name": "http", "container_port": 80, "host_port": 8080}])
    leader.has(described, Placed(1, 1, "n0", (8080,)))
    leader.change(replace(leader.state.nodes["n0"], admin="draining", forced=True))
    for _ in range(3):
        leader.look()
        leader.gone(1)
    assert leader.there() == [(10, "n1")]
    assert leader.state.reservations.on("n1").ports == {8080: 1}


def test_how_busy_a_machine_is_wakes_nobody() -> None:
    leader = Leader("a")
    view = leader.tracker.nodes["n0"]
    facts = model_pb2.Facts()
    facts.CopyFrom(view.facts)
    facts.load, facts.memory_available, facts.disk_free = 3.5, 12345, 67890
    assert not take_facts(leader.tracker, view, facts)
    assert view.facts.load == 3.5
    facts.cpu = 4
    assert take_facts(leader.tracker, view, facts)
