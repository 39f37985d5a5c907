"""How errors, warnings and notices are told: on standard error, always with what to do next."""

from __future__ import annotations

import sys

from gestalt.errors import Detail, GestaltError

from .style import clean, paint


def report_error(error: GestaltError) -> None:
    """Write the sentence, one line for each detail, then the hint."""
    write_error(error.message)
    for detail in error.details:
        if not error.message.startswith(f"{detail.field}: {detail.problem}"):  # the only mistake may be the sentence already
            print(f"  {_detail(detail)}", file=sys.stderr)
    if error.hint:
        hint(error.hint)


def write_error(message: str) -> None:
    """Write the first line of an error."""
    print(f"{paint('error:', 'red', sys.stderr)} {clean(message)}", file=sys.stderr)


def hint(text: str) -> None:
    """Say what to do next."""
    print(f"{paint('hint:', 'cyan', sys.stderr)} {clean(text)}", file=sys.stderr)


def warn(text: str) -> None:
    """Say what is not as it may seem."""
    print(f"{paint('warning:', 'yellow', sys.stderr)} {clean(text)}", file=sys.stderr)


def notice(text: str) -> None:
    """Say something of ours beside what a command prints."""
    print(paint(clean(text), "dim", sys.stderr), file=sys.stderr)


def _detail(detail: Detail) -> str:
    where = f"{detail.field}: " if detail.field else ""
    allowed = f" (allowed: {detail.allowed})" if detail.allowed and detail.allowed not in detail.problem else ""
    return clean(f"{where}{detail.problem}{allowed}")
