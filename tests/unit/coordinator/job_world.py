"""A model of a job on several nodes: agents that start and end instances as told or by chance, leaders that come and go."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from gestalt.coordinator import changes, runs
from gestalt.coordinator.advance import Case
from gestalt.coordinator.records import Node, Placed, Run, Task, instance_id
from gestalt.coordinator.state import KINDS, Draft, State, encode
from gestalt.coordinator.store.base import Document
from gestalt.model import Observed, Phase
from gestalt.spec.schema import AppSpec
from tests.unit.coordinator.fleet import Fleet
from tests.unit.coordinator.world import AT, PATH


def job(image: str = "report:1", **fields: object) -> AppSpec:
    return AppSpec.model_validate({"path": PATH, "kind": "job", "image": image} | fields)


class JobWorld(Fleet):
    """A job, and nodes n1 … on which its runs go on."""

    def __init__(self, count: int = 3, **fields: object) -> None:
        self.jobs = runs.Jobs()
        self.waits = ""
        self.held = ""
        super().__init__(count)
        self.ask(changes.delete, PATH)
        for _ in range(9):
            super().decide()
            if PATH in self.state.apps:
                self.agent_step()
        self.broken = frozenset()
        self.apply(job(**fields))
        self.decide()

    @property
    def at(self) -> str:
        return (datetime.fromisoformat(AT) + timedelta(seconds=self.now - 1000)).isoformat()

    def run(self, **parameters: str) -> Run:
        self.asked += 1
        draft = Draft(self.state)
        task = runs.begin(draft, PATH, parameters, changes.Asked("tester", self.at, 0, f"run{self.asked}", "000000"))
        self._apply(draft)
        return self.of(task.id)

    def of(self, run: str) -> Run:
        return next(item for item in self.state.runs_of(PATH) if item.id == run)

    def task_of(self, run: Run) -> Task:
        return self.state.tasks[run.id]

    def decide(self) -> None:
        app = self.state.apps.get(PATH)
        if app is None or self.state.version(PATH, app.version).spec.kind != "job":
            super().decide()
            return
        draft = Draft(self.state)
        views = self.tracker.views(app, self.state.placed(PATH).instances)
        case = Case(app, self.state.version(PATH, app.version).spec, views, self.at, {name: name for name in self.machines})
        told = self.jobs.decide(draft, case, runs.Terms(self.now, self.replaceable, self._nodes, self.held))
        self.waits, self.wake_in = str(told.waits), told.wake_in
        self._apply(draft)
        for name, machine in self.machines.items():
            if machine.linked:
                self._remove_untold(name)

    def decide_all(self) -> None:
        for _ in range(20):
            before = (self.placed, self.state.runs_of(PATH))
            self.decide()
            if PATH not in self.state.apps or before == (self.placed, self.state.runs_of(PATH)):
                return
        raise AssertionError("it goes on deciding")

    def restart_coordinator(self) -> None:
        """A new leader: what is durable through its encoding and back, the times of the runs forgotten."""
        documents = [Document(kind, key, encode(record), 1) for kind in KINDS for key, record in self.state.table(kind).items()]
        self.state = State()
        self.state.load(tuple(documents))
        self.jobs = runs.Jobs()
        self.take_office()

    def administer(self, name: str, admin: str, **fields: object) -> None:
        draft = Draft(self.state)
        draft.put_node(replace(self.state.nodes[name], admin=admin, **fields))  # type: ignore[arg-type]
        self.state.apply(draft)

    # -- what agents do --

    def seen(self, item: Placed) -> Observed | None:
        return self.machines[item.node].running.get(instance_id(self.app, item.serial))

    def at_work(self) -> list[Placed]:
        """The placed instances that run in truth."""
        return [item for item in self.placed if (seen := self.seen(item)) is not None and seen.phase is Phase.RUNNING]

    def obey(self) -> None:
        """Let all agents that are connected start and remove what they are told."""
        for item in self.placed:
            machine, identity = self.machines[item.node], instance_id(self.app, item.serial)
            if machine.linked and item.stop and item.keep and self.seen(item) is not None:
                self.end(item, 143)
            elif machine.linked and item.stop:
                machine.running.pop(identity, None)
                self.tracker.observed(self.view_of(item.node), (), [identity])
            elif machine.linked and identity not in machine.running and not item.ended:
                self._tell(item, Observed(identity, 1, Phase.RUNNING, ready=True))

    def end(self, item: Placed, code: int = 0, **fields: object) -> None:
        """Have an instance end by itself."""
        phase = Phase.FAILED if code else Phase.STOPPED
        seen = Observed(instance_id(self.app, item.serial), 1, phase, reason=f"exited with code {code}", exit_code=code, ended=True)
        self._tell(item, replace(seen, **fields))  # type: ignore[arg-type]

    def _tell(self, item: Placed, seen: Observed) -> None:
        machine = self.machines[item.node]
        machine.running[seen.instance] = seen
        if machine.linked:
            self.tracker.observed(self.view_of(item.node), [seen], ())

    def go(self) -> None:
        """Decide, and have agents do what was decided."""
        self.decide_all()
        if PATH in self.state.apps:
            self.obey()

    def live(self, run: Run) -> list[Placed]:
        return [item for item in self.placed if item.run == run.id and not item.ended]

    def finish(self, rounds: int = 60) -> None:
        """Have everything that runs end well, until nothing is at work."""
        for _ in range(rounds):
            self.go()
            if PATH not in self.state.apps:
                return
            for item in self.at_work():
                self.end(item)
            self.pass_time(61)
        self.decide_all()


__all__ = ["PATH", "JobWorld", "Node", "job"]
