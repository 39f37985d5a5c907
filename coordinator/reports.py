"""What agents report is input: validated, and cut to a size that memory, events and documents can hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gestalt.errors import GestaltError, Kind
from gestalt.model import Observed
from gestalt.proto.v1 import model_pb2
from gestalt.wire import from_wire

SENTENCE = 2000
OUTPUT = 500
LINES = 20
CHECKS = 100


def observed(message: model_pb2.Observed) -> Observed:
    """Return what an agent saw of an instance.

    Raises:
        GestaltError: INVALID, for a phase or health that this contract does not know.
    """
    try:
        seen = from_wire(message, Observed)
    except ValueError as error:
        raise GestaltError(Kind.INVALID, f"the report on {message.instance[:100]} is not valid: {error}") from error
    return replace(
        seen,
        instance=seen.instance[:OUTPUT],
        app=seen.app[:OUTPUT],
        reason=seen.reason[:SENTENCE],
        log_tail=sentences(seen.log_tail[-LINES:]),
        checks=tuple(replace(check, name=check.name[:OUTPUT], output=check.output[:OUTPUT]) for check in seen.checks[:CHECKS]),
        runtime_id=seen.runtime_id[:OUTPUT],
    )


def sentences(texts: Iterable[str]) -> tuple[str, ...]:
    """Return problems or log lines, each of bounded length, not more than can be shown."""
    return tuple(text[:SENTENCE] for text in tuple(texts)[:LINES])
