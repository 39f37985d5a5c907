"""Looks after canaries, app by app: what is decided about them in each pass, and what is to be said of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .advance import Case
from .canary import Attended, as_goal, attend, canary_steps, moves, sentence, stay, unready
from .dependencies import Wait, held
from .progress import Progress
from .reconcile import Decision, Outcome, Terms, reconcile
from .records import App, Step, Task
from .scheduler.fleet import Nodes
from .state import Draft


class Trials:
    """Keeps how far each canary got, and why it does not get on: soft, begun afresh by each leader."""

    def __init__(self) -> None:
        self._progress = Progress()
        self._why: dict[str, str] = {}

    def look(
        self,
        draft: Draft,
        case: Case,
        *,
        nodes: Callable[[App], Nodes],
        terms: Terms,
        now: float,
        waits: str,
        needs: Callable[[App], Wait] = lambda app: Wait(),
    ) -> Attended:
        """Decide about the canary of an app, if it has one, after the wanted version was decided about in the same draft.

        Args:
            draft: to decide in.
            case: of the wanted version.
            nodes: gives those to place on for a goal.
            terms: what the decision is bound to.
            now: the monotonic clock.
            waits: why the wanted version has too few instances; empty = it has enough.
            needs: what an app waits for that awaits a version.
        """
        trial = self.case(draft, case)
        if trial is None:
            self.forget(case.app.path)
            return Attended()
        path, stalled = trial.app.path, self._progress.stalled(trial.app, trial.spec, trial.views, now)
        trial = replace(trial, views=self._progress.since_resumed(path, trial.views, now))
        decision = reconcile(trial.app, trial.spec, trial.views, stalled, replace(terms, is_stuck=False, strategy="", settled=0))
        wait = Wait() if trial.views else needs(replace(trial.app, awaiting=trial.app.version))
        if wait.why:
            decision = held(decision, wait, replace(trial.app, awaiting=trial.app.version), stalled, trial.spec.update.progress_deadline)
        if wait.is_changing or decision.outcome is Outcome.DONE:
            self._progress.forget(path)  # nothing is expected to get on
        if decision.outcome is Outcome.FAILED and moves(trial):
            self._progress.forget(path)
            stay(draft, case, trial, decision, nodes(trial.app) if decision.start else ())
            return Attended()
        found = attend(draft, trial, decision, nodes(trial.app) if decision.start else (), "" if wait.why else waits)
        self._why[path] = wait.why or str(found.unplaced) or found.waits
        return found

    @staticmethod
    def case(draft: Draft, case: Case) -> Case | None:
        """Return the case of an app's canary; None when it has none any more."""
        app = draft.app(case.app.path)
        version = draft.version(app.path, app.canary) if app is not None and app.canary else None
        if app is None or version is None:
            return None
        views = tuple(view for view in case.canaries if app.tries(view.placed))
        return replace(
            case, app=as_goal(app, version.spec), spec=version.spec, views=views, canaries=(), strange="", strategy="", settled=0
        )

    def steps(self, app: App, trial: Case, task: Task) -> tuple[Step, ...]:
        return canary_steps(app, trial, task, self._why.get(app.path, ""))

    def sentence(self, app: App, trial: Case) -> str:
        return sentence(app, trial, self._why.get(app.path, ""))

    @staticmethod
    def unready(trial: Case) -> str:
        return unready(trial)

    def forget(self, path: str) -> None:
        self._progress.forget(path)
        self._why.pop(path, None)


def held_open(decision: Decision, case: Case) -> Decision:
    """Return the decision about the wanted version: a migration is not done before the canaries have moved, too."""
    if decision.outcome is Outcome.DONE and any(view.placed.serial in case.app.moving and not view.placed.stop for view in case.canaries):
        return replace(decision, outcome=Outcome.GOING_ON)
    return decision
