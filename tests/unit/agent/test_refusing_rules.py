"""The rules that refuse a lost node: whom they name, what they admit, and that nothing else gets into them."""

from __future__ import annotations

import pytest

from gestalt.agent.firewall.ruleset import judge, render
from gestalt.model import Refused

OWN = "10.0.0.1"
ONE, TWO = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"


def test_a_node_is_named_with_what_it_may_reach() -> None:
    rules = render({ONE: Refused("10.0.0.2", 7, (7400, 2181)), TWO: Refused("fd00::2", 3)})
    assert f'set refused4 {{ type ipv4_addr; elements = {{ 10.0.0.2 comment "{ONE} 7" }} }}' in rules
    assert f'set refused6 {{ type ipv6_addr; elements = {{ fd00::2 comment "{TWO} 3" }} }}' in rules
    assert "elements = { 10.0.0.2 . 2181, 10.0.0.2 . 7400 }" in rules
    assert "set admitted6 { type ipv6_addr . inet_service; }" in rules


def test_what_replaces_the_table_removes_it_in_the_same_breath() -> None:
    assert render({}) == "table inet gestalt\ndelete table inet gestalt\n"
    assert render({ONE: Refused("10.0.0.2", 7)}).startswith(render({}))


def test_the_same_nodes_give_the_same_text() -> None:
    one, two = (ONE, Refused("10.0.0.2", 7, (1, 2))), (TWO, Refused("10.0.0.3", 7, (2, 1)))
    assert render(dict([one, two])) == render(dict([two, one]))


def test_two_nodes_of_one_address_are_one_element() -> None:
    rules = render({ONE: Refused("10.0.0.2", 7, (1,)), TWO: Refused("10.0.0.2", 8, (1,))})
    assert rules.count("10.0.0.2 comment") == 1


def test_an_address_in_other_clothes_is_what_it_is_on_the_wire() -> None:
    assert "refused4 { type ipv4_addr; elements = { 10.0.0.2 " in render({ONE: Refused("::ffff:10.0.0.2", 7)})


@pytest.mark.parametrize(
    "address", [OWN, f"::ffff:{OWN}", "127.0.0.2", "::1", "0.0.0.0", "224.0.0.1", "fe80::1%x; flush ruleset", "10.0.0.2; flush ruleset", ""]
)
def test_nobody_refuses_itself_or_nonsense(address: str) -> None:
    good, bad = judge({ONE: Refused(address, 7), TWO: Refused("10.0.0.2", 7)}, OWN)
    assert (set(good), set(bad)) == ({TWO}, {ONE})
