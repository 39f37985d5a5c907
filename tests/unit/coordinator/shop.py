"""A model of several apps that depend on each other, on one node: what the leader decides about each, and an agent that does as told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from gestalt.coordinator import changes
from gestalt.coordinator.advance import Case, advance, steps
from gestalt.coordinator.dependencies import begun, held
from gestalt.coordinator.gate import Gate
from gestalt.coordinator.nodes import Preparation, Tracker
from gestalt.coordinator.preparations import Preparations, Readiness
from gestalt.coordinator.progress import Progress
from gestalt.coordinator.reconcile import Terms, reconcile
from gestalt.coordinator.records import App, Node, Placed, Step, Task, instance_id
from gestalt.coordinator.state import Draft, State, encode
from gestalt.coordinator.store.base import Document
from gestalt.model import Health, Observed, Phase
from gestalt.spec.dependencies import in_order
from gestalt.spec.schema import AppSpec
from tests.unit.coordinator.world import AT, node

_AREA = "/org/ws/env/"


def app(name: str, *needs: str, image: str = "one", instances: int = 1, **fields: object) -> AppSpec:
    base = {"path": _AREA + name, "image": image, "instances": instances, "depends_on": [_AREA + other for other in needs]}
    return AppSpec.model_validate(base | {"checks": [{"kind": "exec", "command": ["ok"], "grace": 0}]} | fields)


@dataclass
class Shop:
    """`sick`: images whose instances never become ready. `absent`: those that the node cannot get. `prepares`: it can be asked to."""

    sick: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()
    prepares: bool = False
    now: float = 1000.0
    state: State = field(default_factory=State)
    running: dict[str, Observed] = field(default_factory=dict)
    asked: int = 0
    readiness: Readiness = field(default_factory=Readiness)

    def __post_init__(self) -> None:
        self.state.nodes["n1"] = Node("n1", "n1")
        self.take_office()

    def take_office(self) -> None:
        """A new leader: what is durable is read again, the rest is told again."""
        kinds = ("app", "version", "placements", "task", "node")
        documents = [Document(kind, key, encode(record), 1) for kind in kinds for key, record in self.state.table(kind).items()]
        self.state = State()
        self.state.load(tuple(documents))
        self.tracker, self.progress = Tracker(lambda: self.now), Progress()
        self.gate = Gate(self.state, self.tracker)
        self.view = self.tracker.node("n1", "n1")
        self.preparations = Preparations(self.state, self.tracker, lambda _: None, lambda: self.asked + 1)
        self.view.prepares = self.prepares
        self.tracker.connected(self.view)
        self.tracker.inventory(self.view, list(self.state.owners), list(self.running.values()))

    def ask(self, change: object, *arguments: object, **how: object) -> Task | None:
        self.asked += 1
        draft = Draft(self.state)
        task: Task | None = change(draft, *arguments, self._asked(self.asked), **how)  # type: ignore[operator]
        self.state.apply(draft)
        return task

    @staticmethod
    def _asked(number: int) -> changes.Asked:
        return changes.Asked("tester", AT, 0, f"task{number}", f"{number:06x}")

    def apply(self, *specs: AppSpec) -> list[Task | None]:
        """Describe several apps in one request, as the API does."""
        together = {spec.path: spec.depends_on for spec in specs}
        draft, tasks = Draft(self.state), []
        for path in in_order(together, lambda path: [other for other in together[path] if other in together]):
            self.asked += 1
            spec = next(spec for spec in specs if spec.path == path)
            tasks.append(changes.describe(draft, None, spec, (), self._asked(self.asked), together=together))
        self.state.apply(draft)
        return tasks

    def app(self, name: str) -> App:
        return self.state.apps[_AREA + name]

    def placed(self, name: str) -> tuple[Placed, ...]:
        return self.state.placed(_AREA + name).instances

    def task(self, name: str) -> Task:
        return [task for task in self.state.tasks.values() if task.app == _AREA + name][-1]

    def images(self, name: str) -> list[str]:
        """Return the images that are at work, or on the way."""
        return [self._spec(_AREA + name, item.version).image for item in self.placed(name) if not item.stop]

    def healthy(self, path: str) -> bool:
        """Tell whether all wanted instances of an app are ready in truth, in the wanted version."""
        found = self.state.apps[path]
        mine = [item for item in self.state.placed(path).instances if item.version == found.version and not item.stop]
        ready = [item for item in mine if (seen := self.running.get(instance_id(found, item.serial))) and seen.ready]
        return 0 < found.wanted <= len(ready)

    def _spec(self, path: str, version: int) -> AppSpec:
        return self.state.version(path, version).spec

    def wait(self, name: str) -> str:
        return self.gate.look(self.app(name)).why

    def case(self, found: App) -> Case:
        views = self.tracker.views(found, self.state.placed(found.path).instances)
        newest = self._spec(found.path, max(found.version, *(view.placed.version for view in views), 0))
        return Case(found, self._spec(found.path, found.version), views, AT, strategy=newest.update.strategy)

    def steps(self, name: str) -> tuple[Step, ...]:
        found = self.app(name)
        wait = self.gate.look(found)
        return steps(self.case(found), self.task(name), "", wait)

    def decide(self, name: str) -> None:
        """Take one look, as the leader does."""
        path = _AREA + name
        found = self.state.apps.get(path)
        if found is None:
            return
        draft, wait = Draft(self.state), self.gate.look(found)
        if found.awaiting and (not wait.why or wait.is_changing):
            self.progress.forget(path)
        if found.awaiting and not wait.why and not found.paused:
            draft.put_app(begun(found))
        else:
            case = self.case(found)
            stalled = self.progress.stalled(found, case.spec, case.views, self.now)
            decision = reconcile(found, case.spec, case.views, stalled, Terms(strategy=case.strategy))
            decision, self.readiness = self.preparations.hold(case, decision, lambda: (node(),))
            if wait.why:
                decision = held(decision, wait, found, stalled, self._spec(path, found.goal).update.progress_deadline)
            advance(draft, case, decision, (node(),))
        self.state.apply(draft)
        for item in self.placed(name):
            self.tracker.watch(instance_id(found, item.serial), stopping=item.stop)

    def prepare(self) -> None:
        """Let the agent prepare what it is asked for, and tell of it."""
        asked = {version.hash: (version.spec.image, number) for version, number in self.preparations.of_node("n1")}
        self.view.prepared = {
            key: Preparation(number, image not in self.absent, image in self.absent, f"there is no {image}" if image in self.absent else "")
            for key, (image, number) in asked.items()
        }

    def work(self, name: str) -> None:
        """Let the agent do one thing for an app."""
        found = self.state.apps.get(_AREA + name)
        for item in self.placed(name):
            identity = instance_id(found, item.serial) if found is not None else ""
            seen = self.running.get(identity)
            if item.stop:
                self.running.pop(identity, None)
                self.tracker.observed(self.view, (), [identity])
                return
            ready = seen is not None and self._spec(_AREA + name, item.version).image not in self.sick
            if seen is None or seen.ready != ready:
                self.running[identity] = Observed(identity, 1, Phase.RUNNING, Health.HEALTHY if ready else Health.UNKNOWN, ready)
                self.tracker.observed(self.view, [self.running[identity]], ())
                return

    def settle(self, names: Iterable[str] = (), limit: int = 300) -> None:
        """Let both sides go on until nothing changes any more."""
        everyone = tuple(names) or tuple(path.removeprefix(_AREA) for path in self.state.apps)
        for _ in range(limit):
            before = (dict(self.state.apps), dict(self.state.placements), dict(self.running))
            for name in everyone:
                self.decide(name)
                self.prepare()
                self.decide(name)
                self.work(name)
            if before == (self.state.apps, self.state.placements, self.running):
                return
        raise AssertionError(f"no end after {limit} steps")
