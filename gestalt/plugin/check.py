"""The interface of check drivers: one run of one health check."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from gestalt.spec.schema import Check

from .runtime import AttemptStatus, ExecRunner


@dataclass(frozen=True, slots=True)
class CheckTarget:
    """Where an instance is reached: its host and, by port name, the port there."""

    host: str
    ports: Mapping[str, int]
    exec: ExecRunner
    inspect: Callable[[], Awaitable[AttemptStatus | None]]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """`output`: what was seen, for people, at most 500 characters."""

    ok: bool
    output: str


class CheckDriver(ABC):
    """Runs checks of one kind. Stateless; many runs at once. Nothing it does may block the loop."""

    name: ClassVar[str]

    @abstractmethod
    async def run(self, check: Check, target: CheckTarget) -> CheckResult:
        """Run once. Never raises for anything the instance does: a refused connection, garbage or silence is a result.

        The caller bounds it by `check.timeout` too; a driver leaves nothing behind when it is cancelled.
        """
