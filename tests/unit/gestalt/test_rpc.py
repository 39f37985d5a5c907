"""Errors survive the wire, and never become too large for it."""

from __future__ import annotations

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from gestalt.errors import Detail, GestaltError, Kind
from gestalt.rpc import decode_error, encode_error, kind_of, status_message, status_of


def _over_the_wire(error: GestaltError) -> GestaltError:
    code, metadata = encode_error(error)
    return decode_error(AioRpcError(code, Metadata(), Metadata(*metadata), details=status_message(error)))


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_survives_with_its_sentence_hint_and_details(kind: Kind) -> None:
    sent = GestaltError(kind, "no app /shop/web", hint="see `gestaltctl ps`", details=[Detail("apps[0].path", "is odd", "a path")])
    received = _over_the_wire(sent)
    assert (received.kind, received.message, received.hint, received.details) == (sent.kind, sent.message, sent.hint, sent.details)


def test_every_kind_has_a_status_code_of_its_own_that_leads_back_to_it() -> None:
    own = [kind for kind in Kind if kind is not Kind.NOT_LEADER]
    assert len({status_of(kind) for kind in own}) == len(own)
    assert [kind_of(status_of(kind)) for kind in own] == own


def test_a_coordinator_that_does_not_lead_says_who_does_and_is_unavailable_to_who_does_not_understand() -> None:
    refusal = GestaltError(Kind.NOT_LEADER, "this coordinator stands by", leader="10.0.0.2:7400")
    received = _over_the_wire(refusal)
    assert (received.kind, received.leader) == (Kind.NOT_LEADER, "10.0.0.2:7400")
    assert kind_of(status_of(Kind.NOT_LEADER)) is Kind.UNAVAILABLE


def test_an_error_that_is_not_ours_keeps_its_sentence() -> None:
    received = decode_error(AioRpcError(grpc.StatusCode.PERMISSION_DENIED, Metadata(), Metadata(), details="no"))
    assert (received.kind, received.message) == (Kind.REFUSED, "no")


def test_a_huge_error_is_cut_to_what_clients_accept_by_default() -> None:
    details = [Detail(f"env.NAME_{index}", "é" * 500, "x" * 500) for index in range(300)]
    error = GestaltError(Kind.INVALID, "ü" * 5000, hint="h" * 5000, details=details)
    _, metadata = encode_error(error)
    assert len(metadata[0][1]) * 4 / 3 + len(status_message(error).encode()) * 3 < 7500
    received = _over_the_wire(error)
    assert received.details[-1].problem.startswith("and 29")
    assert received.message.endswith("…")
