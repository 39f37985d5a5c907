"""What making room means in the records: who may be stopped for whom, who keeps which room, and what is told of it. No I/O, no clock.

Instances that were stopped for an app leave room that is kept for it (`App.claims`) until its own instance is placed, so that a new
leader goes on where the one before stopped, and nobody else gets in between. Their own app remembers why it has too few (`App.gave_way`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field, replace

from gestalt.spec.schema import MIN_DIFFERENCE, AppSpec

from .records import App, Placements, Version, fixed_ports, instance_id
from .scheduler.fleet import released
from .scheduler.preempt import Kind, Room, Search, Victim
from .scheduler.values import Capacity
from .state import Draft, State

NAMED = 3
"""So many instances are named at most."""
MANY = 100
"""So many instances are stopped by one commit at most, if they are for more than one: what is told of them has to fit into a document."""


def settled(app: App, spec: AppSpec, lacking: int, placed_on: Iterable[str]) -> App:
    """Return the app with only the room that it still waits for.

    Args:
        app: as it is to be otherwise.
        spec: the template of the wanted version.
        lacking: how many instances it has too few.
        placed_on: the nodes on which some were just placed.
    """
    claims = list(app.claims)
    for node in placed_on:
        if node in claims:
            claims.remove(node)
    may_wait = makes_room(spec) and not app.paused
    return replace(app, claims=tuple(claims[: max(0, lacking - len(app.held))]) if may_wait else ())


def got_over(draft: Draft, path: str, spec: AppSpec, missing: int) -> None:
    """Have an app forget for whom instances of it were stopped, once nothing of it waits for room.

    Args:
        draft: with everything that was decided about the app in it.
        path: of the app.
        spec: the template of the wanted version.
        missing: how many instances it has too few, or would start if there were room: canaries, and what an update has in addition.
    """
    app = draft.app(path)
    if app is not None and app.gave_way and not app.paused and (missing <= 0 or spec.kind != "service"):
        draft.put_app(replace(app, gave_way=""))


def makes_room(spec: AppSpec) -> bool:
    """Tell whether others may be stopped for an app of this description."""
    return spec.kind == "service" and spec.placement.preempt


@dataclass(slots=True)
class Lower:
    """The instances that may be stopped for an app. Of other priorities, other kinds, exclusive or paused ones, none are.

    `path`: of the app; `priority`: its own.
    """

    state: State
    path: str
    priority: int
    _kinds: dict[tuple[str, int], Kind | None] = field(default_factory=dict)

    @property
    def are_there(self) -> bool:
        """There is an app some of whose instances might be."""
        return any(self._kind(path, app.version) is not None for path, app in self.state.apps.items())

    def on(self, node: str, spared: Set[str] = frozenset()) -> list[Victim]:
        """Return those on a node. `spared`: who is none of them in any case."""
        found = []
        for instance, placed in self.state.placed_on(node).items():
            if (
                not (placed.stop or placed.ended or instance in spared)
                and (kind := self._kind(self.state.owners[instance], placed.version)) is not None
            ):
                found.append(Victim(instance, kind, placed.ports))
        return found

    def _kind(self, path: str, version: int) -> Kind | None:
        """Return the priority and what an instance of a version asks for; None when it is not to be stopped."""
        if (path, version) not in self._kinds:
            self._kinds[path, version] = self._judged(path, version)
        return self._kinds[path, version]

    def _judged(self, path: str, version: int) -> Kind | None:
        app = self.state.apps[path]
        spec, wanted = self.state.version(path, version).spec, self.state.version(path, app.version).spec
        priority = max(spec.placement.priority, wanted.placement.priority)  # what takes its place must not come back and do the same
        is_safe = all(item.kind == "service" and not item.placement.exclusive for item in (spec, wanted))
        if path == self.path or app.paused or app.deleting or not is_safe or priority > self.priority - MIN_DIFFERENCE:
            return None
        return Kind(priority, spec.resources)


def vacated(state: State, app: App | None, node: Capacity) -> Capacity:
    """Return a node, as it is for an app, without the instances that stop there already."""
    reserved, gone = state.reservations.on(node.id), Counter[int]()
    if app is not None:
        gone.update(fixed_ports(state.version(app.path, app.version).spec) * app.kept_room.count(node.id))
    going = [(state.owners[instance], placed) for instance, placed in state.placed_on(node.id).items() if placed.stop and not placed.ended]
    for _, placed in going:
        gone.update(placed.ports)
    for path, placed in going:
        node = released(node, (), state.version(path, placed.version).spec.resources)
    return replace(node, ports=node.ports - {port for port, number in gone.items() if reserved.ports.get(port, 0) <= number})


def leaving(state: State, node: str) -> int:
    """Return how many instances stop on a node."""
    return sum(placed.stop and not placed.ended for placed in state.placed_on(node).values())


def keep(search: Search, claims: Iterable[str], silent: Iterable[str]) -> tuple[str, ...]:
    """Return the claims that hold: there is, or will be, room on their nodes. `silent`: nodes of which nobody knows better now."""
    unknown = frozenset(silent)
    return tuple(node for node in claims if search.take(node) or node in unknown)


def in_parts(rooms: Iterable[Room]) -> list[list[Room]]:
    """Return the same in parts, of which each is made by a commit of its own."""
    parts: list[list[Room]] = []
    size = MANY
    for room in rooms:
        more = max(1, len(room.victims))
        if size + more > MANY:
            parts.append([])
            size = 0
        parts[-1].append(room)
        size += more
    return parts


def evict(draft: Draft, app: App, version: Version, claims: Sequence[str], rooms: Sequence[Room]) -> None:
    """Have instances stop to make room for an app.

    Args:
        draft: of the state in which that room was found.
        app: who gets it.
        version: its wanted one.
        claims: the nodes on which room is kept for it already.
        rooms: what is made besides.
    """
    made = [room for room in rooms if room.victims]
    after = replace(app, claims=(*claims, *(room.node for room in made)))
    if after != app:
        draft.put_app(after)
    victims: dict[str, dict[int, Victim]] = {}
    for room in made:
        for victim in room.victims:
            path = draft.base.owners[victim.id]
            victims.setdefault(path, {})[draft.base.placed_on(room.node)[victim.id].serial] = victim
    for path, stopped in victims.items():
        _stop(draft, path, stopped, app.path, version.spec.placement.priority)
    if made:
        number = sum(len(room.victims) for room in made)
        many = f"{number} instances" if number > 1 else "1 instance"
        where = nodes(draft.base, (room.node for room in made))
        draft.tell("app.preempts", app.path, f"room is made for {app.path}: {many} of lower priority to stop on {where}", app.path)


def _stop(draft: Draft, path: str, stopped: dict[int, Victim], winner: str, priority: int) -> None:
    owner = draft.app(path)
    assert owner is not None, "its instances were found"
    instances = draft.placed(path).instances
    going = (replace(item, stop=True) for item in map(instances.get, stopped) if item is not None)
    draft.put_placements(Placements(path, instances.edited(put=going)))
    for serial, victim in stopped.items():
        words = f"stopped to make room for {winner} (priority {priority} over {victim.kind.priority})"
        draft.tell("instance.preempted", instance_id(owner, serial), f"{instance_id(owner, serial)} is {words}", path)
    over = max(victim.kind.priority for victim in stopped.values())
    draft.put_app(replace(owner, gave_way=f"it had to make room for {winner} (priority {priority} over {over})"))


def nodes(state: State, ids: Iterable[str]) -> str:
    """Return nodes by name, for people."""
    names = sorted({state.nodes[node].name if node in state.nodes else node for node in ids})
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"node{'s' if len(names) > 1 else ''} {', '.join(names[:NAMED])}{more}"


def foreseen(state: State, rooms: Iterable[Room]) -> str:
    """Say who would be stopped to make room; empty when nobody would."""
    victims = [(room.node, victim) for room in rooms for victim in room.victims]
    if not victims:
        return ""
    many = f"{len(victims)} instances" if len(victims) > 1 else "1 instance"
    named = [
        f"{item.id} of {state.owners[item.id]} (priority {item.kind.priority}) on {nodes(state, [node])}" for node, item in victims[:NAMED]
    ]
    more = f" and {len(victims) - NAMED} more" if len(victims) > NAMED else ""
    return f"to make room, {many} of lower priority would be stopped: {', '.join(named)}{more}"


def told(state: State, app: App, reason: str, lacking: int) -> str:
    """Return why an app has too few instances, with what was done about it.

    Args:
        state: all of it.
        app: the one.
        reason: why they have no room.
        lacking: how many, as far as is known.
    """
    parts = [app.gave_way] if app.gave_way else []
    if app.claims:
        number = sum(leaving(state, node) for node in set(app.claims))
        waits = f", when {number} instance{'s have' if number > 1 else ' has'} stopped there" if number else ""
        parts.append(f"room is kept for it on {nodes(state, app.claims)}{waits}")
    if len(app.claims) < max(lacking, 1):
        parts.append(reason)
    return "; ".join(parts)
