"""Conditions on attributes of nodes."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from gestalt.coordinator.scheduler.attributes import attributes, holds
from gestalt.spec.schema import Affinity, Constraint

FOUND = {
    "rack": "r1",
    "role": "edge,db",
    "memory": str(64 * 1024**3),
    "runtime.docker.version": "20.10.24+dfsg1",
    "slots": "10",
    "kernel": "5.14.0-503.el9",
}


@pytest.mark.parametrize(
    ("attribute", "operator", "value", "expected"),
    [
        ("rack", "=", "r1", True), ("rack", "=", "r2", False), ("zone", "=", "r1", False),
        ("rack", "!=", "r2", True), ("rack", "!=", "r1", False), ("zone", "!=", "r1", True),
        ("rack", "in", "r2, r1", True), ("rack", "in", "r2,r3", False), ("zone", "in", "r1", False),
        ("rack", "not-in", "r2,r3", True), ("rack", "not-in", "r1", False), ("zone", "not-in", "r1", True),
        ("role", "contains", "db", True), ("role", "contains", "db,edge", True), ("role", "contains", "db,dmz", False),
        ("zone", "contains", "db", False),
        ("rack", "matches", "r[0-9]", True), ("rack", "matches", "r", False), ("zone", "matches", ".*", False),
        ("rack", "not-matches", "r", True), ("rack", "not-matches", "r.", False), ("zone", "not-matches", ".*", True),
        ("rack", "exists", "", True), ("zone", "exists", "", False), ("rack", "missing", "", False), ("zone", "missing", "", True),
        ("slots", ">", "9", True), ("slots", ">=", "10", True), ("slots", "<", "10.5", True), ("slots", "<=", "9", False),
        ("memory", ">=", "64GiB", True), ("memory", ">", "64GiB", False), ("memory", "<", "1T", True), ("zone", "<", "5", False),
        ("kernel", ">=", "5.14", True), ("kernel", "<", "5.4.0", False), ("kernel", ">", "5.14.0-70.el9", True),
        ("runtime.docker.version", "version", ">= 20.10, < 27", True), ("runtime.docker.version", "version", "> 24", False),
        ("runtime.docker.version", "version", "20.10.24+dfsg1", True), ("zone", "version", ">= 1", False),
        ("slots", "version", ">= 9.0", True), ("slots", "version", "!= 10", False),
    ],
)  # fmt: skip
def test_a_condition_holds(attribute: str, operator: str, value: str, expected: bool) -> None:
    for kind in (Constraint, Affinity):
        assert holds(kind.model_validate({"attribute": attribute, "operator": operator, "value": value}), FOUND) is expected


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"attribute": "rack", "operator": "LIKE", "value": "r."}, {"attribute": "rack", "operator": "matches", "value": "r."}),
        ({"attribute": "rack", "operator": "UNLIKE", "value": "r."}, {"attribute": "rack", "operator": "not-matches", "value": "r."}),
        ({"attribute": "rack", "operator": "IS", "value": "r1"}, {"attribute": "rack", "operator": "=", "value": "r1"}),
        ({"attribute": "rack", "operator": "CLUSTER", "value": "r1"}, {"attribute": "rack", "operator": "=", "value": "r1"}),
        ({"attribute": "rack", "operator": "CLUSTER"}, {"attribute": "rack", "operator": "cluster"}),
        ({"attribute": "rack", "operator": "GROUP_BY", "value": "3"}, {"attribute": "rack", "operator": "group-by", "value": "3"}),
        ({"attribute": "rack", "operator": "MAX_PER", "value": "2"}, {"attribute": "rack", "operator": "max-per", "value": "2"}),
        ({"operator": "distinct_hosts"}, {"attribute": "node.name", "operator": "unique"}),
        ({"attribute": "rack", "operator": "distinct_property"}, {"attribute": "rack", "operator": "max-per"}),
        ({"attribute": "role", "operator": "set_contains", "value": "db"}, {"attribute": "role", "operator": "contains", "value": "db"}),
        ({"attribute": "rack", "operator": "is_set"}, {"attribute": "rack", "operator": "exists"}),
        ({"attribute": "cpu", "operator": "regexp", "value": "4"}, {"attribute": "cpu", "operator": "matches", "value": "4"}),
    ],
)
def test_the_words_of_others_are_understood(theirs: dict[str, str], ours: dict[str, str]) -> None:
    assert Constraint.model_validate(theirs) == Constraint.model_validate(ours)


@pytest.mark.parametrize(
    ("operator", "value", "allowed"),
    [
        ("max-per", "0", "whole number from 1"), ("max-per", "two", "whole number from 1"), ("max-per", "٣", "whole number from 1"),
        ("group-by", "-1", "whole number from 1"), ("group-by", "9" * 5000, "whole number from 1"),
        ("version", ">= ", "comparisons"), ("version", ",", "comparisons"), ("version", "=> 1", "comparisons"),
        ("unique", "1", "compares with nothing"), ("exists", "1", "compares with nothing"),
        ("not-matches", "(", "regular expression"), ("contains", "", "what contains compares with"), ("near", "r1", "unique"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_told(operator: str, value: str, allowed: str) -> None:
    with pytest.raises(ValidationError, match=allowed):
        Constraint.model_validate({"attribute": "rack", "operator": operator, "value": value})


@pytest.mark.parametrize("value", ["9" * 400 + "G", "9" * 5000, "1." + "9" * 5000, "0" * 5000 + "7"])
def test_numbers_may_be_of_any_length(value: str) -> None:
    for sign in ("<", ">="):
        holds(Constraint(attribute="slots", operator=sign, value=value), FOUND)
    for bound in (f">= {value}", f"< {value}"):
        holds(Constraint(attribute="slots", operator="version", value=bound), FOUND | {"slots": value})
    assert holds(Constraint(attribute="a", operator="version", value="> 9"), {"a": "10"})
    assert holds(Constraint(attribute="a", operator="version", value="= 1.007"), {"a": "1.7"})


def test_an_expression_that_takes_too_long_holds_nobody_up() -> None:
    endless = Constraint(attribute="rack", operator="matches", value="(a|a)*(a|a)*(a|a)*b")
    assert not holds(endless, {"rack": "a" * 255})


def test_affinities_distribute_nothing() -> None:
    with pytest.raises(ValidationError, match="operator"):
        Affinity.model_validate({"attribute": "rack", "operator": "unique"})


def test_labels_count_more_than_facts_but_nobody_takes_a_nodes_name() -> None:
    found = attributes("id-1", "n1", ("edge", "db"), {"os": "ours", "node.name": "other"}, {"os": "theirs", "kernel": "6"})
    assert found == {"os": "ours", "kernel": "6", "node.id": "id-1", "node.name": "n1", "role": "edge,db"}
