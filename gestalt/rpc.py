"""Errors across gRPC: one mapping of kinds and status codes, one encoding of the rest, for every server and client.

On the wire an error is a standard status code, its sentence as the status message, and a serialised `Error` in the
trailing metadata entry `gestalt-error-bin`. A client that knows none of this still gets the code and the sentence.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import grpc

from gestalt.errors import Detail, GestaltError, Kind
from gestalt.proto.v1 import api_pb2

ERROR_METADATA = "gestalt-error-bin"
VERSION_METADATA = "gestalt-version"
"""With each answer of a leader: its version."""

EXPIRY_METADATA = "gestalt-certificate-expires"
"""With each answer of a leader to a caller whose certificate ends soon: when, RFC 3339."""

AGE_METADATA = "gestalt-age"
"""In the trailing metadata of an answer: for how many seconds what it says may be out of date."""

# Clients refuse trailing metadata of more than 8 KiB by default. It holds our entry as base64 and the sentence once more, percent-encoded.
_ENCODED_MAX = 4000
_SENTENCE_MAX = 600
_FIELD_MAX = 300

_CODES = {
    Kind.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Kind.EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Kind.CONFLICT: grpc.StatusCode.ABORTED,
    Kind.REFUSED: grpc.StatusCode.FAILED_PRECONDITION,
    Kind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Kind.TIMED_OUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    Kind.FAILED: grpc.StatusCode.INTERNAL,
    Kind.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Kind.NOT_LEADER: grpc.StatusCode.UNAVAILABLE,
}
_KINDS = {code: kind for kind, code in _CODES.items()} | {
    grpc.StatusCode.UNAVAILABLE: Kind.UNAVAILABLE,
    grpc.StatusCode.OUT_OF_RANGE: Kind.INVALID,
    grpc.StatusCode.PERMISSION_DENIED: Kind.REFUSED,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Kind.REFUSED,
    grpc.StatusCode.UNIMPLEMENTED: Kind.REFUSED,
}

TrailingMetadata = tuple[tuple[str, bytes], ...]


def status_of(kind: Kind) -> grpc.StatusCode:
    """Return the status code that stands for `kind`. Every kind has its own, but NOT_LEADER: who does not know it tries again later."""
    return _CODES[kind]


def kind_of(code: grpc.StatusCode) -> Kind:
    """Return the kind that `code` stands for; codes that we never send become the nearest one."""
    return _KINDS.get(code, Kind.FAILED)


def encode_error(error: GestaltError) -> tuple[grpc.StatusCode, TrailingMetadata]:
    """Return what a servicer hands to `context.abort(code, status_message(error), metadata)`.

    The metadata stays below the limit that clients have by default: long texts are cut, details that do not fit are
    dropped from the end and counted in a last one.
    """
    return _CODES[error.kind], ((ERROR_METADATA, error_to_wire(error).SerializeToString()),)


def status_message(error: GestaltError) -> str:
    """Return the sentence for the status message; bounded, because it too travels in the metadata."""
    return _cut(error.message, _SENTENCE_MAX)


def decode_error(error: grpc.RpcError) -> GestaltError:
    """Return what the server meant. An error that is not ours (no route, a deadline) keeps its sentence and gets the nearest kind."""
    call = cast(Any, error)
    for key, value in cast("Iterable[tuple[str, bytes]]", call.trailing_metadata() or ()):
        if key == ERROR_METADATA:
            message = api_pb2.Error()
            message.ParseFromString(value)
            return error_from_wire(message)
    return GestaltError(kind_of(call.code()), call.details() or f"the call failed with {call.code().name}")


def error_to_wire(error: GestaltError) -> api_pb2.Error:
    """Return the message of an error, of bounded size."""
    message = api_pb2.Error(kind=error.kind.value, message=status_message(error), hint=_cut(error.hint, _SENTENCE_MAX), leader=error.leader)
    for index, detail in enumerate(error.details):
        shown = api_pb2.Error.Detail(
            field=_cut(detail.field, _FIELD_MAX), problem=_cut(detail.problem, _FIELD_MAX), allowed=_cut(detail.allowed, _FIELD_MAX)
        )
        if message.ByteSize() + shown.ByteSize() > _ENCODED_MAX:
            message.details.add(problem=f"and {len(error.details) - index} more problems")
            break
        message.details.append(shown)
    return message


def error_from_wire(message: api_pb2.Error) -> GestaltError:
    """Return the error of a message. A kind of a newer version than ours counts as failed."""
    kind = Kind(message.kind) if message.kind in set(Kind) else Kind.FAILED
    details = [Detail(detail.field, detail.problem, detail.allowed) for detail in message.details]
    return GestaltError(kind, message.message, hint=message.hint, details=details, leader=message.leader)


def _cut(text: str, limit: int) -> str:
    """Return at most `limit` bytes of `text`, with an ellipsis when something is missing."""
    data = text.encode(errors="replace")
    return text if len(data) <= limit else data[: limit - 3].decode(errors="ignore") + "…"
