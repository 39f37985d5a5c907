"""What agents report is input: validated, and cut to a size that memory, events and documents can hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

from gestalt.errors import GestaltError, Kind
from gestalt.model import Observed
from gestalt.proto.v1 import agent_pb2, model_pb2
from gestalt.wire import from_wire

from .nodes import Preparation

SENTENCE = 2000
OUTPUT = 500
LINES = 20
CHECKS = 100
TEMPLATES = 1000


def observed(message: model_pb2.Observed) -> Observed:
    """Return what an agent saw of an instance.

    Raises:
        GestaltError: INVALID, for a phase or health that this contract does not know.
    """
    try:
        seen = from_wire(message, Observed)
    except ValueError as error:
        raise GestaltError(Kind.INVALID, f"the report on {message.instance[:100]} is not valid: {error}") from error
    if not (seen.log_tail or seen.checks) and max(map(len, (seen.instance, seen.app, seen.reason, seen.runtime_id))) <= OUTPUT:
        return seen  # it is short enough
    return replace(
        seen,
        instance=seen.instance[:OUTPUT],
        app=seen.app[:OUTPUT],
        reason=seen.reason[:SENTENCE],
        log_tail=sentences(seen.log_tail[-LINES:]),
        checks=tuple(replace(check, name=check.name[:OUTPUT], output=check.output[:OUTPUT]) for check in seen.checks[:CHECKS]),
        runtime_id=seen.runtime_id[:OUTPUT],
    )


def prepared(message: agent_pb2.Prepared) -> dict[str, Preparation]:
    """Return what an agent has prepared, by template hash."""
    listed = islice(message.templates.items(), TEMPLATES)
    return {key[:OUTPUT]: Preparation(item.number, item.done, item.refused, item.reason[:SENTENCE]) for key, item in listed}


def sentences(texts: Iterable[str]) -> tuple[str, ...]:
    """Return problems or log lines, each of bounded length, not more than can be shown."""
    return tuple(text[:SENTENCE] for text in tuple(texts)[:LINES])
