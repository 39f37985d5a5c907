"""The one exception that is meant for people, and the kinds that callers can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What went wrong, as far as a caller's next step depends on it."""

    INVALID = "invalid"
    NOT_FOUND = "not_found"
    EXISTS = "exists"
    CONFLICT = "conflict"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"
    TIMED_OUT = "timed_out"
    FAILED = "failed"
    UNAUTHENTICATED = "unauthenticated"
    NOT_LEADER = "not_leader"
    """Another coordinator leads, or none: the same request, repeated there, is carried out once."""


@dataclass(frozen=True, slots=True)
class Detail:
    """One mistake in one place of the input."""

    field: str
    problem: str
    allowed: str = ""


class GestaltError(Exception):
    """An error with a sentence for people, a hint what to do next, and details per field.

    `leader`: with NOT_LEADER the address of the coordinator to ask, empty while none leads.
    Programming errors are never wrapped in it; they stay what they are.
    """

    def __init__(self, kind: Kind, message: str, *, hint: str = "", details: Sequence[Detail] = (), leader: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint
        self.details = tuple(details)
        self.leader = leader
