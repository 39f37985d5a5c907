"""What the agent knows of one instance, and what its workers share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gestalt.config import AgentSettings
from gestalt.model import DesiredInstance, Grant
from gestalt.plugin.runtime import AttemptKey, AttemptState, AttemptStatus, RuntimeDriver
from gestalt.spec.schema import AppSpec, Restart
from gestalt.spec.schema import Stop as StopRules

from .board import Board
from .exclusive import Claim, Exclusive, NoFence
from .plan import Goal
from .records import InstanceRecord, RecordStore
from .returning import NeverAway, Patience

_NO_RESTART = Restart(policy="never")
_DEFAULT_STOP = StopRules()


class Traffic(Protocol):
    """What a worker needs of the load balancer: `ProxyManager` is one. Only `wait_drained` takes time."""

    def set_local(self, instance: str, ready: bool, draining: bool = False) -> None: ...

    def set_host(self, instance: str, host: str) -> None: ...

    def forget(self, instance: str) -> None: ...

    async def wait_drained(self, instance: str, deadline_seconds: float) -> bool: ...


@dataclass(slots=True)
class Surroundings:
    """What all workers of a node share. `settings`: the newest; `launch_slots` bounds launches, `exec_slots` the commands of checks."""

    settings: AgentSettings
    drivers: Mapping[str, RuntimeDriver]
    records: RecordStore
    board: Board
    traffic: Traffic
    launch_slots: asyncio.Semaphore
    exec_slots: asyncio.Semaphore
    exclusive: Exclusive = field(default_factory=NoFence)
    returning: Patience = field(default_factory=NeverAway)
    is_pulled: Callable[[str], bool] = lambda template: False
    """Tells, once, that the image of a template was pulled for the start that follows."""

    async def renew(self, settings: AgentSettings) -> None:
        """Have everybody go by these settings from now on."""
        self.settings = settings


@dataclass(frozen=True, slots=True)
class Target:
    """What is wanted of an instance. `why`: why it is kept as it is."""

    goal: Goal = Goal.KEEP
    desired: DesiredInstance | None = None
    spec: AppSpec | None = None
    why: str = ""

    @property
    def grant(self) -> Grant | None:
        return self.desired.grant if self.desired else None

    @property
    def is_exclusive(self) -> bool:
        return self.spec is not None and self.spec.placement.exclusive

    @property
    def stops_when_isolated(self) -> bool:
        return self.spec is not None and self.spec.placement.on_isolation == "stop"

    @property
    def restart(self) -> Restart:
        return self.spec.restart if self.spec else _NO_RESTART

    @property
    def stop(self) -> StopRules:
        return self.spec.stop if self.spec else _DEFAULT_STOP


@dataclass(slots=True)
class LocalInstance:
    """One instance as its worker knows it.

    `attempts` is None until the runtime answered for the first time. `unsure`: attempts to look at again. `restarting`: why
    the running attempt is being restarted. `gone`: nothing is left of it. `taken`: for which attempt the fence took the grant; `refusal`:
    why it did not the last time, and `retry_at`: when to ask again. `isolated`: the node is cut off.
    """

    record: InstanceRecord
    target: Target = field(default_factory=Target)
    attempts: dict[int, AttemptStatus] | None = None
    unsure: set[int] = field(default_factory=set)
    restarting: str = ""
    gone: bool = False
    taken: int = 0
    refusal: str = ""
    retry_at: float = 0.0
    isolated: bool = False

    def key(self, attempt: int) -> AttemptKey:
        return AttemptKey(self.record.instance, attempt)

    def app(self) -> str:
        """Return the path of its app, as it was told or as its labels say; empty when neither is known."""
        labelled = next((status.app for status in (self.attempts or {}).values()), "")
        return self.target.desired.app if self.target.desired else labelled

    def host(self, attempt: int) -> str:
        """Return where the ports of an attempt are published; empty: at the node's address, as far as is known."""
        status = (self.attempts or {}).get(attempt)
        remembered = self.record.host if self.record.attempt == attempt else ""
        return status.host if status else remembered

    def running_attempt(self) -> int:
        """Return the attempt that runs, as far as is known, or 0."""
        if self.attempts is None:
            return self.record.attempt if self.record.started and self.record.ended < self.record.attempt else 0
        return max((number for number, item in self.attempts.items() if item.state is AttemptState.RUNNING), default=0)

    def last_attempt(self) -> int:
        """Return the attempt that runs, else the last of which something is left, or 0."""
        return self.running_attempt() or max(self.attempts or (), default=0)

    def claim(self, exclusive: Exclusive) -> Claim:
        """Return how it stands with the right to run."""
        if not self.target.is_exclusive or not exclusive.needed():
            return Claim()
        grant = self.target.grant.generation if self.target.grant else 0
        return Claim(True, grant, exclusive.standing(self.record.instance), self.taken, self.refusal, self.retry_at)

    def doubt(self) -> None:
        """Look at everything again before the next step."""
        if self.attempts is not None:
            self.unsure.update(self.attempts)
            if self.record.attempt:
                self.unsure.add(self.record.attempt)
