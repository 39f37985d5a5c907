"""A token's line: it comes back as it was, and nothing else passes for one."""

from __future__ import annotations

import base64
import json

import pytest

from gestalt.cluster.token import JoinToken, decode_token
from gestalt.errors import GestaltError, Kind

TOKEN = JoinToken("t1", "the-secret", "node", "c1", ("10.0.0.1:7401", "[fd00::2]:7401"), b"\x30\x82\xff\x00")


def line(**changes: object) -> str:
    document = json.loads(base64.urlsafe_b64decode(TOKEN.encode().removeprefix("gestalt1.") + "=="))
    return "gestalt1." + base64.urlsafe_b64encode(json.dumps(document | changes).encode()).decode().rstrip("=")


def test_a_token_is_one_line_and_comes_back_as_it_was() -> None:
    text = TOKEN.encode()
    assert text.isascii()
    assert len(text.split()) == 1
    assert decode_token(f"  {text}\n") == decode_token(line()) == TOKEN


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gestalt1.",
        "gestalt2." + TOKEN.encode().removeprefix("gestalt1."),
        TOKEN.encode()[:-9],
        TOKEN.encode().replace("e", "*", 3),
        "gestalt1." + base64.urlsafe_b64encode(b"[1, 2]").decode(),
        line(purpose="king"),
        line(addresses=[]),
        line(addresses=7),
        line(secret=""),
        line(id=3),
        line(ca="*"),
        line(more=1),
    ],
)
def test_what_is_no_whole_token_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(GestaltError, match="not a join token") as told:
        decode_token(text)
    assert told.value.kind is Kind.INVALID
    assert "the-secret" not in str(told.value.message)
