"""The exit codes of gestaltctl, and of what it becomes. Documented in docs/gestaltctl.md; a number never changes its meaning."""

from __future__ import annotations

from enum import IntEnum

from gestalt.errors import Kind


class Exit(IntEnum):
    """How a run ended. `exec` alone may end with other codes: those of the command."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    CONFLICT = 5
    UNREACHABLE = 6
    TIMED_OUT = 7
    FAILED = 8
    UNAUTHENTICATED = 9
    CHANGES = 10
    INTERRUPTED = 130
    BROKEN_PIPE = 141


OF_KIND = {
    Kind.INVALID: Exit.USAGE,
    Kind.NOT_FOUND: Exit.NOT_FOUND,
    Kind.EXISTS: Exit.CONFLICT,
    Kind.CONFLICT: Exit.CONFLICT,
    Kind.REFUSED: Exit.REFUSED,
    Kind.UNAVAILABLE: Exit.UNREACHABLE,
    Kind.TIMED_OUT: Exit.TIMED_OUT,
    Kind.FAILED: Exit.FAILED,
    Kind.UNAUTHENTICATED: Exit.UNAUTHENTICATED,
    Kind.NOT_LEADER: Exit.UNREACHABLE,
}
