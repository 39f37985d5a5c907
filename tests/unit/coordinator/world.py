"""A model of the world around the pure core: records in memory, an agent that does as told or misbehaves as told."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gestalt.coordinator import changes
from gestalt.coordinator.advance import Case, advance, steps
from gestalt.coordinator.brakes import UNLIMITED
from gestalt.coordinator.canary import apart
from gestalt.coordinator.nodes import Tracker
from gestalt.coordinator.progress import Progress
from gestalt.coordinator.reconcile import Decision, Terms, reconcile
from gestalt.coordinator.records import App, Node, Placed, Task, instance_id
from gestalt.coordinator.rolls import Rolls
from gestalt.coordinator.scheduler.values import Capacity
from gestalt.coordinator.state import Draft, State, encode
from gestalt.coordinator.store.base import Document
from gestalt.coordinator.system import look
from gestalt.coordinator.trials import Trials, held_open
from gestalt.coordinator.turns import in_turn
from gestalt.model import Health, Observed, Phase
from gestalt.spec.schema import AppSpec, HttpService, Port, Update

PATH = "/org/ws/env/web"
CHECKS = [{"kind": "tcp", "port": "http", "grace": 0}]
AT = "2026-01-01T00:00:00+00:00"


def spec(image: str = "web:1", instances: int = 3, **fields: object) -> AppSpec:
    port = Port(name="http", container_port=80, http=HttpService())
    base = {"path": PATH, "image": image, "instances": instances, "ports": [port.model_dump()], "checks": CHECKS}
    return AppSpec.model_validate(base | fields)


def node(name: str = "n1", **fields: object) -> Capacity:
    base = Capacity(name, name, ready=True, runtimes=frozenset({"docker", "process"}), cpu=64, memory=64 * 1024**3)
    return replace(base, **fields)  # type: ignore[arg-type]


@dataclass
class World:
    """One node, one app, a clock. `broken`: images whose instances never become ready."""

    broken: frozenset[str] = frozenset()
    now: float = 1000.0
    capacities: tuple[Capacity, ...] = (node(),)
    state: State = field(default_factory=State)
    log: list[str] = field(default_factory=list)
    asked: int = 0
    replaceable: int = UNLIMITED
    is_stuck: bool = False
    running: dict[str, Observed] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    trials: Trials = field(default_factory=Trials)

    def __post_init__(self) -> None:
        self.tracker = Tracker(lambda: self.now)
        self.enrol()
        self.view = self.tracker.node("n1", "n1")
        self.tracker.connected(self.view)
        self.tracker.inventory(self.view, (), ())
        self.state.nodes["n1"] = Node("n1", "n1")

    def ask(self, change: object, *arguments: object, expected: int = 0) -> Task | None:
        """Carry out one verb of `changes`."""
        self.asked += 1
        draft = Draft(self.state)
        asked = changes.Asked("tester", AT, expected, f"task{self.asked}", f"{self.asked:06x}")
        task: Task | None = change(draft, *arguments, asked)  # type: ignore[operator]
        self._apply(draft)
        return task

    def apply(self, description: AppSpec) -> Task | None:
        return self.ask(changes.describe, None, description, ())

    def _apply(self, draft: Draft) -> None:
        self.state.apply(draft)
        for moves in draft.moves:
            self.rolls.follow(moves)

    def enrol(self) -> None:
        """Watch what is there with a tracker that is new."""
        self.rolls, self.brief_progress = Rolls(self.state, self.tracker, lambda app, item: False), Progress()
        self.rolls.take(PATH)

    @property
    def app(self) -> App:
        return self.state.apps[PATH]

    @property
    def placed(self) -> tuple[Placed, ...]:
        return self.state.placed(PATH).instances

    @property
    def last_task(self) -> Task:
        return list(self.state.tasks.values())[-1]

    def ready(self) -> list[Placed]:
        return [item for item in self.placed if not item.stop and self._observed(item).ready]

    def _observed(self, item: Placed) -> Observed:
        sighting = self.tracker.sightings.get(instance_id(self.app, item.serial))
        return (sighting and sighting.observed) or Observed("", 0, Phase.PENDING)

    def decide(self) -> Decision | None:
        """Let the coordinator take one look."""
        app = self.state.apps.get(PATH)
        if app is None:
            return None
        draft = Draft(self.state)
        views, canaries = apart(app, in_turn(self.state, app, self.tracker.views(app, self.state.placed(PATH).instances)))
        template = self.state.version(PATH, app.version).spec
        stalled = self.progress.stalled(app, template, views, self.now)
        views = self.progress.since_resumed(PATH, views, self.now)
        newest = self.state.version(PATH, max(app.version, *(view.placed.version for view in views), 0))
        terms = Terms(self.replaceable, self.is_stuck, strategy=newest.spec.update.strategy)
        case = Case(app, template, views, AT, task=f"failover{len(self.state.tasks)}", canaries=canaries)
        if template.kind == "system":
            app, decision = look(self.state, app, views, self._nodes(), stalled)
            case = replace(case, app=app)
        else:
            decision = reconcile(app, template, views, stalled, terms)
            self._decide_in_brief(case, decision, terms)
            decision = held_open(decision, case)
        waits = advance(draft, case, decision, self._nodes())
        self.trials.look(draft, case, nodes=lambda goal: self._nodes(), terms=terms, now=self.now, waits=waits)
        self._apply(draft)
        return decision

    def _decide_in_brief(self, case: Case, decision: Decision, terms: Terms) -> None:
        """Assert that who looks only at what is not settled decides the same, and tells the same."""
        known, settled = self.rolls.views(case.app)
        views, canaries = apart(case.app, in_turn(self.state, case.app, known))
        stalled = self.brief_progress.stalled(case.app, case.spec, views, self.now, settled=settled)
        views = self.brief_progress.since_resumed(PATH, views, self.now)
        assert canaries == case.canaries
        assert reconcile(case.app, case.spec, views, stalled, replace(terms, settled=settled)) == decision
        for task in self.state.tasks.values():
            assert steps(replace(case, views=views, settled=settled), task) == steps(case, task)

    def trial(self) -> Case:
        """Return the canary as it is known now."""
        _, canaries = apart(self.app, self.tracker.views(self.app, self.state.placed(PATH).instances))
        template = self.state.version(PATH, self.app.version).spec
        found = self.trials.case(Draft(self.state), Case(self.app, template, (), AT, canaries=canaries))
        assert found is not None
        return found

    def _nodes(self) -> tuple[Capacity, ...]:
        used = {port for item in self.placed for port in item.ports}
        return tuple(replace(item, ports=frozenset(used), port_cursor=max(used, default=0) + 1) for item in self.capacities)

    def agent_step(self, which: int = 0) -> None:
        """Let the agent do one thing: start, make ready, or end one instance; `which` chooses among what is to be done."""
        jobs = [item for item in self.placed if self._job(item)]
        if jobs:
            self._do(jobs[which % len(jobs)])

    def _job(self, item: Placed) -> bool:
        seen = self.running.get(instance_id(self.app, item.serial))
        if item.stop or seen is None:
            return True
        return not seen.ready and not self._is_broken(item)

    def _is_broken(self, item: Placed) -> bool:
        return self.state.version(PATH, item.version).spec.image in self.broken

    def _do(self, item: Placed) -> None:
        identity = instance_id(self.app, item.serial)
        if item.stop:
            self.running.pop(identity, None)
            self.tracker.observed(self.view, (), [identity])
            return
        ready = identity in self.running and not self._is_broken(item)
        seen = Observed(identity, 1, Phase.RUNNING, Health.HEALTHY if ready else Health.UNKNOWN, ready, "" if ready else "starting")
        self.running[identity] = seen
        self.tracker.observed(self.view, [seen], ())

    def happen(self, what: str, which: int) -> None:
        """Let one of the things happen that may come in between at any time."""
        match what:
            case "decide":
                self.decide()
            case "agent":
                self.agent_step(which)
            case "restart":
                self.restart_coordinator()
            case "time":
                self.pass_time(which * 5.0)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def restart_coordinator(self) -> None:
        """A new leader: durable state through its encoding and back, soft state reported again by the agent."""
        kinds = ("app", "version", "placements", "task", "node")
        documents = [Document(kind, key, encode(record), 1) for kind in kinds for key, record in self.state.table(kind).items()]
        self.state = State()
        self.state.load(tuple(documents))
        self.tracker = Tracker(lambda: self.now)
        self.enrol()
        self.view = self.tracker.node("n1", "n1")
        self.progress, self.trials = Progress(), Trials()
        if PATH in self.state.apps:
            self.tracker.connected(self.view)
            ids = [instance_id(self.app, item.serial) for item in self.placed]
            self.tracker.inventory(self.view, ids, [self.running[identity] for identity in ids if identity in self.running])

    def settle(self, limit: int = 1000) -> None:
        """Let both sides go on until nothing changes any more."""
        for _ in range(limit):
            before = (self.state.apps.get(PATH), self.placed, dict(self.running))
            self.decide()
            if PATH in self.state.apps:
                self.agent_step()
            if before == (self.state.apps.get(PATH), self.placed, self.running):
                return
        raise AssertionError(f"no end after {limit} steps: {self.placed}")


__all__ = ["AT", "PATH", "Update", "World", "node", "spec"]
