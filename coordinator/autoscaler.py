"""The leader's part of autoscaling: measures apps that ask for it again and again, and scales them by the ordinary way."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from gestalt import clock
from gestalt.errors import GestaltError
from gestalt.log import about
from gestalt.spec.schema import AppSpec, Autoscale

from . import changes
from .advance import paused
from .autoscale import Advice, Load, Reading, Situation, advise, load_of_balancers, load_of_instances, mean_by_kind
from .changes import Asked
from .decider import Decider
from .ledger import Ledger
from .membership import Life
from .nodes import Tracker
from .reconcile import View, is_given_up
from .records import App, Node, instance_id

log = logging.getLogger(__name__)

ACTOR = "autoscaler"
"""Who asks for what measurements ask for, in tasks and audit records."""

EVERY = 2.0
"""Seconds between two looks at all apps."""

SAMPLES = 20
"""So many samples of a window are enough; after each one it is decided anew."""

SILENT = 300.0
"""Seconds after which a node that is not heard from counts no more: what its load balancer does is not waited for."""

_OF_BALANCERS = ("requests", "queue")


@dataclass(slots=True)
class _Track:
    """What is known of one app since its last change was done, at `settled`; it is measured since `since`.

    `last`: what each instance had when it was measured last.
    """

    key: object
    since: float
    settled: float
    samples: deque[tuple[float, dict[str, Load]]] = field(default_factory=deque)
    last: dict[tuple[str, str], float] = field(default_factory=dict)
    said: str = ""
    told: int = 0
    refused: str = ""


class Autoscaler:
    """Looks at every app with `autoscale`. A new leader begins to measure anew: it decides nothing before a window is full.

    When an app was changed last is durable: what is left of a cool-down is left whoever leads.
    """

    def __init__(self, ledger: Ledger, tracker: Tracker, decider: Decider) -> None:
        self._ledger = ledger
        self._tracker = tracker
        self._decider = decider
        self._tracks: dict[str, _Track] = {}

    async def run(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            await self.round(clock.monotonic())

    def sentence(self, path: str) -> str:
        """Return what autoscaling does with an app, or why it does nothing; empty when the app has none."""
        app, track = self._ledger.state.apps.get(path), self._tracks.get(path)
        if app is None or app.autoscale is None:
            return ""
        said = track.said if track is not None and track.said else "has not been looked at yet"
        return f"dry run: {said}" if app.autoscale.dry_run else said

    async def round(self, now: float) -> None:
        """Look at every app once, others having their turns in between."""
        found = [path for path, app in self._ledger.state.apps.items() if app.autoscale is not None]
        self._tracks = {path: self._tracks[path] for path in found if path in self._tracks}
        silent = await self._silent_balancers(found, now)
        for path in found:
            app = self._ledger.state.apps.get(path)
            if app is not None and app.autoscale is not None:
                await self._try_to_look(app, app.autoscale, now, silent)
            await asyncio.sleep(0)

    async def _silent_balancers(self, paths: list[str], now: float) -> list[str]:
        """Return the names of the nodes of which it is unknown what their load balancers do, if any of these apps depends on that."""
        policies = [app.autoscale for path in paths if (app := self._ledger.state.apps.get(path)) is not None]
        if not any(metric.kind in _OF_BALANCERS for policy in policies if policy is not None for metric in policy.metrics):
            return []
        await self._tracker.usages.gather()
        usages = self._tracker.usages
        return sorted(node.name for node in self._ledger.state.nodes.values() if not usages.balanced(node.id) and self._counts(node, now))

    def _counts(self, node: Node, now: float) -> bool:
        """Tell whether a node that tells nothing may pass requests on: one that is lost, or silent for long, is left out."""
        if self._tracker.standing(node.id).life in (Life.LOST, Life.LEFT):
            return False
        view = self._tracker.node(node.id, node.name)
        return view.heard or now - view.disconnected_at < SILENT

    async def _try_to_look(self, app: App, policy: Autoscale, now: float, silent: Sequence[str]) -> None:
        try:
            with about(app=app.path):
                await self._look(app, policy, now, silent)
        except GestaltError as error:
            track, said = self._tracks[app.path], f"was to be scaled, but that was refused: {error.message}"
            log.log(logging.DEBUG if said == track.refused else logging.WARNING, "%s: %s", app.path, said, extra={"app": app.path})
            track.said = track.refused = said
        except Exception:  # one app that cannot be looked at must not take autoscaling from all others
            log.exception("%s: autoscaling failed", app.path, extra={"app": app.path})

    async def _look(self, app: App, policy: Autoscale, now: float, silent: Sequence[str]) -> None:
        track = self._track(app, policy, now)
        if held := self._held(app):
            track.said = advise(policy, Situation(app.count, 0.0, held=held)).why
            track.since = now  # what follows is measured for a whole window first
            track.samples.clear()
            return
        if track.samples and now - track.samples[-1][0] < policy.window / SAMPLES:
            return
        track.samples.append((now, self._loads(app, policy, track, len(silent))))
        while track.samples[0][0] < now - policy.window:
            track.samples.popleft()
        loads = mean_by_kind((loads for _, loads in track.samples), [metric.kind for metric in policy.metrics])
        lacks, measured = self._decider.lacks(app.path), now - track.since
        advice = advise(policy, Situation(app.count, now - track.settled, loads, crowded=lacks, measured=measured, silent=silent))
        track.said = advice.why
        if policy.dry_run:
            self._tell(app, track, advice)
        elif advice.count != app.count:
            await self._scale(app, advice)

    def _track(self, app: App, policy: Autoscale, now: float) -> _Track:
        """Return what is known of an app; nothing that was measured before its last change was done."""
        key = (app.uid, app.version, app.count, app.wanted, policy)
        track = self._tracks.get(app.path)
        if track is None or track.key != key or app.task:
            settled = now - (_rest(app, clock.wall()) if track is None and not app.task else 0.0)
            track = self._tracks[app.path] = _Track(key, now, settled)
        return track

    def _held(self, app: App) -> str:
        """Return why nothing may be changed now; empty when it may."""
        if not app.wanted:
            return "it is stopped"
        if app.paused:  # a new number would have it go on
            return f"it is {paused(app)}"
        task = self._ledger.state.tasks.get(app.task)
        if task is not None:
            return f"its {task.kind} is under way"
        return self._decider.brakes.why_not(self._ledger.state.switches.paused)

    def _loads(self, app: App, policy: Autoscale, track: _Track, silent: int) -> dict[str, Load]:
        """Measure an app once. Canaries have a number of their own: the others are looked at as if they were not there."""
        spec = self._ledger.state.version(app.path, app.version).spec
        own = [item for item in self._ledger.state.placed(app.path).instances if not app.tries(item)]
        views = [view for view in self._tracker.views(app, own) if not (view.placed.stop or is_given_up(view, spec))]
        given = [self._tracker.usages.given(instance_id(app, item.serial)) for item in own]
        loads: dict[str, Load] = {}
        for metric in policy.metrics:
            if metric.kind in _OF_BALANCERS:
                total = sum(item.requests if metric.kind == "requests" else item.queue for item in given)
                loads[metric.kind] = load_of_balancers(total, silent, metric.target)
            elif asked := _asked(spec, metric.kind):
                readings = [self._reading(app, view, metric.kind, asked, track) for view in views]
                loads[metric.kind] = load_of_instances(readings, app.count, metric.target)
        return loads

    def _reading(self, app: App, view: View, kind: str, asked: float, track: _Track) -> Reading:
        """Return what an instance uses, in percent of what it asked for."""
        instance = instance_id(app, view.placed.serial)
        used = self._tracker.usages.used(view.placed.node, instance)
        before = track.last.get((instance, kind), 0.0)
        if used is None or view.observed is None:
            return Reading(None, last=before)
        value = 100 * (used.cpu if kind == "cpu" else used.memory) / asked
        track.last[instance, kind] = value
        return Reading(value, view.ready, before)

    def _tell(self, app: App, track: _Track, advice: Advice) -> None:
        """Say once what would be done, as long as that stays the same."""
        if advice.count not in (app.count, track.told):
            self._ledger.tell("app.autoscale", app.path, f"autoscaling would change {app.path} (dry run): {advice.why}", app.path)
        track.told = advice.count

    async def _scale(self, app: App, advice: Advice) -> None:
        """Scale as an operator would, unless the app has changed meanwhile."""
        random = uuid.uuid4().hex
        async with self._ledger.draft(ACTOR, f"scale {app.path}: {advice.why}"[:500]) as draft:
            if draft.app(app.path) == app:
                asked = Asked(ACTOR, clock.wall().isoformat(), app.revision, random[:12], random[12:18])
                changes.scale(draft, app.path, advice.count, asked, why=advice.why)


def _rest(app: App, now: datetime) -> float:
    """Return for how many seconds an app has been left as it is, by the wall clock: as if it had just been changed if that is not known."""
    return max(0.0, (now - datetime.fromisoformat(app.changed_at)).total_seconds()) if app.changed_at else 0.0


def _asked(spec: AppSpec, kind: str) -> float:
    """Return what an instance asked for, of which it uses a part."""
    return spec.resources.cpu if kind == "cpu" else float(spec.resources.memory)
