"""What an update section must not ask for: each with the field, what is wrong and what is allowed."""

from __future__ import annotations

import pytest

from gestalt.errors import GestaltError, Kind
from gestalt.spec.load import unhonoured, validate_spec, warnings

from .specs import SMALL, Document

CHECKED = {"ports": [{"name": "web", "container_port": 80}], "checks": [{"kind": "http", "grace": "30s"}]}


def canary(**fields: object) -> Document:
    return {"instances": 3, "update": {"strategy": "canary", **fields}}


@pytest.mark.parametrize(
    ("section", "field", "problem", "allowed"),
    [
        (
            {"update": {"max_surge": 0, "max_unavailable": "0%"}},
            "update.max_surge",
            "is 0, as max_unavailable is: no instance could ever be replaced",
            "one of both above 0",
        ),
        (
            {**CHECKED, "update": {"health_deadline": "30s"}},
            "update.health_deadline",
            "is 30s",
            "more than the longest grace of a check, 30s",
        ),
        (
            {"update": {"health_deadline": "10m"}},
            "update.progress_deadline",
            "is 5m",
            "at least health_deadline, 10m",
        ),
        (canary(canary=0), "update.canary", "is 0: nothing would try the new version", "a count from 1, or a percentage from 1%"),
        (canary(canary="0%"), "update.canary", "is 0%: nothing would try the new version", "a count from 1, or a percentage from 1%"),
        (canary(canary=4), "update.canary", "is 4, more than instances, 3", "1 to 3, or a percentage"),
        (canary(canary="110%"), "update.canary", "is '110%'", 'a count (1) or a percentage of the instances ("25%")'),
        (canary(promote="later"), "update.promote", "is 'later'", "manual, auto"),
        (canary(promote_after=0), "update.promote_after", "is 0", None),
        (
            canary(promote="auto"),
            "update.promote",
            "is auto, but there are no checks: nothing tells whether a canary is well",
            "manual, or checks",
        ),
        (
            {"update": {"strategy": "canary"}, "placement": {"exclusive": True}},
            "update.strategy",
            "is canary, but the app is exclusive: old and new cannot stand side by side",
            "rolling or recreate, which stop each old instance first",
        ),
        (
            {**canary(), "ports": [{"name": "web", "host_port": 80}]},
            "update.strategy",
            "is canary, but port web has a fixed host_port: old and new cannot stand side by side",
            "rolling or recreate, which stop each old instance first",
        ),
    ],
)
def test_what_an_update_must_not_ask_for(section: Document, field: str, problem: str, allowed: str | None) -> None:
    with pytest.raises(GestaltError) as caught:
        validate_spec({**SMALL, **section})
    assert caught.value.kind is Kind.INVALID
    (detail,) = caught.value.details
    assert (detail.field, detail.problem) == (field, problem)
    assert allowed is None or detail.allowed == allowed


@pytest.mark.parametrize(
    "section",
    [
        canary(canary=3),
        {**canary(canary=3), "instances": 0},
        canary(canary="100%"),
        canary(canary="1%"),
        {**canary(promote="auto", promote_after="30s"), **CHECKED},
    ],
)
def test_what_a_canary_may_be(section: Document) -> None:
    assert unhonoured(validate_spec({**SMALL, **section})) == ()


def test_what_only_a_canary_uses_is_told() -> None:
    found = warnings(validate_spec({**SMALL, "update": {"canary": "10%", "promote_after": "1m"}}))
    assert found == ("update.canary is not used by the strategy rolling", "update.promote_after is not used by the strategy rolling")
