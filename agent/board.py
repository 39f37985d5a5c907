"""What the agent tells the coordinator: the observation of every instance, what is gone, and the problems of the node.

Workers put, the session takes. Only the latest value counts, and how attempts ended; ages and back-offs are worked out when
they are taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from gestalt.clock import boottime
from gestalt.model import Observed, Phase
from gestalt.proto.v1 import agent_pb2, model_pb2
from gestalt.wire import to_wire

T = TypeVar("T")

ENDS_KEPT = 500
_ENDS = (Phase.STOPPED, Phase.FAILED)


@dataclass(frozen=True, slots=True)
class _Entry:
    observed: Observed
    since: float
    retry_at: float

    def wire(self) -> model_pb2.Observed:
        back_off = max(self.retry_at - boottime(), 0.0) if self.retry_at else 0.0
        return to_wire(replace(self.observed, age=max(boottime() - self.since, 0.0), back_off=back_off), model_pb2.Observed)


class Latest(Generic[T]):
    """A value of which only the newest counts, until it is taken. `wake` is called when there is a new one."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._value: T | None = None

    def put(self, value: T) -> None:
        self._value = value
        self._wake()

    def take(self) -> T | None:
        """Return it, once."""
        value, self._value = self._value, None
        return value


class Standing(Generic[T]):
    """A value that every session is told first, and whenever it changes. `wake` is called when it does."""

    def __init__(self, value: T, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._changed = False
        self.value = value

    def put(self, value: T) -> None:
        if value != self.value:
            self.value, self._changed = value, True
            self._wake()

    def take(self, *, always: bool = False) -> T | None:
        """Return it if it changed since the last call, or `always`."""
        changed, self._changed = self._changed or always, False
        return self.value if changed else None


class Board:
    """The one place where observations lie. Not thread-safe: the loop alone uses it."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._gone: set[str] = set()
        self._problems: dict[str, tuple[str, ...]] = {}
        self._changed: set[str] = set()
        self._ends: deque[_Entry] = deque(maxlen=ENDS_KEPT)
        self._problems_changed = False
        self._wake: Callable[[], None] = _nothing
        self._facts_changed = False
        self._refusing_changed = False
        self.refusing: dict[str, int] = {}
        self.facts = model_pb2.Facts()
        self.incarnation = 0
        self._member: Callable[[int], None] = lambda _: None
        self.prepared = Standing(agent_pb2.Prepared(), lambda: self._wake())  # noqa: PLW0108
        self.usage: Latest[agent_pb2.UsageReport] = Latest(lambda: self._wake())  # noqa: PLW0108 (whoever is attached then)

    def put(self, observed: Observed, retry_at: float = 0.0, since: float = 0.0) -> bool:
        """Set the observation of an instance; return whether it says anything new.

        `since`: when it came into its phase, in seconds since boot; 0 = just now, or when that was told first.
        """
        before = self._entries.get(observed.instance)
        if before is not None and before.observed == observed and before.retry_at == retry_at:
            return False
        if before is not None and observed.instance in self._changed and before.observed.phase in _ENDS:
            self._ends.append(before)
        same_phase = before is not None and (before.observed.attempt, before.observed.phase) == (observed.attempt, observed.phase)
        since = since or (before.since if before is not None and same_phase else boottime())
        self._entries[observed.instance] = _Entry(observed, since, retry_at)
        self._gone.discard(observed.instance)
        self._touch(observed.instance)
        return True

    def get(self, instance: str) -> Observed | None:
        entry = self._entries.get(instance)
        return entry.observed if entry else None

    def gone(self, instance: str) -> None:
        """Nothing of it is left on the node. Told again in every session until `drop`."""
        self._entries.pop(instance, None)
        self._gone.add(instance)
        self._touch(instance)

    def is_gone(self, instance: str) -> bool:
        return instance in self._gone

    def drop(self, instance: str) -> None:
        """The coordinator does not ask for it any more."""
        self._entries.pop(instance, None)
        self._gone.discard(instance)

    def set_problems(self, source: str, problems: Sequence[str]) -> None:
        """Replace the problems that `source` told of before."""
        if self._problems.get(source, ()) != tuple(problems):
            self._problems[source] = tuple(problems)
            self._problems_changed = True
            self._wake()

    def set_incarnation(self, incarnation: int) -> None:
        """Set the number of the node's membership; 0 = no fence has told one."""
        if incarnation != self.incarnation:
            self.incarnation = incarnation
            self._member(incarnation)
            self._wake()

    def on_incarnation(self, member: Callable[[int], None]) -> None:
        """Have `member` called with each new number."""
        self._member = member

    def set_facts(self, facts: model_pb2.Facts) -> None:
        """Replace what is known of the machine."""
        self.facts, self._facts_changed = facts, True
        self._wake()

    def take_facts(self) -> model_pb2.Facts | None:
        """Return the facts if they were set since the last call."""
        changed, self._facts_changed = self._facts_changed, False
        return self.facts if changed else None

    def set_refusing(self, nodes: Mapping[str, int]) -> None:
        """Set whose packets the kernel refuses now: incarnations by node id."""
        if dict(nodes) != self.refusing:
            self.refusing, self._refusing_changed = dict(nodes), True
            self._wake()

    def take_refusing(self, *, always: bool = False) -> agent_pb2.Refusing | None:
        """Return whose packets are refused if that changed since the last call, or `always`."""
        changed, self._refusing_changed = self._refusing_changed or always, False
        return agent_pb2.Refusing(nodes=self.refusing) if changed else None

    def problems(self) -> tuple[str, ...]:
        return tuple(problem for source in sorted(self._problems) for problem in self._problems[source])

    def observations(self) -> tuple[Observed, ...]:
        return tuple(entry.observed for entry in self._entries.values())

    def attach(self, wake: Callable[[], None]) -> None:
        """Have `wake` called at every change, until `detach`."""
        self._wake = wake

    def detach(self) -> None:
        self._wake = _nothing

    def inventory(self) -> agent_pb2.Inventory:
        """Return everything; what is gone follows with the next change."""
        self._changed = set(self._gone)
        self._ends.clear()
        self._problems_changed = False
        return agent_pb2.Inventory(instances=[entry.wire() for entry in self._entries.values()], problems=self.problems())

    def take(self) -> agent_pb2.ObservedChange | None:
        """Return what changed since the last call, or None. Ends of attempts come first, so that none is lost in a quick restart."""
        if self._ends:
            ends = [entry.wire() for entry in self._ends]
            self._ends.clear()
            return agent_pb2.ObservedChange(instances=ends)
        if not self._changed and not self._problems_changed:
            return None
        change = agent_pb2.ObservedChange(
            instances=[self._entries[item].wire() for item in sorted(self._changed & self._entries.keys())],
            gone=sorted(self._changed & self._gone),
            problems=self.problems() if self._problems_changed else (),
            problems_changed=self._problems_changed,
        )
        self._changed, self._problems_changed = set(), False
        return change

    def _touch(self, instance: str) -> None:
        self._changed.add(instance)
        self._wake()


def _nothing() -> None:
    """Nobody listens."""
