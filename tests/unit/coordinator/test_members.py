"""Who is let in and who is not: every way in which a token, a name or an id can be wrong."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from gestalt.coordinator.members import (
    KEPT,
    LIFETIME,
    Asked,
    Holding,
    admit_coordinator,
    admit_node,
    check_asked,
    check_removable,
    check_token,
    confirmed_dead,
    find_node,
    new_token,
    relabelled,
    stale_tokens,
)
from gestalt.coordinator.records import Coordinator, Node, Token
from gestalt.errors import GestaltError, Kind

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SECRET = "a-secret-that-nobody-guesses"
ID = "6f1c34f5-6e3e-4f43-9a4a-0c1c0b4d0a11"


def token(purpose: str = "node", lifetime: float = 0.0) -> Token:
    return new_token("t1", SECRET, purpose, lifetime, actor="admin", now=NOW)


def asked(purpose: str = "node", **fields: object) -> Asked:
    address = "10.0.0.2" if purpose == "node" else "10.0.0.2:7400"
    base = Asked(token="t1", secret=SECRET, purpose=purpose, id=ID, name="two", address=address)
    return replace(base, **fields)  # type: ignore[arg-type]


def refusal(kind: Kind, words: str, call: object) -> GestaltError:
    with pytest.raises(GestaltError, match=words) as told:
        call()  # type: ignore[operator]
    assert told.value.kind is kind
    return told.value


def test_a_token_holds_no_secret_and_lives_an_hour() -> None:
    made = token()
    assert SECRET not in repr(made)
    assert datetime.fromisoformat(made.expires_at) - NOW == timedelta(seconds=LIFETIME)
    check_token(made, asked(), NOW)


@pytest.mark.parametrize("lifetime", [-1.0, 0.5, 8 * 86400.0, float("nan"), float("inf")])
def test_a_token_lives_neither_too_short_nor_too_long(lifetime: float) -> None:
    refusal(Kind.INVALID, "too short or too long", lambda: token(lifetime=lifetime))


def test_a_token_is_for_something_that_we_know() -> None:
    refusal(Kind.INVALID, "node or coordinator", lambda: token("king"))


def test_who_does_not_know_the_secret_learns_nothing() -> None:
    expired = replace(token(), expires_at=(NOW - timedelta(hours=1)).isoformat(), used_by="x")
    for known in (None, expired):
        error = refusal(
            Kind.UNAUTHENTICATED, "not valid in this cluster", lambda known=known: check_token(known, asked(secret="guess"), NOW)
        )
        assert "gestaltctl node token" in error.hint


def test_an_expired_token_says_since_when() -> None:
    late = NOW + timedelta(seconds=LIFETIME)
    refusal(Kind.UNAUTHENTICATED, r"expired at 2026-11-21 13:00 UTC", lambda: check_token(token(), asked(), late))


def test_a_token_for_nodes_admits_no_coordinator_nor_the_reverse() -> None:
    refusal(Kind.REFUSED, "as node, not as coordinator", lambda: check_token(token(), asked("coordinator"), NOW))
    error = refusal(Kind.REFUSED, "as coordinator, not as node", lambda: check_token(token("coordinator"), asked(), NOW))
    assert "--coordinator" not in error.hint


def test_a_used_token_admits_the_same_machine_again_and_no_other() -> None:
    used = replace(token(), used_by=ID)
    check_token(used, asked(), NOW)
    refusal(Kind.REFUSED, "used already", lambda: check_token(used, asked(id=str(uuid.uuid4())), NOW))


def test_a_machine_that_asks_again_is_the_same_node() -> None:
    node = admit_node({}, token(), asked(roles=("edge", "edge"), labels={"rack": "b"}), "then")
    assert node == Node(ID, "two", address="10.0.0.2", roles=("edge",), labels={"rack": "b"}, joined_at="then")
    cordoned = replace(node, admin="cordoned")
    assert admit_node({ID: cordoned}, replace(token(), used_by=ID), asked(name="other"), "later") is cordoned


def test_a_removed_node_is_not_let_in_by_its_old_token() -> None:
    refusal(Kind.REFUSED, "was removed", lambda: admit_node({}, replace(token(), used_by=ID), asked(), ""))


def test_a_fresh_token_does_not_hand_over_an_identity() -> None:
    refusal(Kind.EXISTS, "is node two already", lambda: admit_node({ID: Node(ID, "two")}, token(), asked(), ""))


def test_no_two_nodes_share_a_name_even_when_one_is_lost() -> None:
    other = Node("other", "two", incarnation=3, lost=3)
    error = refusal(Kind.EXISTS, "a node called two", lambda: admit_node({other.id: other}, token(), asked(), ""))
    assert "gestaltctl node remove two" in error.hint


def test_coordinators_are_known_by_name() -> None:
    made = admit_coordinator({}, token("coordinator"), asked("coordinator", join_address="10.0.0.2:7401"), "then")
    assert made == Coordinator("two", "10.0.0.2:7400", "10.0.0.2:7401", "then")
    refusal(
        Kind.EXISTS, "a coordinator called two", lambda: admit_coordinator({"two": made}, token("coordinator"), asked("coordinator"), "")
    )
    used = replace(token("coordinator"), used_by=ID)
    assert admit_coordinator({"two": made}, used, asked("coordinator"), "") is made
    refusal(Kind.REFUSED, "was removed", lambda: admit_coordinator({}, used, asked("coordinator"), ""))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "-x"),
        ("name", "a" * 64),
        ("name", "two/../one"),
        ("id", "two"),
        ("id", ID.upper()),
        ("id", "../" + ID),
        ("address", ""),
        ("address", "host.example"),
        ("address", "0.0.0.0"),
        ("address", "10.0.0.2:7400"),
        ("roles", ("Edge",)),
        ("labels", {"": "x"}),
        ("labels", {"rack": "a\nb"}),
        ("labels", {f"k{number}": "" for number in range(65)}),
    ],
)
def test_what_a_machine_says_of_itself_is_checked(field: str, value: object) -> None:
    with pytest.raises(GestaltError) as told:
        check_asked(asked(**{field: value}))
    assert told.value.kind is Kind.INVALID
    assert told.value.details[0].field.split(".")[0] == field


@pytest.mark.parametrize(
    ("labels", "problem", "allowed"),
    [
        ({"rack": "a" * 257}, "labels.rack: has a value of 257 characters", "at most 256"),
        ({"r" * 64: "a"}, f"labels.{'r' * 64}: has a key of 64 characters", "at most 63"),
        ({"r" * 5000: "a"}, f"labels.{'r' * 80}…: has a key of 5000 characters", "at most 63"),
    ],
)
def test_how_long_labels_may_be_is_told(labels: dict[str, str], problem: str, allowed: str) -> None:
    check_asked(asked(labels={"r" * 63: "a" * 256}))
    for change in (lambda: check_asked(asked(labels=labels)), lambda: relabelled(Node(ID, "two"), labels, (), (), ())):
        with pytest.raises(GestaltError) as told:
            change()
        assert (told.value.kind, told.value.message, told.value.hint) == (Kind.INVALID, problem, f"allowed: {allowed}")
        assert told.value.details[0].allowed == allowed


@pytest.mark.parametrize("address", ["10.0.0.2", "10.0.0.2:0", "10.0.0.2:65536", "host:7400", ":7400"])
def test_a_coordinator_has_an_address_with_port(address: str) -> None:
    check_asked(asked("coordinator", join_address="[fd00::2]:7401"))
    with pytest.raises(GestaltError):
        check_asked(asked("coordinator", address=address))


def test_tokens_are_forgotten_a_while_after_their_end() -> None:
    end = NOW + timedelta(seconds=LIFETIME)
    assert stale_tokens([token()], end + KEPT) == []
    assert stale_tokens([token()], end + KEPT + timedelta(seconds=1)) == ["t1"]


def test_nodes_are_found_by_name_id_and_beginning_of_the_id() -> None:
    nodes = [Node(ID, "two"), Node("6f1c0000-0000", "three"), Node("x", "6f1c34f5")]
    assert find_node(nodes, "two").id == find_node(nodes, ID).id == find_node(nodes, "6f1c34").id == ID
    assert find_node(nodes, "6f1c34f5").id == "x", "a name counts before the beginning of an id"
    refusal(Kind.NOT_FOUND, "2 nodes", lambda: find_node(nodes, "6f1c"))
    refusal(Kind.NOT_FOUND, "no node 'four'", lambda: find_node(nodes, "four"))


def test_labels_and_roles_are_put_and_dropped() -> None:
    node = Node(ID, "two", roles=("dmz",), labels={"rack": "a", "disk": "hdd"})
    changed = relabelled(node, {"disk": "ssd"}, ["rack", "none"], ["edge"], ["dmz"])
    assert (changed.roles, changed.labels) == (("edge",), {"disk": "ssd"})
    refusal(Kind.INVALID, "rack is both", lambda: relabelled(node, {"rack": "b"}, ["rack"], [], []))


@pytest.mark.parametrize(("incarnation", "lost", "good"), [(0, 0, False), (3, 0, False), (4, 3, False), (3, 3, True)])
def test_only_a_lost_node_can_be_confirmed_dead(incarnation: int, lost: int, good: bool) -> None:
    node = Node(ID, "two", incarnation=incarnation, lost=lost)
    if good:
        assert confirmed_dead(node).confirmed == lost
    else:
        refusal(Kind.REFUSED, "is not lost", lambda: confirmed_dead(node))


def test_removal_spares_what_is_at_work() -> None:
    node, busy = Node(ID, "two", incarnation=3), Holding(("/a/b/c/web",))
    check_removable(node, "ready", Holding(), force=False)
    check_removable(node, "lost", busy, force=False)
    check_removable(node, "ready", busy, force=True)
    error = refusal(Kind.REFUSED, "is ready and has 1 app at work", lambda: check_removable(node, "ready", busy, force=False))
    assert "--force" in error.hint


def test_what_must_not_run_twice_needs_certainty_not_force() -> None:
    only, holding = Node(ID, "two", incarnation=3), Holding(("/a/b/c/db",), ("/a/b/c/db",))
    lost = replace(only, lost=3)
    for state, node in (("ready", only), ("lost", lost), ("unreachable", replace(lost, confirmed=2))):
        refusal(Kind.REFUSED, "must not run twice", lambda s=state, n=node: check_removable(n, s, holding, force=True))
    check_removable(replace(lost, confirmed=3), "lost", holding, force=False)
